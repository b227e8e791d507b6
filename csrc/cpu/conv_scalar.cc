// Convolution tiles in plain C++: one row x kPanel channels. The reference in the library and the
// fallback on any processor.
#include "cpu/kernels.h"

namespace earmark::EARMARK_ISA {
namespace {

constexpr int kPanel = EARMARK_ISA_TILES.s8.panel;
static_assert(kPanel == EARMARK_ISA_TILES.f32.panel);

// sums[c] += x . w[c] over all taps of one row; weights are [input][kPanel].
template <class T, class W, class Sum>
EARMARK_FN void multiply(const ConvCall<T, W>& call, int row, int panel, Sum (&sums)[kPanel]) {
  const W* weights =
      call.weights + static_cast<ptrdiff_t>(panel) * call.taps * call.c_in_padded * kPanel;
  Sum part[kPanel] = {};
  int summed = 0;
  const auto flush = [&] {
    for (int c = 0; c < kPanel; ++c) {
      sums[c] += part[c];
      part[c] = 0;
    }
    summed = 0;
  };
  for (int tap = 0; tap < call.taps; ++tap) {
    const T* in = call.rows[static_cast<ptrdiff_t>(row) * call.taps + tap];
    for (int k = 0; k < call.c_in_padded; ++k, weights += kPanel) {
      const Sum x = in[k];
      for (int c = 0; c < kPanel; ++c) part[c] += x * static_cast<Sum>(weights[c]);
      if (++summed == kSumDepth) flush();
    }
  }
  flush();
}

EARMARK_FN int channels_of(int panel, int c_out) {
  const int rest = c_out - panel * kPanel;
  return rest < kPanel ? rest : kPanel;
}

// Calls store(channel, v) for the channels of a panel, v before the rounding to int8.
template <class Store>
EARMARK_FN void convolve_row(const ConvCallS8& call, const EpilogueS8& e, int row, int panel,
                             const Store& store) {
  int32_t acc[kPanel];
  for (int i = 0; i < kPanel; ++i) acc[i] = e.initial[panel * kPanel + i];
  multiply(call, row, panel, acc);
  for (int i = 0; i < channels_of(panel, call.c_out); ++i) {
    const int c = panel * kPanel + i;
    store(c, real_value(e, c, static_cast<float>(acc[i])));
  }
}

}  // namespace

void conv_s8(const ConvCallS8& call, const EpilogueS8& e, uint8_t* out, ptrdiff_t out_stride) {
  last_kernel = "conv_s8/" EARMARK_ISA_NAME;
  for (int p = call.panel_begin; p < call.panel_end; ++p) {
    for (int r = 0; r < call.n_rows; ++r) {
      convolve_row(call, e, r, p,
                   [&](int c, float v) { out[r * out_stride + c] = requantize_u8(v, e.zero_u8); });
    }
  }
}

void conv_s8_f32(const ConvCallS8& call, const EpilogueS8& e, float* out, ptrdiff_t out_stride) {
  last_kernel = "conv_s8_f32/" EARMARK_ISA_NAME;
  for (int p = call.panel_begin; p < call.panel_end; ++p) {
    for (int r = 0; r < call.n_rows; ++r) {
      convolve_row(call, e, r, p, [&](int c, float v) { out[r * out_stride + c] = v; });
    }
  }
}

void conv_acc_s8(const ConvCallS8& call, const int32_t* initial, int32_t* acc,
                 ptrdiff_t acc_stride) {
  last_kernel = "conv_acc_s8/" EARMARK_ISA_NAME;
  for (int p = call.panel_begin; p < call.panel_end; ++p) {
    for (int r = 0; r < call.n_rows; ++r) {
      int32_t sums[kPanel];
      for (int i = 0; i < kPanel; ++i) sums[i] = initial[p * kPanel + i];
      multiply(call, r, p, sums);
      int32_t* to = acc + r * acc_stride + (p - call.panel_begin) * kPanel;
      for (int i = 0; i < kPanel; ++i) to[i] = sums[i];
    }
  }
}

void conv_f32(const ConvCallF32& call, const EpilogueF32& e, float* out, ptrdiff_t out_stride) {
  last_kernel = "conv_f32/" EARMARK_ISA_NAME;
  for (int p = call.panel_begin; p < call.panel_end; ++p) {
    for (int r = 0; r < call.n_rows; ++r) {
      float sums[kPanel] = {};
      multiply(call, r, p, sums);
      for (int i = 0; i < channels_of(p, call.c_out); ++i) {
        const int c = p * kPanel + i;
        float v = sums[i] + e.offset[c];
        if (e.relu) v = v > 0.0f ? v : 0.0f;
        if (e.gain != nullptr) v = v * e.gain[c] + e.shift[c];
        out[r * out_stride + c] = v;
      }
    }
  }
}

}  // namespace earmark::EARMARK_ISA
