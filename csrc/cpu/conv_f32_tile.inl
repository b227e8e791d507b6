// The float32 tile: kTileRows rows x two vectors of channels. The including file names the vector
// type, its lanes, the intrinsics' prefix and store(out, v, n), which writes the first n lanes.

namespace earmark::EARMARK_ISA {
namespace {

constexpr int kTileRows = EARMARK_ISA_TILES.f32.tile_rows;
constexpr int kLanes = EARMARK_LANES;
constexpr int kPanel = 2 * kLanes;
static_assert(kPanel == EARMARK_ISA_TILES.f32.panel);

template <int kRows>
EARMARK_FN void tile(const ConvCallF32& call, const float* const* rows, const float* weights,
                     int channel, const EpilogueF32& e, float* out, ptrdiff_t out_stride) {
  EARMARK_VECTOR acc[kRows][2];
  unroll<kRows>(EARMARK_UNROLLED(r) {
    acc[r.value][0] = EARMARK_V(set1_ps)(0.0f);
    acc[r.value][1] = EARMARK_V(set1_ps)(0.0f);
  });
  for (int tap = 0; tap < call.taps; ++tap) {
    const float* in[kRows];
    unroll<kRows>(EARMARK_UNROLLED(r) { in[r.value] = rows[r.value * call.taps + tap]; });
    for (int k = 0; k < call.c_in_padded; ++k, weights += kPanel) {
      const EARMARK_VECTOR w0 = EARMARK_V(loadu_ps)(weights);
      const EARMARK_VECTOR w1 = EARMARK_V(loadu_ps)(weights + kLanes);
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const EARMARK_VECTOR x = EARMARK_V(set1_ps)(in[r.value][k]);
        acc[r.value][0] = EARMARK_V(fmadd_ps)(x, w0, acc[r.value][0]);
        acc[r.value][1] = EARMARK_V(fmadd_ps)(x, w1, acc[r.value][1]);
      });
    }
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
  for (int p = call.panel_begin; p < call.panel_end; ++p) {
    const float* weights =
        call.weights + static_cast<ptrdiff_t>(p) * call.taps * call.c_in_padded * kPanel;
    const auto rows = [&](int r) { return call.rows + static_cast<ptrdiff_t>(r) * call.taps; };
    int r = 0;
    for (; r + kTileRows <= call.n_rows; r += kTileRows) {
      tile<kTileRows>(call, rows(r), weights, p * kPanel, e, out + r * out_stride, out_stride);
    }
    with_index<kTileRows - 1>(
        call.n_rows - r, EARMARK_UNROLLED(rest) {
          tile<rest.value>(call, rows(r), weights, p * kPanel, e, out + r * out_stride, out_stride);
        });
  }
}

}  // namespace earmark::EARMARK_ISA
