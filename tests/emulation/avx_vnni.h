// The one instruction of AVX-VNNI that the kernels use, by its definition, on AVX2: so that those
// kernels are executed, not only compiled, by tests on processors without it.
#pragma once

#include <immintrin.h>

// VPDPBUSD: four products of an unsigned byte of `a` and a signed byte of `b` are added to each
// lane, wrapping. Even and odd bytes are multiplied apart, for the sum of a pair may not fit int16.
static inline __m256i emulated_dpbusd(__m256i acc, __m256i a, __m256i b) {
  const __m256i low = _mm256_set1_epi16(0xff);
  const __m256i even =
      _mm256_madd_epi16(_mm256_and_si256(a, low), _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}

#define _mm256_dpbusd_avx_epi32 emulated_dpbusd
