// The float32 tile: kTileRows rows x two vectors of channels. The including file names the vector
// type, its lanes, the intrinsics' prefix, and load(p, n) and store(p, v, n) of the first n lanes.

namespace earmark::EARMARK_ISA {
namespace {

constexpr int kTileRows = EARMARK_ISA_TILES.f32.tile_rows;
constexpr int kLanes = EARMARK_LANES;
constexpr int kPanel = 2 * kLanes;
constexpr int kBlockDepth = EARMARK_ISA_TILES.f32.block_depth;
static_assert(kPanel == EARMARK_ISA_TILES.f32.panel);

// Inputs [begin, end) of taps [tap_begin, tap_end), which lie one after another in the weights.
struct DepthBlock {
  int tap_begin, tap_end;
  int begin, end;
  bool first, last;
};

// Blocks of at most `limit` inputs: several whole taps, or a part of one.
template <class Body>
EARMARK_FN void for_each_block(const DepthBlock& whole, int limit, const Body& body) {
  const int depth = whole.end - whole.begin;
  const int taps = depth < limit ? limit / depth : 1;
  for (int tap = whole.tap_begin; tap < whole.tap_end; tap += taps) {
    const int tap_end = tap + taps < whole.tap_end ? tap + taps : whole.tap_end;
    for (int begin = whole.begin; begin < whole.end; begin += limit) {
      const int end = begin + limit < whole.end ? begin + limit : whole.end;
      body({tap, tap_end, begin, end, whole.first && tap == whole.tap_begin && begin == whole.begin,
            whole.last && tap_end == whole.tap_end && end == whole.end});
    }
  }
}

// Each block is summed by itself; between blocks the sums are in `out`.
template <int kRows>
EARMARK_FN void tile(const ConvCallF32& call, const DepthBlock& block, const float* const* rows,
                     const float* weights, int channel, const EpilogueF32& e, float* out,
                     ptrdiff_t out_stride) {
  EARMARK_VECTOR acc[kRows][2];
  unroll<2>(EARMARK_UNROLLED(j) {
    unroll<kRows>(EARMARK_UNROLLED(r) { acc[r.value][j.value] = EARMARK_V(set1_ps)(0.0f); });
  });
  weights += (static_cast<ptrdiff_t>(block.tap_begin) * call.c_in_padded + block.begin) * kPanel;
  for (int tap = block.tap_begin; tap < block.tap_end; ++tap) {
    const float* in[kRows];
    unroll<kRows>(EARMARK_UNROLLED(r) { in[r.value] = rows[r.value * call.taps + tap]; });
    for (int k = block.begin; k < block.end; ++k, weights += kPanel) {
      const EARMARK_VECTOR w0 = EARMARK_V(loadu_ps)(weights);
      const EARMARK_VECTOR w1 = EARMARK_V(loadu_ps)(weights + kLanes);
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const EARMARK_VECTOR x = EARMARK_V(set1_ps)(in[r.value][k]);
        acc[r.value][0] = EARMARK_V(fmadd_ps)(x, w0, acc[r.value][0]);
        acc[r.value][1] = EARMARK_V(fmadd_ps)(x, w1, acc[r.value][1]);
      });
    }
  }
  if (!block.first) {
    unroll<2>(EARMARK_UNROLLED(j) {
      const int c = channel + j.value * kLanes;
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const EARMARK_VECTOR before = load(out + r.value * out_stride + c, call.c_out - c);
        acc[r.value][j.value] = EARMARK_V(add_ps)(acc[r.value][j.value], before);
      });
    });
  }
  if (!block.last) {
    unroll<2>(EARMARK_UNROLLED(j) {
      const int c = channel + j.value * kLanes;
      unroll<kRows>(EARMARK_UNROLLED(r) {
        store(out + r.value * out_stride + c, acc[r.value][j.value], call.c_out - c);
      });
    });
    return;
  }
  const EARMARK_VECTOR floor = EARMARK_V(set1_ps)(e.relu ? 0.0f : -__builtin_inff());
  unroll<2>(EARMARK_UNROLLED(j) {
    const int c = channel + j.value * kLanes;
    const EARMARK_VECTOR offset = EARMARK_V(loadu_ps)(e.offset + c);
    const EARMARK_VECTOR gain =
        e.gain == nullptr ? EARMARK_V(set1_ps)(1.0f) : EARMARK_V(loadu_ps)(e.gain + c);
    const EARMARK_VECTOR shift =
        e.gain == nullptr ? EARMARK_V(set1_ps)(0.0f) : EARMARK_V(loadu_ps)(e.shift + c);
    unroll<kRows>(EARMARK_UNROLLED(r) {
      const EARMARK_VECTOR v =
          EARMARK_V(max_ps)(EARMARK_V(add_ps)(acc[r.value][j.value], offset), floor);
      store(out + r.value * out_stride + c, EARMARK_V(fmadd_ps)(v, gain, shift), call.c_out - c);
    });
  });
}

}  // namespace

void conv_f32(const ConvCallF32& call, const EpilogueF32& e, float* out, ptrdiff_t out_stride) {
  last_kernel = "conv_f32/" EARMARK_ISA_NAME;
  const DepthBlock whole = {0, call.taps, 0, call.c_in_padded, true, true};
  for_each_block(
      whole, kBlockDepth, [&](const DepthBlock& cached) __attribute__((always_inline)) {
        for (int p = call.panel_begin; p < call.panel_end; ++p) {
          const float* weights =
              call.weights + static_cast<ptrdiff_t>(p) * call.taps * call.c_in_padded * kPanel;
          const auto run = [&](auto n, int r) __attribute__((always_inline)) {
            for_each_block(
                cached, kSumDepth, [&](const DepthBlock& block) __attribute__((always_inline)) {
                  tile<n.value>(call, block, call.rows + static_cast<ptrdiff_t>(r) * call.taps,
                                weights, p * kPanel, e, out + r * out_stride, out_stride);
                });
          };
          int r = 0;
          for (; r + kTileRows <= call.n_rows; r += kTileRows) run(Index<kTileRows>{}, r);
          with_index<kTileRows - 1>(call.n_rows - r, EARMARK_UNROLLED(rest) { run(rest, r); });
        }
      });
}

}  // namespace earmark::EARMARK_ISA
