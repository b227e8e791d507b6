// Softmax over time with its three numerators: exp, a piecewise-linear function, a table. Inside
// attentive pooling, channels side by side in int8 and float32, and alone, over contiguous rows.
// Included by kernel_row.cc behind frame_kernels.inl.
//
// Numerators are the scalar functions of core/softmax.h, vectorised by the compiler, into a block
// that stays in the L1 cache; sums are over vectors of the ISA's width, for left to the compiler
// their accumulators would be spilled.

// GCC 12 converts vectors of bytes one by one, hence the intrinsics.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
using Lanes = int32_t __attribute__((vector_size(kVectorBytes)));
EARMARK_FN Lanes load_bytes(const uint8_t* p) {
  return reinterpret_cast<Lanes>(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
using Lanes = int32_t __attribute__((vector_size(kVectorBytes)));
EARMARK_FN Lanes load_bytes(const uint8_t* p) {
  return reinterpret_cast<Lanes>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#else
constexpr int kVectorBytes = 16;
using Lanes = int32_t __attribute__((vector_size(kVectorBytes)));
#if defined(__ARM_NEON)
EARMARK_FN Lanes load_bytes(const uint8_t* p) {
  uint32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)));
  return reinterpret_cast<Lanes>(vmovl_u16(vget_low_u16(words)));
}
#else
EARMARK_FN Lanes load_bytes(const uint8_t* p) { return Lanes{p[0], p[1], p[2], p[3]}; }
#endif
#endif
using FloatLanes = float __attribute__((vector_size(kVectorBytes)));
using HalfLanes = float __attribute__((vector_size(kVectorBytes / 2)));
using DoubleLanes = double __attribute__((vector_size(kVectorBytes)));
constexpr int kLanes = kVectorBytes / 4;

template <class Vector, class T>
EARMARK_FN Vector load(const T* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Rows whose numerators exist at once.
constexpr int kBlock = 16;

// body(pwl, Index<kCount>{}) with the number of breakpoints known to the compiler where they are
// few, -1 else, and the pieces where it can see that nothing else writes them.
template <class Body>
EARMARK_FN void with_pieces(const PiecewiseLinear& pwl, const Body& body) {
  constexpr int kKnown = 4;
  if (pwl.count >= kKnown) return body(pwl, Index<-1>{});
  with_index<kKnown>(
      pwl.count + 1, EARMARK_UNROLLED(pieces) {
        constexpr int kPieces = pieces.value;
        float breakpoints[kKnown], slopes[kKnown], intercepts[kKnown];
        for (int i = 0; i < kPieces; ++i) {
          slopes[i] = pwl.slopes[i];
          intercepts[i] = pwl.intercepts[i];
          if (i + 1 < kPieces) breakpoints[i] = pwl.breakpoints[i];
        }
        const PiecewiseLinear local = {breakpoints, slopes,  intercepts,
                                       kPieces - 1, pwl.low, pwl.high};
        body(local, Index<kPieces - 1>{});
      });
}

static void max_s32(const int32_t* acc, int n_rows, int columns, int32_t* __restrict maximum) {
  EARMARK_RAN("max_s32");
  for (int r = 0; r < n_rows; ++r) {
    const int32_t* __restrict in = acc + static_cast<ptrdiff_t>(r) * columns;
    for (int c = 0; c < columns; ++c) maximum[c] = in[c] > maximum[c] ? in[c] : maximum[c];
  }
}

// Adds E, E*q and E*q*q with E = numerator(acc, column). E = 4096 * high + low with high <= 4096,
// so that each product is at most 2^26 and those of 16 rows fit int32.
template <class Numerator>
EARMARK_FN void add_moments_s8(const Numerator& numerator, const int32_t* acc, int n_rows,
                               int columns, const uint8_t* x, ptrdiff_t x_stride, int channels,
                               const Moments& m) {
  alignas(64) int32_t e[kBlock][kMaxPanel];
  for (int r0 = 0; r0 < n_rows; r0 += kBlock) {
    const int rows = n_rows - r0 < kBlock ? n_rows - r0 : kBlock;
    for (int r = 0; r < rows; ++r) {
      const int32_t* __restrict in = acc + static_cast<ptrdiff_t>(r0 + r) * columns;
      for (int c = 0; c < columns; ++c) e[r][c] = numerator(in[c], c);
    }
    for (int c0 = 0; c0 < channels; c0 += kLanes) {
      const int n = channels - c0 < kLanes ? channels - c0 : kLanes;
      Lanes sum = {}, low1 = {}, high1 = {}, low2 = {}, high2 = {};
      for (int r = 0; r < rows; ++r) {
        // All lanes, whatever n is: rows may be read past their end.
        const Lanes numerators = load<Lanes>(&e[r][c0]);
        const Lanes q = load_bytes(x + (r0 + r) * x_stride + c0) - 128;
        const Lanes square = q * q;
        const Lanes low = numerators & 4095;
        const Lanes high = numerators >> 12;
        sum += numerators;
        low1 += low * q;
        high1 += high * q;
        low2 += low * square;
        high2 += high * square;
      }
      for (int c = 0; c < n; ++c) {
        m.s0[c0 + c] += sum[c];
        m.s1[c0 + c] += static_cast<int64_t>(high1[c]) * 4096 + low1[c];
        m.s2[c0 + c] += static_cast<int64_t>(high2[c]) * 4096 + low2[c];
      }
    }
  }
}

static void softmax_moments_s8(const int32_t* acc, int n_rows, int columns, const int32_t* maximum,
                               const float* multiplier, const uint8_t* x, ptrdiff_t x_stride,
                               int channels, const Moments& m) {
  EARMARK_RAN("softmax_moments_s8");
  add_moments_s8(
      [=](int32_t sum, int c) __attribute__((always_inline)) {
        return exp_numerator(static_cast<float>(sum - maximum[c]) * multiplier[c]);
      },
      acc, n_rows, columns, x, x_stride, channels, m);
}

static void pwl_moments_s8(const int32_t* acc, int n_rows, int columns, const float* multiplier,
                           const float* offset, const PiecewiseLinear& pwl, const uint8_t* x,
                           ptrdiff_t x_stride, int channels, const Moments& m) {
  EARMARK_RAN("pwl_moments_s8");
  with_pieces(
      pwl, [&](const PiecewiseLinear& pieces, auto count) __attribute__((always_inline)) {
        add_moments_s8(
            [&](int32_t sum, int c) __attribute__((always_inline)) {
              return pwl_numerator<count.value>(
                  pieces, static_cast<float>(sum) * multiplier[c] + offset[c]);
            },
            acc, n_rows, columns, x, x_stride, channels, m);
      });
}

static void table_moments_s8(const int32_t* acc, int n_rows, int columns, const float* multiplier,
                             const float* offset, const LookupTable& table, const uint8_t* x,
                             ptrdiff_t x_stride, int channels, const Moments& m) {
  EARMARK_RAN("table_moments_s8");
  add_moments_s8(
      [=](int32_t sum, int c) __attribute__((always_inline)) {
        return table_numerator(table, static_cast<float>(sum) * multiplier[c] + offset[c]);
      },
      acc, n_rows, columns, x, x_stride, channels, m);
}

static void max_f32(const float* logits, int n_rows, int columns, int channels,
                    float* __restrict maximum) {
  EARMARK_RAN("max_f32");
  for (int r = 0; r < n_rows; ++r) {
    const float* __restrict in = logits + static_cast<ptrdiff_t>(r) * columns;
    for (int c = 0; c < channels; ++c) maximum[c] = in[c] > maximum[c] ? in[c] : maximum[c];
  }
}

// Adds e, e*x and e*x*x in float64 with e = numerator(logit, column), float32.
template <class Numerator>
EARMARK_FN void add_moments_f32(const Numerator& numerator, const float* logits, int n_rows,
                                int columns, const float* x, ptrdiff_t x_stride, int channels,
                                const MomentsF32& m) {
  constexpr int kDoubles = kLanes / 2;
  alignas(64) float e[kBlock][kMaxPanel];
  for (int r0 = 0; r0 < n_rows; r0 += kBlock) {
    const int rows = n_rows - r0 < kBlock ? n_rows - r0 : kBlock;
    for (int r = 0; r < rows; ++r) {
      const float* __restrict in = logits + static_cast<ptrdiff_t>(r0 + r) * columns;
      for (int c = 0; c < channels; ++c) e[r][c] = numerator(in[c], c);
    }
    int c0 = 0;
    for (; c0 + kDoubles <= channels; c0 += kDoubles) {
      auto s0 = load<DoubleLanes>(m.s0 + c0);
      auto s1 = load<DoubleLanes>(m.s1 + c0);
      auto s2 = load<DoubleLanes>(m.s2 + c0);
      for (int r = 0; r < rows; ++r) {
        const auto w = __builtin_convertvector(load<HalfLanes>(&e[r][c0]), DoubleLanes);
        const auto v =
            __builtin_convertvector(load<HalfLanes>(x + (r0 + r) * x_stride + c0), DoubleLanes);
        s0 += w;
        s1 += w * v;
        s2 += w * v * v;
      }
      std::memcpy(m.s0 + c0, &s0, sizeof s0);
      std::memcpy(m.s1 + c0, &s1, sizeof s1);
      std::memcpy(m.s2 + c0, &s2, sizeof s2);
    }
    for (; c0 < channels; ++c0) {
      for (int r = 0; r < rows; ++r) {
        const double w = e[r][c0];
        const double v = x[(r0 + r) * x_stride + c0];
        m.s0[c0] += w;
        m.s1[c0] += w * v;
        m.s2[c0] += w * v * v;
      }
    }
  }
}

static void softmax_moments_f32(const float* logits, int n_rows, int columns, const float* maximum,
                                const float* x, ptrdiff_t x_stride, int channels,
                                const MomentsF32& m) {
  EARMARK_RAN("softmax_moments_f32");
  add_moments_f32(
      [=](float v, int c) __attribute__((always_inline)) { return exp_f32(v - maximum[c]); },
      logits, n_rows, columns, x, x_stride, channels, m);
}

static void pwl_moments_f32(const float* logits, int n_rows, int columns,
                            const PiecewiseLinear& pwl, const float* x, ptrdiff_t x_stride,
                            int channels, const MomentsF32& m) {
  EARMARK_RAN("pwl_moments_f32");
  with_pieces(
      pwl, [&](const PiecewiseLinear& pieces, auto count) __attribute__((always_inline)) {
        add_moments_f32(
            [&](float v, int)
                __attribute__((always_inline)) { return pwl_f32<count.value>(pieces, v); },
            logits, n_rows, columns, x, x_stride, channels, m);
      });
}

static void table_moments_f32(const float* logits, int n_rows, int columns,
                              const LookupTable& table, const float* x, ptrdiff_t x_stride,
                              int channels, const MomentsF32& m) {
  EARMARK_RAN("table_moments_f32");
  add_moments_f32(
      [=](float v, int) __attribute__((always_inline)) {
        return table_value(table, v * table.scale + table.offset);
      },
      logits, n_rows, columns, x, x_stride, channels, m);
}

// Numerators are integers up to 2^24, exact in float32.
static void softmax_moments_s16(const float* logits, int n_rows, int columns, const float* maximum,
                                const float* x, ptrdiff_t x_stride, int channels,
                                const MomentsF32& m) {
  EARMARK_RAN("softmax_moments_s16");
  add_moments_f32(
      [=](float v, int c) __attribute__((always_inline)) {
        return static_cast<float>(exp_numerator(v - maximum[c]));
      },
      logits, n_rows, columns, x, x_stride, channels, m);
}

static void pwl_moments_s16(const float* logits, int n_rows, int columns,
                            const PiecewiseLinear& pwl, const float* x, ptrdiff_t x_stride,
                            int channels, const MomentsF32& m) {
  EARMARK_RAN("pwl_moments_s16");
  with_pieces(
      pwl, [&](const PiecewiseLinear& pieces, auto count) __attribute__((always_inline)) {
        add_moments_f32(
            [&](float v, int) __attribute__((always_inline)) {
              return static_cast<float>(pwl_numerator<count.value>(pieces, v));
            },
            logits, n_rows, columns, x, x_stride, channels, m);
      });
}

static void table_moments_s16(const float* logits, int n_rows, int columns,
                              const LookupTable& table, const float* x, ptrdiff_t x_stride,
                              int channels, const MomentsF32& m) {
  EARMARK_RAN("table_moments_s16");
  add_moments_f32(
      [=](float v, int)
          __attribute__((always_inline)) { return static_cast<float>(table_numerator(table, v)); },
      logits, n_rows, columns, x, x_stride, channels, m);
}

EARMARK_FN float sum_of(const float* x, int64_t n) {
  FloatLanes sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sums[j] += load<FloatLanes>(x + i + j * kLanes);
  }
  for (; i + kLanes <= n; i += kLanes) sums[0] += load<FloatLanes>(x + i);
  const FloatLanes all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float sum = 0.0f;
  for (; i < n; ++i) sum += x[i];
  for (int j = 0; j < kLanes; ++j) sum += all[j];
  return sum;
}

// NaN is passed over; exp brings it to light.
EARMARK_FN float max_of(const float* x, int64_t n) {
  float maximum = -__builtin_inff();
  int64_t i = 0;
  if (n >= kLanes) {
    auto most = load<FloatLanes>(x);
    for (i = kLanes; i + kLanes <= n; i += kLanes) {
      const auto v = load<FloatLanes>(x + i);
      most = v > most ? v : most;
    }
    for (int j = 0; j < kLanes; ++j) maximum = most[j] > maximum ? most[j] : maximum;
  }
  for (; i < n; ++i) maximum = x[i] > maximum ? x[i] : maximum;
  return maximum;
}

// out = numerator(x) over the sum of the row, or times `share_of_nothing` where that is 0; out may
// be x.
template <class Numerator>
EARMARK_FN void normalised_row(const Numerator& numerator, float share_of_nothing, const float* x,
                               float* out, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = numerator(x[i]);
  const float sum = sum_of(out, n);
  const float share = sum == 0.0f ? share_of_nothing : 1.0f / sum;
  for (int64_t i = 0; i < n; ++i) out[i] *= share;
}

static void softmax_f32(const float* x, float* out, int64_t rows, int64_t n) {
  EARMARK_RAN("softmax_f32");
  for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
    const float maximum = max_of(x, n);
    normalised_row(
        [=](float v) __attribute__((always_inline)) { return exp_f32(v - maximum); },
        __builtin_nanf(""), x, out, n);
  }
}

static void pwl_softmax_f32(const PiecewiseLinear& pwl, const float* x, float* out, int64_t rows,
                            int64_t n) {
  EARMARK_RAN("pwl_softmax_f32");
  with_pieces(
      pwl, [&](const PiecewiseLinear& pieces, auto count) __attribute__((always_inline)) {
        const auto numerator = [&](float v) __attribute__((always_inline)) {
          const float e = pwl_f32<count.value>(pieces, v);
          return v == -__builtin_inff() ? 0.0f : e;
        };
        for (int64_t r = 0; r < rows; ++r)
          normalised_row(numerator, 0.0f, x + r * n, out + r * n, n);
      });
}

static void table_softmax_f32(const LookupTable& table, const float* x, float* out, int64_t rows,
                              int64_t n) {
  EARMARK_RAN("table_softmax_f32");
  const auto numerator = [=](float v) __attribute__((always_inline)) {
    // A product, not a choice, which GCC would turn into a branch around the table.
    const float weight = v == -__builtin_inff() ? 0.0f : 1.0f;
    return table_value(table, v * table.scale + table.offset) * (v == v ? weight : v);
  };
  for (int64_t r = 0; r < rows; ++r) normalised_row(numerator, 0.0f, x + r * n, out + r * n, n);
}
