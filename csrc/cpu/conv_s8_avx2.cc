// One tile is kTileRows = 6 rows x kPanel = 16 channels: 12 accumulators, 2 weight and 1 broadcast
// register of 16 ymm. VPMADDUBSW would saturate (2 * 255 * 127 > 32767), so bytes are widened and
// VPMADDWD sums pairs exactly: the activations once per call into `scratch`, the weights as they
// are read.
#include <immintrin.h>

#include <cstring>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace earmark::EARMARK_ISA {
namespace {

constexpr int kTileRows = EARMARK_ISA_TILES.s8.tile_rows;
constexpr int kPanel = EARMARK_ISA_TILES.s8.panel;

EARMARK_FN __m256i broadcast_pair(const int16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return _mm256_set1_epi32(pair);
}

// The rows of the call, taps side by side, as int16: [n_rows][taps * c_in_padded].
EARMARK_FN const int16_t* widen_rows(const ConvCallS8& call) {
  int16_t* out = static_cast<int16_t*>(call.scratch);
  const uint8_t* const* tap = call.rows;
  for (ptrdiff_t i = 0; i < static_cast<ptrdiff_t>(call.n_rows) * call.taps; ++i, ++tap) {
    int k = 0;
    for (; k + 16 <= call.c_in_padded; k += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(*tap + k));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), _mm256_cvtepu8_epi16(bytes));
    }
    for (; k < call.c_in_padded; ++k) out[k] = (*tap)[k];
    out += call.c_in_padded;
  }
  return static_cast<const int16_t*>(call.scratch);
}

template <int kRows>
struct Accumulators {
  __m256i sum[kRows][2];
};

template <int kRows>
EARMARK_FN Accumulators<kRows> multiply(const int16_t* x, ptrdiff_t depth, const int8_t* weights,
                                        const int32_t* initial) {
  Accumulators<kRows> acc;
  unroll<2>(EARMARK_UNROLLED(j) {
    const auto* start = reinterpret_cast<const __m256i*>(initial + 8 * j.value);
    unroll<kRows>(EARMARK_UNROLLED(r) { acc.sum[r.value][j.value] = _mm256_loadu_si256(start); });
  });
  for (ptrdiff_t k = 0; k < depth; k += 2, weights += 2 * kPanel) {
    __m256i w[2];
    unroll<2>(EARMARK_UNROLLED(j) {
      const auto* bytes = reinterpret_cast<const __m128i*>(weights + 16 * j.value);
      w[j.value] = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes));
    });
    unroll<kRows>(EARMARK_UNROLLED(r) {
      const __m256i pair = broadcast_pair(x + r.value * depth + k);
      unroll<2>(EARMARK_UNROLLED(j) {
        acc.sum[r.value][j.value] =
            _mm256_add_epi32(acc.sum[r.value][j.value], _mm256_madd_epi16(pair, w[j.value]));
      });
    });
  }
  return acc;
}

// Writes the first n of 8 lanes as bytes.
EARMARK_FN void store_8(uint8_t* out, __m256i q, int n) {
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  const __m128i bytes = _mm_packus_epi16(words, words);
  if (n >= 8) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), bytes);
  } else {
    uint8_t lanes[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), bytes);
    for (int i = 0; i < n; ++i) out[i] = lanes[i];
  }
}

// Without ReLU the floor is -Inf; without an affine the gain is 1 and the shift 0, which change no
// bit.
template <int kRows>
EARMARK_FN void requantize(const EpilogueS8& e, int channel, int c_out,
                           const Accumulators<kRows>& acc, uint8_t* out, ptrdiff_t out_stride) {
  const __m256 floor = _mm256_set1_ps(e.relu ? 0.0f : -__builtin_inff());
  const __m256 low = _mm256_set1_ps(static_cast<float>(-e.zero_u8));
  const __m256 high = _mm256_set1_ps(static_cast<float>(255 - e.zero_u8));
  const __m256i zero = _mm256_set1_epi32(e.zero_u8);
  unroll<2>(EARMARK_UNROLLED(j) {
    const int c = channel + 8 * j.value;
    const __m256 multiplier = _mm256_loadu_ps(e.multiplier + c);
    const __m256 offset = _mm256_loadu_ps(e.offset + c);
    const __m256 gain = e.gain == nullptr ? _mm256_set1_ps(1.0f) : _mm256_loadu_ps(e.gain + c);
    const __m256 shift = e.gain == nullptr ? _mm256_set1_ps(0.0f) : _mm256_loadu_ps(e.shift + c);
    unroll<kRows>(EARMARK_UNROLLED(r) {
      __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(acc.sum[r.value][j.value]), multiplier);
      v = _mm256_max_ps(_mm256_add_ps(v, offset), floor);
      v = _mm256_add_ps(_mm256_mul_ps(v, gain), shift);
      v = _mm256_min_ps(_mm256_max_ps(v, low), high);
      v = _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __m256i q = _mm256_add_epi32(_mm256_cvttps_epi32(v), zero);
      store_8(out + r.value * out_stride + c, q, c_out - c);
    });
  });
}

template <class Tile>
EARMARK_FN void for_each_tile(const ConvCallS8& call, const Tile& tile) {
  const ptrdiff_t depth = static_cast<ptrdiff_t>(call.taps) * call.c_in_padded;
  const int16_t* x = widen_rows(call);
  for (int p = call.panel_begin; p < call.panel_end; ++p) {
    const int8_t* weights = call.weights + p * depth * kPanel;
    int r = 0;
    for (; r + kTileRows <= call.n_rows; r += kTileRows) {
      tile.template run<kTileRows>(x + r * depth, depth, r, p * kPanel, weights);
    }
    with_index<kTileRows - 1>(
        call.n_rows - r, EARMARK_UNROLLED(rest) {
          tile.template run<rest.value>(x + r * depth, depth, r, p * kPanel, weights);
        });
  }
}

struct RequantizedTile {
  const ConvCallS8& call;
  const EpilogueS8& epilogue;
  uint8_t* out;
  ptrdiff_t out_stride;

  template <int kRows>
  EARMARK_MEMBER void run(const int16_t* x, ptrdiff_t depth, int row, int channel,
                          const int8_t* weights) const {
    const Accumulators<kRows> acc = multiply<kRows>(x, depth, weights, epilogue.initial + channel);
    requantize<kRows>(epilogue, channel, call.c_out, acc, out + row * out_stride, out_stride);
  }
};

struct AccumulatorTile {
  const ConvCallS8& call;
  const int32_t* initial;
  int32_t* out;
  ptrdiff_t out_stride;

  template <int kRows>
  EARMARK_MEMBER void run(const int16_t* x, ptrdiff_t depth, int row, int channel,
                          const int8_t* weights) const {
    const Accumulators<kRows> acc = multiply<kRows>(x, depth, weights, initial + channel);
    int32_t* to = out + row * out_stride + channel - call.panel_begin * kPanel;
    unroll<kRows>(EARMARK_UNROLLED(r) {
      auto* lanes = reinterpret_cast<__m256i*>(to + r.value * out_stride);
      _mm256_storeu_si256(lanes, acc.sum[r.value][0]);
      _mm256_storeu_si256(lanes + 1, acc.sum[r.value][1]);
    });
  }
};

}  // namespace

void conv_s8(const ConvCallS8& call, const EpilogueS8& epilogue, uint8_t* out,
             ptrdiff_t out_stride) {
  last_kernel = "conv_s8/" EARMARK_ISA_NAME;
  for_each_tile(call, RequantizedTile{call, epilogue, out, out_stride});
}

void conv_acc_s8(const ConvCallS8& call, const int32_t* initial, int32_t* acc,
                 ptrdiff_t acc_stride) {
  last_kernel = "conv_acc_s8/" EARMARK_ISA_NAME;
  for_each_tile(call, AccumulatorTile{call, initial, acc, acc_stride});
}

}  // namespace earmark::EARMARK_ISA
