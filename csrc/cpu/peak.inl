// Register-only loops of independent multiply-accumulates: the most that this ISA can do. The
// instructions are written out, so that no compiler shortens them; kPeakChains of them cover their
// latency (up to 5 cycles, two a cycle).
//
// Included by kernel_row.cc, inside the ISA's namespace.

#if defined(__AVX512VNNI__) || defined(__AVX2__) || defined(__ARM_FEATURE_DOTPROD)

#if defined(__ARM_FEATURE_DOTPROD)
constexpr int kPeakChains = 24;  // up to four a cycle
#else
constexpr int kPeakChains = 12;
#endif

template <class Vector, class Step>
EARMARK_FN void run_chains(int64_t rounds, const Step& step) {
  struct {
    Vector sum[kPeakChains];
  } chain;
  unroll<kPeakChains>(EARMARK_UNROLLED(i) { chain.sum[i.value] = Vector{}; });
  for (int64_t round = 0; round < rounds; ++round) {
    unroll<kPeakChains>(EARMARK_UNROLLED(i) { step(chain.sum[i.value]); });
  }
}

#endif

#if defined(__AVX512VNNI__)

inline void peak_s8(int64_t rounds) {
  const __m512i x = _mm512_set1_epi8(85), w = _mm512_set1_epi8(-3);
  run_chains<__m512i>(
      rounds, [&](__m512i & sum) __attribute__((always_inline)) {
        asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
      });
}

inline void peak_f32(int64_t rounds) {
  const __m512 x = _mm512_set1_ps(1.0f), w = _mm512_set1_ps(0.5f);
  run_chains<__m512>(
      rounds, [&](__m512 & sum) __attribute__((always_inline)) {
        asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
      });
}

constexpr PeakLoop kPeakS8 = {"s8", 64 * kPeakChains, peak_s8};
constexpr PeakLoop kPeakF32 = {"f32", 16 * kPeakChains, peak_f32};

#elif defined(__AVX2__)

inline void peak_f32(int64_t rounds) {
  const __m256 x = _mm256_set1_ps(1.0f), w = _mm256_set1_ps(0.5f);
  run_chains<__m256>(
      rounds, [&](__m256 & sum) __attribute__((always_inline)) {
        asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
      });
}

constexpr PeakLoop kPeakF32 = {"f32", 8 * kPeakChains, peak_f32};

#if defined(__AVXVNNI__)

inline void peak_s8(int64_t rounds) {
  const __m256i x = _mm256_set1_epi8(85), w = _mm256_set1_epi8(-3);
  run_chains<__m256i>(
      rounds, [&](__m256i & sum) __attribute__((always_inline)) {
        asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
      });
}

constexpr PeakLoop kPeakS8 = {"s8", 32 * kPeakChains, peak_s8};

#else

// Both ways of conv_s8_avx2.cc multiply twice for 32 products, and have an addition besides.
inline void peak_s8(int64_t rounds) {
  const __m256i x = _mm256_set1_epi16(85), w = _mm256_set1_epi16(-3);
  run_chains<__m256i>(
      rounds, [&](__m256i & products) __attribute__((always_inline)) {
        asm volatile("vpmaddwd %2, %1, %0" : "=x"(products) : "x"(x), "x"(w));
      });
}

constexpr PeakLoop kPeakS8 = {"s8", 16 * kPeakChains, peak_s8};

#endif

#elif defined(__ARM_FEATURE_DOTPROD)

inline void peak_f32(int64_t rounds) {
  const float32x4_t x = vdupq_n_f32(1.0f), w = vdupq_n_f32(0.5f);
  run_chains<float32x4_t>(
      rounds, [&](float32x4_t & sum) __attribute__((always_inline)) {
        asm volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(sum) : "w"(x), "w"(w));
      });
}

constexpr PeakLoop kPeakF32 = {"f32", 4 * kPeakChains, peak_f32};

#if defined(__ARM_FEATURE_MATMUL_INT8)

inline void peak_s8(int64_t rounds) {
  const int8x16_t x = vdupq_n_s8(85), w = vdupq_n_s8(-3);
  run_chains<int32x4_t>(
      rounds, [&](int32x4_t & sum) __attribute__((always_inline)) {
        asm volatile("usmmla %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w));
      });
}

constexpr PeakLoop kPeakS8 = {"s8", 32 * kPeakChains, peak_s8};

#else

inline void peak_s8(int64_t rounds) {
  const int8x16_t x = vdupq_n_s8(85), w = vdupq_n_s8(-3);
  run_chains<int32x4_t>(
      rounds, [&](int32x4_t & sum) __attribute__((always_inline)) {
        asm volatile("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w));
      });
}

constexpr PeakLoop kPeakS8 = {"s8", 16 * kPeakChains, peak_s8};

#endif

#else  // plain C++: whatever the compiler makes of it, as for the scalar kernels

constexpr int kPeakLanes = 32;

template <class Sum>
EARMARK_FN void multiply_add(int64_t rounds) {
  volatile Sum opaque = 1;
  Sum sums[kPeakLanes] = {}, w[kPeakLanes];
  for (Sum& value : w) value = opaque;
  for (int64_t round = 0; round < rounds; ++round) {
    const Sum x = opaque;
    for (int i = 0; i < kPeakLanes; ++i) sums[i] += x * w[i];
  }
  for (const Sum sum : sums) opaque = sum;
}

inline void peak_s8(int64_t rounds) { multiply_add<uint32_t>(rounds); }
inline void peak_f32(int64_t rounds) { multiply_add<float>(rounds); }

constexpr PeakLoop kPeakS8 = {"s8", kPeakLanes, peak_s8};
constexpr PeakLoop kPeakF32 = {"f32", kPeakLanes, peak_f32};

#endif
