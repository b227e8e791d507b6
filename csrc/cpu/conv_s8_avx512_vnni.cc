// One tile is kTileRows = 6 rows x kPanel = 64 channels: 24 accumulators, 4 weight and 1 broadcast
// register of 32 zmm. VPDPBUSD multiplies u8 activations by s8 weights; four products are summed
// without saturation.
//
// All loops over the accumulators, zeroing and epilogue too, go through unroll.h, or they land on
// the stack.
#if defined(EARMARK_EMULATED)
#include "emulation/avx512.h"
#else
#include <immintrin.h>
#endif

#include <cstring>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace earmark::EARMARK_ISA {
namespace {

constexpr int kTileRows = EARMARK_ISA_TILES.s8.tile_rows;
constexpr int kPanel = EARMARK_ISA_TILES.s8.panel;
constexpr int kVectors = kPanel / 16;

EARMARK_FN __mmask16 lanes_below(int n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}

EARMARK_FN __m512i broadcast_4_bytes(const uint8_t* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

template <int kRows>
struct Accumulators {
  __m512i sum[kRows][kVectors];
};

template <int kRows>
EARMARK_FN Accumulators<kRows> multiply(const ConvCallS8& call, const uint8_t* const* rows,
                                        const int8_t* weights, const int32_t* initial) {
  Accumulators<kRows> acc;
  unroll<kVectors>(EARMARK_UNROLLED(j) {
    const __m512i start = _mm512_loadu_si512(initial + 16 * j.value);
    unroll<kRows>(EARMARK_UNROLLED(r) { acc.sum[r.value][j.value] = start; });
  });
  for (int tap = 0; tap < call.taps; ++tap) {
    const uint8_t* in[kRows];
    unroll<kRows>(EARMARK_UNROLLED(r) { in[r.value] = rows[r.value * call.taps + tap]; });
    for (int k = 0; k < call.c_in_padded; k += 4, weights += 4 * kPanel) {
      __m512i w[kVectors];
      unroll<kVectors>(
          EARMARK_UNROLLED(j) { w[j.value] = _mm512_loadu_si512(weights + 64 * j.value); });
      unroll<kRows>(EARMARK_UNROLLED(r) {
        const __m512i x = broadcast_4_bytes(in[r.value] + k);
        unroll<kVectors>(EARMARK_UNROLLED(j) {
          acc.sum[r.value][j.value] = _mm512_dpbusd_epi32(acc.sum[r.value][j.value], x, w[j.value]);
        });
      });
    }
  }
  return acc;
}

// The epilogue without ReLU or affine is the same one with a floor of -Inf, a gain of 1 and a shift
// of 0.
template <int kRows>
EARMARK_FN void requantize(const EpilogueS8& e, int channel, int c_out,
                           const Accumulators<kRows>& acc, uint8_t* out, ptrdiff_t out_stride) {
  const __m512 floor = _mm512_set1_ps(e.relu ? 0.0f : -__builtin_inff());
  const __m512 low = _mm512_set1_ps(static_cast<float>(-e.zero_u8));
  const __m512 high = _mm512_set1_ps(static_cast<float>(255 - e.zero_u8));
  const __m512i zero = _mm512_set1_epi32(e.zero_u8);
  unroll<kVectors>(EARMARK_UNROLLED(j) {
    const int c = channel + 16 * j.value;
    const __mmask16 mask = lanes_below(c_out - c);
    const __m512 multiplier = _mm512_loadu_ps(e.multiplier + c);
    const __m512 offset = _mm512_loadu_ps(e.offset + c);
    const __m512 gain = e.gain == nullptr ? _mm512_set1_ps(1.0f) : _mm512_loadu_ps(e.gain + c);
    const __m512 shift = e.gain == nullptr ? _mm512_set1_ps(0.0f) : _mm512_loadu_ps(e.shift + c);
    unroll<kRows>(EARMARK_UNROLLED(r) {
      __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(acc.sum[r.value][j.value]), multiplier);
      v = _mm512_max_ps(_mm512_add_ps(v, offset), floor);
      v = _mm512_add_ps(_mm512_mul_ps(v, gain), shift);
      v = _mm512_min_ps(_mm512_max_ps(v, low), high);
      const __m512i q = _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm512_mask_cvtepi32_storeu_epi8(out + r.value * out_stride + c, mask,
                                       _mm512_add_epi32(q, zero));
    });
  });
}

// Calls tile<kRows>(row, channel, weights) over all rows and panels, whole tiles first.
template <class Tile>
EARMARK_FN void for_each_tile(const ConvCallS8& call, const Tile& tile) {
  const ptrdiff_t panel_bytes = static_cast<ptrdiff_t>(call.taps) * call.c_in_padded * kPanel;
  for (int p = call.panel_begin; p < call.panel_end; ++p) {
    const int8_t* weights = call.weights + p * panel_bytes;
    int r = 0;
    for (; r + kTileRows <= call.n_rows; r += kTileRows) {
      tile.template run<kTileRows>(r, p * kPanel, weights);
    }
    with_index<kTileRows - 1>(
        call.n_rows - r,
        EARMARK_UNROLLED(rest) { tile.template run<rest.value>(r, p * kPanel, weights); });
  }
}

struct RequantizedTile {
  const ConvCallS8& call;
  const EpilogueS8& epilogue;
  uint8_t* out;
  ptrdiff_t out_stride;

  template <int kRows>
  EARMARK_MEMBER void run(int row, int channel, const int8_t* weights) const {
    const Accumulators<kRows> acc =
        multiply<kRows>(call, call.rows + static_cast<ptrdiff_t>(row) * call.taps, weights,
                        epilogue.initial + channel);
    requantize<kRows>(epilogue, channel, call.c_out, acc, out + row * out_stride, out_stride);
  }
};

struct AccumulatorTile {
  const ConvCallS8& call;
  const int32_t* initial;
  int32_t* out;
  ptrdiff_t out_stride;

  template <int kRows>
  EARMARK_MEMBER void run(int row, int channel, const int8_t* weights) const {
    const Accumulators<kRows> acc = multiply<kRows>(
        call, call.rows + static_cast<ptrdiff_t>(row) * call.taps, weights, initial + channel);
    int32_t* to = out + row * out_stride + channel - call.panel_begin * kPanel;
    unroll<kRows>(EARMARK_UNROLLED(r) {
      unroll<kVectors>(EARMARK_UNROLLED(j) {
        _mm512_storeu_si512(to + r.value * out_stride + 16 * j.value, acc.sum[r.value][j.value]);
      });
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
