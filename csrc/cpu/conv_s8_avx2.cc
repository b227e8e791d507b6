// Two ways to an exact sum, chosen when the weights are packed (pack_paired.h), for VPMADDUBSW
// saturates: 2 * 255 * 127 > 32767.
//
// Paired: weights split so that no pair can saturate, and most groups of them matched so that two
// cannot either: twice VPMADDUBSW, VPADDW, VPMADDWD by ones and VPADDD for 64 products. Tiles of 4
// rows x 16 channels: 8 accumulators of 16 ymm, three of the four weights, two inputs, two sums of
// products, the ones.
//
// Widened: bytes become int16, activations once per call, weights as they are read. VPMADDWD and
// VPADDD for 16 products. Tiles of 6 rows x 16 channels.
#include "cpu/conv_s8_ymm.inl"

namespace earmark::EARMARK_ISA {
namespace {

EARMARK_FN __m128i load_16_bytes(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

static_assert(EARMARK_ISA_TILES.s8_paired.tile_rows * 4 == kPairedLine);

// Four bytes of each of four rows, side by side; of the next four groups one after another, `step`
// bytes apart.
EARMARK_FN void store_groups(const __m128i (&rows)[4], int step, uint8_t* out) {
  const __m128i a = _mm_unpacklo_epi32(rows[0], rows[1]), b = _mm_unpacklo_epi32(rows[2], rows[3]);
  const __m128i c = _mm_unpackhi_epi32(rows[0], rows[1]), d = _mm_unpackhi_epi32(rows[2], rows[3]);
  const auto store = [&](int group, __m128i bytes) __attribute__((always_inline)) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + group * step), bytes);
  };
  store(0, _mm_unpacklo_epi64(a, b));
  store(1, _mm_unpackhi_epi64(a, b));
  store(2, _mm_unpacklo_epi64(c, d));
  store(3, _mm_unpackhi_epi64(c, d));
}

// n inputs of four rows, and perhaps up to kReadSlack bytes behind them, whose lines the next tap
// overwrites or nobody reads.
EARMARK_FN void copy_pairings(const uint8_t* const (&in)[4], int n, int pairings, uint8_t* out) {
  const __m128i second = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  const __m128i third = _mm_setr_epi8(0, 3, 1, 2, 4, 7, 5, 6, 8, 11, 9, 10, 12, 15, 13, 14);
  const int step = pairings * kPairedLine;
  for (int k = 0; k < n; k += 16, out += 4 * step) {
    __m128i rows[4];
    unroll<4>(EARMARK_UNROLLED(r) { rows[r.value] = load_16_bytes(in[r.value] + k); });
    store_groups(rows, step, out);
    if (pairings == 1) continue;
    __m128i other[4];
    unroll<4>(EARMARK_UNROLLED(r) { other[r.value] = _mm_shuffle_epi8(rows[r.value], second); });
    store_groups(other, step, out + kPairedLine);
    unroll<4>(EARMARK_UNROLLED(r) { other[r.value] = _mm_shuffle_epi8(rows[r.value], third); });
    store_groups(other, step, out + 2 * kPairedLine);
  }
}

// Products of bytes, neighbours added. Weights that four rows share are held in registers where
// there are enough, which the compiler does not see by itself.
EARMARK_FN Ints multiply_pairs(Ints input, Ints weights) {
  Ints pairs;
  asm("vpmaddubsw %2, %1, %0" : "=x"(pairs) : "x"(input), "x"(weights));
  return pairs;
}
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

  static ptrdiff_t tap_bytes(const ConvCallS8& call) {
    return ptrdiff_t{call.c_in_padded} / 4 * call.pairings * kPairedLine;
  }
  static ptrdiff_t tile_bytes(const ConvCallS8& call) { return call.taps * tap_bytes(call); }

  // Where rows are missing in the last tile, its last one stands in for them.
  EARMARK_MEMBER static Paired copy(const ConvCallS8& call) {
    auto* partial = static_cast<int32_t*>(call.scratch);
    auto* lines = reinterpret_cast<uint8_t*>(partial + ptrdiff_t{call.n_rows} * kPanel);
    uint8_t* out = lines;
    for (int row = 0; row < call.n_rows; row += kTileRows) {
      const int last = call.n_rows - 1;
      for (int tap = 0; tap < call.taps; ++tap, out += tap_bytes(call)) {
        const uint8_t* in[kTileRows];
        unroll<kTileRows>(EARMARK_UNROLLED(r) {
          const int from = row + r.value < last ? row + r.value : last;
          in[r.value] = call.rows[ptrdiff_t{from} * call.taps + tap];
        });
        copy_pairings(in, call.c_in_padded, call.pairings, out);
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
    constexpr int kAhead = 4, kCacheLine = 64;
    static_assert(2 * kAhead + 1 < kOffsetSlack);
    const int steps = packed.doubles + packed.singles + packed.extra[0] + packed.extra[1];
    const int8_t* next = (&packed)[1].weights + row / kTileRows * steps * kCacheLine;
    const auto prefetch_weights = [&]() __attribute__((always_inline)) {
      _mm_prefetch(next, _MM_HINT_T1);
      next += kCacheLine;
    };
    constexpr int kGroup = kVectors * sizeof(Ints);
    const Ints ones = _mm256_set1_epi16(1);
    for (int g = 0; g < packed.doubles; ++g, weights += 2 * kGroup, offset += 2) {
      _mm_prefetch(in + offset[2 * kAhead], _MM_HINT_T0);
      _mm_prefetch(in + offset[2 * kAhead + 1], _MM_HINT_T0);
      prefetch_weights();
      const uint8_t* first = in + offset[0];
      const uint8_t* second = in + offset[1];
      const Ints w00 = load_ints(weights), w01 = load_ints(weights + sizeof(Ints));
      const Ints w10 = load_ints(weights + kGroup);
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const Ints a = broadcast_4_bytes(first + 4 * r.value);
        Ints p = multiply_pairs(a, w00), q = multiply_pairs(a, w01);
        const Ints b = broadcast_4_bytes(second + 4 * r.value);
        p = _mm256_add_epi16(p, multiply_pairs(b, w10));
        q = _mm256_add_epi16(q, multiply_pairs(b, weights + kGroup + sizeof(Ints)));
        Ints& sum0 = tile.sum[r.value][0];
        sum0 = _mm256_add_epi32(sum0, _mm256_madd_epi16(p, ones));
        Ints& sum1 = tile.sum[r.value][1];
        sum1 = _mm256_add_epi32(sum1, _mm256_madd_epi16(q, ones));
      });
    }
    const auto add = [&](Ints & to, Ints input, const int8_t* w) __attribute__((always_inline)) {
      to = _mm256_add_epi32(to, _mm256_madd_epi16(multiply_pairs(input, w), ones));
    };
    for (int g = 0; g < packed.singles; ++g, weights += kGroup) {
      prefetch_weights();
      const uint8_t* group = in + *offset++;
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const Ints input = broadcast_4_bytes(group + 4 * r.value);
        unroll<kVectors>(EARMARK_UNROLLED(j) {
          add(tile.sum[r.value][j.value], input, weights + sizeof(Ints) * j.value);
        });
      });
    }
    unroll<kVectors>(EARMARK_UNROLLED(j) {
      for (int g = 0; g < packed.extra[j.value]; ++g, weights += sizeof(Ints)) {
        prefetch_weights();
        const uint8_t* group = in + *offset++;
        unroll<kRows>(EARMARK_UNROLLED(r) {
          add(tile.sum[r.value][j.value], broadcast_4_bytes(group + 4 * r.value), weights);
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
