// The AVX-512 instructions that the kernels use, by their definition, on GCC's generic vectors: so
// that the AVX-512 VNNI kernels are executed, not only compiled, by tests on any processor.
// Included in place of <immintrin.h>.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// Calls, not copies, in the kernels' unrolled loops: they would take minutes to compile.
#define EMULATED static __attribute__((noinline, unused))

namespace avx512_emulation {

struct __m512i {
  int32_t lane[16];
};
struct __m512 {
  float lane[16];
};
using __mmask16 = uint16_t;

template <class F>
inline __m512 each_f32(const F& f) {
  __m512 out;
  for (int i = 0; i < 16; ++i) out.lane[i] = f(i);
  return out;
}

template <class F>
inline __m512i each_s32(const F& f) {
  __m512i out;
  for (int i = 0; i < 16; ++i) out.lane[i] = f(i);
  return out;
}

EMULATED __m512i _mm512_loadu_si512(const void* p) {
  __m512i out;
  std::memcpy(&out, p, sizeof out);
  return out;
}
EMULATED void _mm512_storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, sizeof a); }
EMULATED __m512 _mm512_loadu_ps(const void* p) {
  __m512 out;
  std::memcpy(&out, p, sizeof out);
  return out;
}
EMULATED __m512i _mm512_set1_epi32(int32_t v) {
  return each_s32([&](int) { return v; });
}
EMULATED __m512 _mm512_set1_ps(float v) {
  return each_f32([&](int) { return v; });
}
EMULATED __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  return each_s32([&](int i) {
    return static_cast<int32_t>(static_cast<uint32_t>(a.lane[i]) +
                                static_cast<uint32_t>(b.lane[i]));
  });
}
// VPDPBUSD: four products of an unsigned byte of `a` and a signed byte of `b` are added to each
// lane, wrapping.
EMULATED __m512i _mm512_dpbusd_epi32(__m512i acc, __m512i a, __m512i b) {
  uint8_t u[64];
  int8_t s[64];
  std::memcpy(u, &a, sizeof u);
  std::memcpy(s, &b, sizeof s);
  return each_s32([&](int i) {
    uint32_t sum = static_cast<uint32_t>(acc.lane[i]);
    for (int k = 4 * i; k < 4 * i + 4; ++k) sum += static_cast<uint32_t>(u[k] * s[k]);
    return static_cast<int32_t>(sum);
  });
}
EMULATED __m512 _mm512_cvtepi32_ps(__m512i a) {
  return each_f32([&](int i) { return static_cast<float>(a.lane[i]); });
}
EMULATED __m512 _mm512_mul_ps(__m512 a, __m512 b) {
  return each_f32([&](int i) { return a.lane[i] * b.lane[i]; });
}
EMULATED __m512 _mm512_add_ps(__m512 a, __m512 b) {
  return each_f32([&](int i) { return a.lane[i] + b.lane[i]; });
}
EMULATED __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return each_f32([&](int i) { return std::fma(a.lane[i], b.lane[i], c.lane[i]); });
}
// The second operand where they are equal or one is NaN, as MAXPS and MINPS have it.
EMULATED __m512 _mm512_max_ps(__m512 a, __m512 b) {
  return each_f32([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
EMULATED __m512 _mm512_min_ps(__m512 a, __m512 b) {
  return each_f32([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}

constexpr int _MM_FROUND_TO_NEAREST_INT = 0;
constexpr int _MM_FROUND_NO_EXC = 8;

EMULATED __m512i _mm512_cvt_roundps_epi32(__m512 a, int /*nearest even, the only mode used*/) {
  return each_s32([&](int i) { return static_cast<int32_t>(std::nearbyintf(a.lane[i])); });
}
EMULATED void _mm512_mask_cvtepi32_storeu_epi8(void* p, __mmask16 mask, __m512i a) {
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) static_cast<uint8_t*>(p)[i] = static_cast<uint8_t>(a.lane[i]);
  }
}
EMULATED __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* p) {
  __m512 out = {};
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) std::memcpy(&out.lane[i], static_cast<const float*>(p) + i, sizeof(float));
  }
  return out;
}
EMULATED void _mm512_mask_storeu_ps(void* p, __mmask16 mask, __m512 a) {
  for (int i = 0; i < 16; ++i) {
    if (mask >> i & 1) std::memcpy(static_cast<float*>(p) + i, &a.lane[i], sizeof(float));
  }
}

}  // namespace avx512_emulation

#undef EMULATED

using namespace avx512_emulation;
