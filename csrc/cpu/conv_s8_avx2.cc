// Two ways to an exact sum, chosen when the weights are packed (pack_paired.h), for VPMADDUBSW
// saturates: 2 * 255 * 127 > 32767.
//
// Paired: weights split so that no pair can saturate, and most groups of them matched so that two
// cannot either: twice VPMADDUBSW, VPADDW, VPMADDWD by ones and VPADDD for 64 products. Tiles of 5
// rows x 16 channels: 10 accumulators of 16 ymm, two inputs, the ones.
//
// Widened: bytes become int16, activations once per call, weights as they are read. VPMADDWD and
// VPADDD for 16 products. Tiles of 6 rows x 16 channels.
#include "cpu/conv_s8_ymm.inl"

namespace earmark::EARMARK_ISA {
namespace {

EARMARK_FN __m128i load_16_bytes(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

// Four inputs in three pairings.
constexpr int kPairings = 12;
static_assert(EARMARK_ISA_TILES.s8_paired.tile_rows * kPairings <= kPairedLine);

// out: where the row is in the line of its first group.
EARMARK_FN void copy_pairings(const uint8_t* in, int n, uint8_t* out) {
  const __m128i order = _mm_setr_epi8(0, 1, 2, 3, 0, 2, 1, 3, 0, 3, 1, 2, -1, -1, -1, -1);
  const __m128i four = _mm_setr_epi8(4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 0, 0, 0, 0);
  const auto copy = [&](__m128i bytes) __attribute__((always_inline)) {
    // Four bytes too many, which the next row overwrites or nobody reads.
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
    out += kPairedLine;
  };
  int k = 0;
  for (; k + 16 <= n; k += 16) {
    const __m128i bytes = load_16_bytes(in + k);
    __m128i group = order;
    for (int i = 0; i < 4; ++i, group = _mm_add_epi8(group, four)) {
      copy(_mm_shuffle_epi8(bytes, group));
    }
  }
  for (; k < n; k += 4) copy(_mm_shuffle_epi8(_mm_loadu_si32(in + k), order));
}

// Products of bytes, neighbours added. The weights stay in memory: 10 accumulators, the ones, two
// inputs and two products leave one register of 16, and GCC would spill an accumulator for more.
EARMARK_FN Ints multiply_pairs(Ints input, const int8_t* weights) {
  Ints pairs;
  asm("vpmaddubsw %2, %1, %0"
      : "=x"(pairs)
      : "x"(input), "m"(*reinterpret_cast<const __m256i_u*>(weights)));
  return pairs;
}

struct Paired {
  static constexpr int kTileRows = EARMARK_ISA_TILES.s8_paired.tile_rows;
  const ConvCallS8& call;
  int32_t* partial;  // [n_rows][kPanel], between the blocks of a panel
  const uint8_t* x;

  static ptrdiff_t tile_bytes(const ConvCallS8& call) {
    return static_cast<ptrdiff_t>(call.taps) * call.c_in_padded / 4 * kPairedLine;
  }

  EARMARK_MEMBER static Paired copy(const ConvCallS8& call) {
    auto* partial = static_cast<int32_t*>(call.scratch);
    auto* lines = reinterpret_cast<uint8_t*>(partial + ptrdiff_t{call.n_rows} * kPanel);
    for (int row = 0; row < call.n_rows; ++row) {
      uint8_t* out = lines + row / kTileRows * tile_bytes(call) + row % kTileRows * kPairings;
      for (int tap = 0; tap < call.taps; ++tap, out += call.c_in_padded / 4 * kPairedLine) {
        copy_pairings(call.rows[row * call.taps + tap], call.c_in_padded, out);
      }
    }
    return {call, partial, lines};
  }

  int blocks() const { return call.paired_blocks; }

  template <int kRows>
  EARMARK_MEMBER Tile<kRows> multiply(int row, int panel, int block, const int32_t* initial) const {
    int32_t* sums = partial + ptrdiff_t{row} * kPanel;
    Tile<kRows> tile = block == 0 ? start_at<kRows>(initial, 0) : start_at<kRows>(sums, kPanel);
    const uint8_t* in = x + row / kTileRows * tile_bytes(call);
    const PairedBlock& packed = call.paired[panel * call.paired_blocks + block];
    const int8_t* weights = packed.weights;
    const int32_t* offset = packed.offsets;
    // The processor does not foresee the order of the lines, and the first tile of a panel waits
    // for its weights: both are prefetched, the weights by the tiles of the block before.
    constexpr int kAhead = 4;
    static_assert(2 * kAhead + 1 < kOffsetSlack);
    const int8_t* next = (&packed)[1].weights + row / kTileRows * packed.doubles * kPairedLine;
    constexpr int kGroup = kVectors * sizeof(Ints);
    const Ints ones = _mm256_set1_epi16(1);
    for (int g = 0; g < packed.doubles; ++g, weights += 2 * kGroup, offset += 2) {
      _mm_prefetch(in + offset[2 * kAhead], _MM_HINT_T0);
      _mm_prefetch(in + offset[2 * kAhead + 1], _MM_HINT_T0);
      _mm_prefetch(next, _MM_HINT_T1);
      next += kPairedLine;
      const uint8_t* first = in + offset[0];
      const uint8_t* second = in + offset[1];
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const Ints a = broadcast_4_bytes(first + kPairings * r.value);
        const Ints b = broadcast_4_bytes(second + kPairings * r.value);
        unroll<kVectors>(EARMARK_UNROLLED(j) {
          const int8_t* w = weights + sizeof(Ints) * j.value;
          const Ints pairs = _mm256_add_epi16(multiply_pairs(a, w), multiply_pairs(b, w + kGroup));
          Ints& sum = tile.sum[r.value][j.value];
          sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        });
      });
    }
    const auto add = [&](Ints & to, Ints input, const int8_t* w) __attribute__((always_inline)) {
      to = _mm256_add_epi32(to, _mm256_madd_epi16(multiply_pairs(input, w), ones));
    };
    for (int g = 0; g < packed.singles; ++g, weights += kGroup) {
      const uint8_t* group = in + *offset++;
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const Ints input = broadcast_4_bytes(group + kPairings * r.value);
        unroll<kVectors>(EARMARK_UNROLLED(j) {
          add(tile.sum[r.value][j.value], input, weights + sizeof(Ints) * j.value);
        });
      });
    }
    unroll<kVectors>(EARMARK_UNROLLED(j) {
      for (int g = 0; g < packed.extra[j.value]; ++g, weights += sizeof(Ints)) {
        const uint8_t* group = in + *offset++;
        unroll<kRows>(EARMARK_UNROLLED(r) {
          add(tile.sum[r.value][j.value], broadcast_4_bytes(group + kPairings * r.value), weights);
        });
      }
    });
    if (block + 1 < call.paired_blocks) store_tile(tile, sums, kPanel);
    return tile;
  }
};

EARMARK_FN void widen(const uint8_t* in, int n, int16_t* out) {
  int k = 0;
  for (; k + 16 <= n; k += 16) store_ints(out + k, _mm256_cvtepu8_epi16(load_16_bytes(in + k)));
  for (; k < n; ++k) out[k] = in[k];
}

struct Widened {
  static constexpr int kTileRows = EARMARK_ISA_TILES.s8.tile_rows;
  const ConvCallS8& call;
  const int16_t* x;

  EARMARK_MEMBER static Widened copy(const ConvCallS8& call) {
    auto* out = static_cast<int16_t*>(call.scratch);
    const ptrdiff_t n = static_cast<ptrdiff_t>(call.n_rows) * call.taps;
    for (ptrdiff_t i = 0; i < n; ++i, out += call.c_in_padded) {
      widen(call.rows[i], call.c_in_padded, out);
    }
    return {call, static_cast<const int16_t*>(call.scratch)};
  }

  static constexpr int blocks() { return 1; }

  template <int kRows>
  EARMARK_MEMBER Tile<kRows> multiply(int row, int panel, int /*block*/,
                                      const int32_t* initial) const {
    Tile<kRows> tile = start_at<kRows>(initial, 0);
    const ptrdiff_t depth = static_cast<ptrdiff_t>(call.taps) * call.c_in_padded;
    const int16_t* in = x + row * depth;
    const int8_t* weights = call.weights + panel * depth * kVectors * 8;
    for (ptrdiff_t k = 0; k < depth; k += 2, weights += kVectors * 16) {
      Ints w[kVectors];
      unroll<kVectors>(EARMARK_UNROLLED(j) {
        w[j.value] = _mm256_cvtepi8_epi16(load_16_bytes(weights + 16 * j.value));
      });
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const Ints input = broadcast_4_bytes(in + r.value * depth + k);
        unroll<kVectors>(EARMARK_UNROLLED(j) {
          tile.sum[r.value][j.value] =
              _mm256_add_epi32(tile.sum[r.value][j.value], _mm256_madd_epi16(input, w[j.value]));
        });
      });
    }
    return tile;
  }
};

template <class Body>
EARMARK_FN void with_source(const ConvCallS8& call, const Body& body) {
  if (call.paired != nullptr) {
    body(Paired::copy(call));
  } else {
    body(Widened::copy(call));
  }
}

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_s8_entry.inl"
