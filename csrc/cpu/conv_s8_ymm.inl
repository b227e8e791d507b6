// What int8 tiles of ymm registers have in common, for AVX2 and AVX-VNNI.
#include <immintrin.h>

#include <cstring>

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
EARMARK_FN Ints broadcast_4_bytes(const void* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return _mm256_set1_epi32(bytes);
}
EARMARK_FN void store_ints(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

EARMARK_FN Ints to_ints(__m256 v) { return _mm256_cvtps_epi32(v); }

// Each q + z fits a byte, and q an int16.
constexpr int kStored = 2;
EARMARK_FN void store_bytes(uint8_t* out, const Ints (&q)[kStored], int z, int n) {
  const Ints mixed = _mm256_packs_epi32(q[0], q[1]);  // in lanes of 4: 0 2 1 3
  const Ints words = _mm256_add_epi16(_mm256_permute4x64_epi64(mixed, 0xD8), _mm256_set1_epi16(z));
  const __m128i bytes =
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  if (n >= 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
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
