// NEON's vectors of four floats under the names by which the tiles call those of x86.
#pragma once

#include <arm_neon.h>

#include "core/quant.h"

namespace earmark {

EARMARK_FN float32x4_t neon_set1_ps(float v) { return vdupq_n_f32(v); }
EARMARK_FN float32x4_t neon_loadu_ps(const float* p) { return vld1q_f32(p); }
EARMARK_FN float32x4_t neon_cvtepi32_ps(int32x4_t v) { return vcvtq_f32_s32(v); }
EARMARK_FN float32x4_t neon_add_ps(float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); }
EARMARK_FN float32x4_t neon_mul_ps(float32x4_t a, float32x4_t b) { return vmulq_f32(a, b); }
EARMARK_FN float32x4_t neon_fmadd_ps(float32x4_t a, float32x4_t b, float32x4_t sum) {
  return vfmaq_f32(sum, a, b);
}
// The number where one of both is a NaN.
EARMARK_FN float32x4_t neon_max_ps(float32x4_t a, float32x4_t b) { return vmaxnmq_f32(a, b); }
EARMARK_FN float32x4_t neon_min_ps(float32x4_t a, float32x4_t b) { return vminnmq_f32(a, b); }

// The first n lanes.
EARMARK_FN float32x4_t neon_load_first(const float* p, int n) {
  if (n >= 4) return vld1q_f32(p);
  float lanes[4] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return vld1q_f32(lanes);
}
EARMARK_FN void neon_store_first(float* out, float32x4_t v, int n) {
  if (n >= 4) {
    vst1q_f32(out, v);
  } else {
    float lanes[4];
    vst1q_f32(lanes, v);
    for (int i = 0; i < n; ++i) out[i] = lanes[i];
  }
}

}  // namespace earmark
