// One tile is 6 rows x 16 channels: 12 accumulators of 16 ymm. Two ways to an exact sum, chosen
// when the weights are packed (pack_paired.h), for VPMADDUBSW saturates: 2 * 255 * 127 > 32767.
//
// Paired: weights split so that no pair can saturate. VPMADDUBSW, VPMADDWD by ones and VPADDD for
// 32 products: two instructions of the multipliers for as many products as the other way has one
// for 16, and half its additions. 87 GMAC/s on Zen 3, where the other way reaches 74 (1024 -> 1024,
// benchmarks/test_kernels.py).
//
// Widened: bytes become int16, activations once per call, weights as they are read. VPMADDWD and
// VPADDD for 16 products.
#include "cpu/conv_s8_ymm.inl"

namespace earmark::EARMARK_ISA {
namespace {

// Rows of the call in scratch, taps side by side: copy(source, inputs, destination) for each tap,
// whose copy has `factor` elements for each input.
template <class T, class Copy>
EARMARK_FN const T* copy_rows(const ConvCallS8& call, int factor, const Copy& copy) {
  T* out = static_cast<T*>(call.scratch);
  const ptrdiff_t n = static_cast<ptrdiff_t>(call.n_rows) * call.taps;
  for (ptrdiff_t i = 0; i < n; ++i, out += factor * call.c_in_padded) {
    copy(call.rows[i], call.c_in_padded, out);
  }
  return static_cast<const T*>(call.scratch);
}

EARMARK_FN __m128i load_16_bytes(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}

// Four inputs 0 1 2 3 in the order of each pairing: 0 1 2 3, 0 2 1 3, 0 3 1 2.
EARMARK_FN void copy_pairings(const uint8_t* in, int n, uint8_t* out) {
  const __m128i order[3] = {
      _mm_setr_epi8(0, 1, 2, 3, 0, 2, 1, 3, 0, 3, 1, 2, 4, 5, 6, 7),
      _mm_setr_epi8(4, 6, 5, 7, 4, 7, 5, 6, 8, 9, 10, 11, 8, 10, 9, 11),
      _mm_setr_epi8(8, 11, 9, 10, 12, 13, 14, 15, 12, 14, 13, 15, 12, 15, 13, 14),
  };
  int k = 0;
  for (; k + 16 <= n; k += 16, out += 48) {
    const __m128i bytes = load_16_bytes(in + k);
    for (int i = 0; i < 3; ++i) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * i), _mm_shuffle_epi8(bytes, order[i]));
    }
  }
  for (; k < n; k += 4, out += 12) {
    const uint8_t a = in[k], b = in[k + 1], c = in[k + 2], d = in[k + 3];
    const uint8_t pairings[12] = {a, b, c, d, a, c, b, d, a, d, b, c};
    std::memcpy(out, pairings, sizeof pairings);
  }
}

// Products of bytes, neighbours added. The weights stay in memory: 12 accumulators, the ones, the
// input and a product leave one register of 16, and GCC would spill an accumulator for two weights.
EARMARK_FN Ints multiply_pairs(Ints input, const int8_t* weights) {
  Ints pairs;
  asm("vpmaddubsw %2, %1, %0"
      : "=x"(pairs)
      : "x"(input), "m"(*reinterpret_cast<const __m256i_u*>(weights)));
  return pairs;
}

struct Paired {
  const ConvCallS8& call;
  const uint8_t* x;

  template <int kRows>
  EARMARK_MEMBER Tile<kRows> multiply(int row, int panel, const int32_t* initial) const {
    Tile<kRows> tile = start_at<kRows>(initial);
    const ptrdiff_t stride = ptrdiff_t{3} * call.taps * call.c_in_padded;
    const uint8_t* in = x + row * stride;
    const PairedPanel& packed = call.paired[panel];
    const int8_t* weights = packed.weights;
    const int32_t* offset = packed.offsets;
    const Ints ones = _mm256_set1_epi16(1);
    const auto add = [&](Ints & to, Ints input, const int8_t* w) __attribute__((always_inline)) {
      to = _mm256_add_epi32(to, _mm256_madd_epi16(multiply_pairs(input, w), ones));
    };
    for (int g = 0; g < packed.groups; ++g, weights += kVectors * sizeof(Ints)) {
      const uint8_t* group = in + *offset++;
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const Ints input = broadcast_4_bytes(group + r.value * stride);
        unroll<kVectors>(EARMARK_UNROLLED(j) {
          add(tile.sum[r.value][j.value], input, weights + sizeof(Ints) * j.value);
        });
      });
    }
    unroll<kVectors>(EARMARK_UNROLLED(j) {
      for (int g = 0; g < packed.extra[j.value]; ++g, weights += sizeof(Ints)) {
        const uint8_t* group = in + *offset++;
        unroll<kRows>(EARMARK_UNROLLED(r) {
          add(tile.sum[r.value][j.value], broadcast_4_bytes(group + r.value * stride), weights);
        });
      }
    });
    return tile;
  }
};

EARMARK_FN void widen(const uint8_t* in, int n, int16_t* out) {
  int k = 0;
  for (; k + 16 <= n; k += 16) store_ints(out + k, _mm256_cvtepu8_epi16(load_16_bytes(in + k)));
  for (; k < n; ++k) out[k] = in[k];
}

struct Widened {
  const ConvCallS8& call;
  const int16_t* x;

  template <int kRows>
  EARMARK_MEMBER Tile<kRows> multiply(int row, int panel, const int32_t* initial) const {
    Tile<kRows> tile = start_at<kRows>(initial);
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
    body(Paired{call, copy_rows<uint8_t>(call, 3, copy_pairings)});
  } else {
    body(Widened{call, copy_rows<int16_t>(call, 1, widen)});
  }
}

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_s8_entry.inl"
