// The kernels that need no intrinsics: plain loops over channels, compiled once for each ISA with
// its flags and vectorised by the compiler. Included by kernel_row_<isa>.cc inside namespace
// earmark::<isa>, after EARMARK_ISA_NAME is defined. Integer results do not depend on how the loops
// are vectorised; float contraction is off.

#define EARMARK_RAN(op) (last_kernel = op "/" EARMARK_ISA_NAME)

static void range_f32(const float* x, ptrdiff_t x_stride, int n_rows, int channels, float* low,
                      float* high) {
  EARMARK_RAN("range_f32");
  constexpr int kLanes = 32;
  float lows[kLanes], highs[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    lows[i] = *low;
    highs[i] = *high;
  }
  for (int r = 0; r < n_rows; ++r) {
    const float* __restrict in = x + r * x_stride;
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      for (int i = 0; i < kLanes; ++i) {
        lows[i] = in[c + i] < lows[i] ? in[c + i] : lows[i];
        highs[i] = in[c + i] > highs[i] ? in[c + i] : highs[i];
      }
    }
    for (int i = 0; c + i < channels; ++i) {
      lows[i] = in[c + i] < lows[i] ? in[c + i] : lows[i];
      highs[i] = in[c + i] > highs[i] ? in[c + i] : highs[i];
    }
  }
  for (int i = 0; i < kLanes; ++i) {
    *low = lows[i] < *low ? lows[i] : *low;
    *high = highs[i] > *high ? highs[i] : *high;
  }
}

static void quantize_s8(const float* x, ptrdiff_t x_stride, uint8_t* q, ptrdiff_t q_stride,
                        int n_rows, int channels, const float* __restrict multiplier,
                        const float* __restrict offset, int zero_u8) {
  EARMARK_RAN("quantize_s8");
  for (int r = 0; r < n_rows; ++r) {
    const float* __restrict in = x + r * x_stride;
    uint8_t* __restrict out = q + r * q_stride;
    for (int c = 0; c < channels; ++c) {
      out[c] = requantize_u8(in[c] * multiplier[c] + offset[c], zero_u8);
    }
  }
}

static void quantize_s16(const float* x, ptrdiff_t x_stride, uint8_t* q, ptrdiff_t q_stride,
                         int n_rows, int channels, const float* __restrict multiplier,
                         const float* __restrict offset, int zero_u16) {
  EARMARK_RAN("quantize_s16");
  for (int r = 0; r < n_rows; ++r) {
    const float* __restrict in = x + r * x_stride;
    uint8_t* __restrict high = q + r * q_stride;
    uint8_t* __restrict low = high + channels;
    for (int c = 0; c < channels; ++c) {
      const int u = requantize_u16(in[c] * multiplier[c] + offset[c], zero_u16);
      high[c] = static_cast<uint8_t>(u >> 8);
      low[c] = static_cast<uint8_t>(u);
    }
  }
}

template <int kCount>
EARMARK_FN void combine_planes(const PlaneSums& p, const EpilogueS8& e, float* out,
                               ptrdiff_t out_stride, int n_rows, int channels) {
  for (int r = 0; r < n_rows; ++r) {
    float* __restrict y = out + r * out_stride;
    for (int c = 0; c < channels; ++c) {
      double sum = 0.0;
      for (int i = 0; i < kCount; ++i) sum += p.sums[i][r * p.stride + c] * p.factor[i];
      y[c] = real_value(e, c, static_cast<float>(sum));
    }
  }
}

static void combine_s16(const PlaneSums& p, const EpilogueS8& e, const LookupTable* table,
                        float* out, ptrdiff_t out_stride, int n_rows, int channels) {
  EARMARK_RAN("combine_s16");
  if (p.count == 1) {
    combine_planes<1>(p, e, out, out_stride, n_rows, channels);
  } else if (p.count == 2) {
    combine_planes<2>(p, e, out, out_stride, n_rows, channels);
  } else {
    combine_planes<4>(p, e, out, out_stride, n_rows, channels);
  }
  if (table == nullptr) return;
  for (int r = 0; r < n_rows; ++r) {
    float* y = out + r * out_stride;
    for (int c = 0; c < channels; ++c) y[c] = table_value(*table, y[c]);
  }
}

static void dequantize_f32(const uint8_t* q, ptrdiff_t q_stride, float* x, ptrdiff_t x_stride,
                           int n_rows, int channels, const float* __restrict multiplier,
                           int zero_u8) {
  EARMARK_RAN("dequantize_f32");
  for (int r = 0; r < n_rows; ++r) {
    const uint8_t* __restrict in = q + r * q_stride;
    float* __restrict out = x + r * x_stride;
    for (int c = 0; c < channels; ++c) out[c] = static_cast<float>(in[c] - zero_u8) * multiplier[c];
  }
}

static void affine_f32(const float* __restrict x, int channels, const float* __restrict multiplier,
                       const float* __restrict offset, float* __restrict y) {
  EARMARK_RAN("affine_f32");
  for (int c = 0; c < channels; ++c) y[c] = x[c] * multiplier[c] + offset[c];
}

static void add_s8(const Kernels::AddS8& p, const uint8_t* x, ptrdiff_t x_stride, const uint8_t* r,
                   ptrdiff_t r_stride, uint8_t* out, ptrdiff_t out_stride, int n_rows,
                   int channels) {
  EARMARK_RAN("add_s8");
  const float* __restrict multiplier = p.multiplier;
  const float low = requantize_low(p.out_zero_u8, p.relu);
  for (int row = 0; row < n_rows; ++row) {
    const uint8_t* a = x + row * x_stride;
    const uint8_t* b = r + row * r_stride;
    uint8_t* y = out + row * out_stride;  // may be a itself: element by element, so ivdep holds
#pragma GCC ivdep
    for (int c = 0; c < channels; ++c) {
      const float v = static_cast<float>(a[c] - p.x_zero_u8) * multiplier[c];
      const float w = static_cast<float>(b[c] - p.r_zero_u8) * p.residual_multiplier;
      y[c] = requantize_u8(v + w, low, p.out_zero_u8);
    }
  }
}

static void add_f32(const float* x, ptrdiff_t x_stride, const float* gate, const float* r,
                    ptrdiff_t r_stride, bool relu, float* out, ptrdiff_t out_stride, int n_rows,
                    int channels) {
  EARMARK_RAN("add_f32");
  for (int row = 0; row < n_rows; ++row) {
    const float* a = x + row * x_stride;
    const float* b = r + row * r_stride;
    float* y = out + row * out_stride;
    if (gate == nullptr) {
#pragma GCC ivdep
      for (int c = 0; c < channels; ++c) y[c] = a[c] + b[c];
    } else {
#pragma GCC ivdep
      for (int c = 0; c < channels; ++c) y[c] = a[c] * gate[c] + b[c];
    }
    if (!relu) continue;
    for (int c = 0; c < channels; ++c) y[c] = y[c] > 0.0f ? y[c] : 0.0f;
  }
}

template <class T>
static void max_pool(const T* const* rows, int taps, T* out, ptrdiff_t out_stride, int n_rows,
                     int channels) {
  for (int r = 0; r < n_rows; ++r, rows += taps) {
    T* __restrict y = out + r * out_stride;
    for (int c = 0; c < channels; ++c) y[c] = rows[0][c];
    for (int k = 1; k < taps; ++k) {
      const T* __restrict x = rows[k];
      for (int c = 0; c < channels; ++c) y[c] = x[c] > y[c] ? x[c] : y[c];
    }
  }
}

// u = q + 128 has the order of q.
static void max_pool_s8(const uint8_t* const* rows, int taps, uint8_t* out, ptrdiff_t out_stride,
                        int n_rows, int channels) {
  EARMARK_RAN("max_pool_s8");
  max_pool(rows, taps, out, out_stride, n_rows, channels);
}

static void max_pool_f32(const float* const* rows, int taps, float* out, ptrdiff_t out_stride,
                         int n_rows, int channels) {
  EARMARK_RAN("max_pool_f32");
  max_pool(rows, taps, out, out_stride, n_rows, channels);
}

// Channels in blocks that stay in registers or L1; int32 sums of at most kBlock rows, then int64.
static void stats_s8(const uint8_t* x, ptrdiff_t x_stride, int n_rows, int channels, int64_t* s1,
                     int64_t* s2) {
  EARMARK_RAN("stats_s8");
  constexpr int kBlock = 4096;  // 4096 * 128^2 = 2^26
  constexpr int kChannels = 64;
  for (int c0 = 0; c0 < channels; c0 += kChannels) {
    const int n = channels - c0 < kChannels ? channels - c0 : kChannels;
    for (int r0 = 0; r0 < n_rows; r0 += kBlock) {
      const int r1 = n_rows - r0 < kBlock ? n_rows : r0 + kBlock;
      int32_t sum[kChannels] = {};
      int32_t square[kChannels] = {};
      for (int r = r0; r < r1; ++r) {
        const uint8_t* __restrict in = x + r * x_stride + c0;
        for (int c = 0; c < n; ++c) {
          const int32_t q = in[c] - 128;
          sum[c] += q;
          square[c] += q * q;
        }
      }
      for (int c = 0; c < n; ++c) s1[c0 + c] += sum[c];
      if (s2 != nullptr) {
        for (int c = 0; c < n; ++c) s2[c0 + c] += square[c];
      }
    }
  }
}

static void stats_f32(const float* x, ptrdiff_t x_stride, int n_rows, int channels, double* s1,
                      double* s2) {
  EARMARK_RAN("stats_f32");
  for (int r = 0; r < n_rows; ++r) {
    const float* __restrict in = x + r * x_stride;
    for (int c = 0; c < channels; ++c) {
      const double v = in[c];
      s1[c] += v;
      if (s2 != nullptr) s2[c] += v * v;
    }
  }
}

static void table_s8(const int32_t* acc, ptrdiff_t acc_stride, const EpilogueS8& e,
                     const int8_t* table, int table_size, uint8_t* out, ptrdiff_t out_stride,
                     int n_rows, int channels) {
  EARMARK_RAN("table_s8");
  for (int r = 0; r < n_rows; ++r) {
    const int32_t* in = acc + r * acc_stride;
    uint8_t* y = out + r * out_stride;
    for (int c = 0; c < channels; ++c) {
      const int32_t i = table_index(real_value(e, c, static_cast<float>(in[c])), table_size);
      y[c] = static_cast<uint8_t>(table[i] + 128);
    }
  }
}

static void tanh_f32(float* x, ptrdiff_t x_stride, int n_rows, int channels) {
  EARMARK_RAN("tanh_f32");
  for (int r = 0; r < n_rows; ++r) {
    float* row = x + r * x_stride;
    for (int c = 0; c < channels; ++c) row[c] = earmark::tanh_f32(row[c]);
  }
}
