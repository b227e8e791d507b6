// Softmax numerators: 2^24 * exp(d) for d <= 0, and piecewise-linear functions in its place.
#pragma once

#include <cstring>

#include "core/quant.h"

namespace earmark {

inline constexpr float kNumeratorOne = 16777216.0f;  // 2^24

// 2^f on [-1/2, 1/2], relative error below 1.6e-8 before rounding; exactly 1 at 0.
EARMARK_FN float exp2_polynomial(float f) {
  float p = 0.00015370705f;
  p = p * f + 0.0013399848f;
  p = p * f + 0.009618374f;
  p = p * f + 0.05550329f;
  p = p * f + 0.24022648f;
  p = p * f + 0.6931472f;
  return p * f + 1.0f;
}

EARMARK_FN uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

EARMARK_FN float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

EARMARK_FN float power_of_two(int32_t exponent) {  // -126 .. 127
  return float_of(static_cast<uint32_t>(exponent + 127) << 23);
}

// E of the exact softmax: round(2^24 * exp(d)), d <= 0.
EARMARK_FN int32_t exp_numerator(float d) {
  d = d > -20.0f ? d : -20.0f;  // 2^24 * exp(-20) rounds to 0
  const float y = d * 1.44269504f;
  // n + 24 stands in the last bits of the sum; shifted to where a float has its exponent, it
  // multiplies by 2^(n + 24).
  constexpr float kMagic = 12582912.0f + 24.0f;  // as in round_even
  const float shifted = y + kMagic;
  const float p = exp2_polynomial(y - (shifted - kMagic));
  return to_int_even(float_of(bits_of(p) + (bits_of(shifted) << 23)));
}

// exp for the float32 layers, any finite argument; saturates instead of overflowing.
EARMARK_FN float exp_f32(float x) {
  x = clamp(x, -87.0f, 87.0f);
  const float n = round_even(x * 1.44269504f);
  // ln 2 in two parts keeps the reduced argument exact enough for large |x|.
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  return exp2_polynomial(r * 1.44269504f) * power_of_two(static_cast<int32_t>(n));
}

EARMARK_FN float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }

EARMARK_FN float tanh_f32(float x) {
  const float magnitude = x < 0.0f ? -x : x;
  const float square = x * x;
  // Near 0 the quotient below cancels; the odd series has no such loss.
  const float series = x * (1.0f + square * (-0.333333333f + square * 0.133333333f));
  const float e = exp_f32(-2.0f * magnitude);
  const float quotient = (1.0f - e) / (1.0f + e);
  return magnitude < 0.0625f ? series : (x < 0.0f ? -quotient : quotient);
}

// A function of `count` breakpoints and count + 1 linear pieces, clipped to [low, high] (1 ..
// 2^24).
struct PiecewiseLinear {
  const float* breakpoints = nullptr;
  const float* slopes = nullptr;
  const float* intercepts = nullptr;
  int count = 0;
  float low = 1.0f;
  float high = kNumeratorOne;
};

EARMARK_FN int32_t pwl_numerator(const PiecewiseLinear& pwl, float v) {
  int piece = 0;
  for (int i = 0; i < pwl.count; ++i) piece += pwl.breakpoints[i] <= v;
  return to_int_even(clamp(v * pwl.slopes[piece] + pwl.intercepts[piece], pwl.low, pwl.high));
}

}  // namespace earmark
