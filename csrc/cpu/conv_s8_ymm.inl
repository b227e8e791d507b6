// What int8 tiles of ymm registers have in common, for AVX2 and AVX-VNNI.
#include <immintrin.h>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

#define EARMARK_VECTOR __m256
#define EARMARK_V(op) _mm256_##op

namespace earmark::EARMARK_ISA {
namespace {

using Ints = __m256i;

EARMARK_FN Ints load_ints(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
EARMARK_FN void store_ints(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

EARMARK_FN Ints to_ints(__m256 v) { return _mm256_cvtps_epi32(v); }

EARMARK_FN void store_bytes(uint8_t* out, Ints v, int n) {
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i bytes = _mm_packus_epi16(words, words);
  if (n >= 8) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), bytes);
  } else {
    uint8_t lanes[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(lanes), bytes);
    for (int i = 0; i < n; ++i) out[i] = lanes[i];
  }
}

EARMARK_FN void store_floats(float* out, __m256 v, int n) {
  if (n >= 8) {
    _mm256_storeu_ps(out, v);
  } else {
    float lanes[8];
    _mm256_storeu_ps(lanes, v);
    for (int i = 0; i < n; ++i) out[i] = lanes[i];
  }
}

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_s8_tile.inl"
