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

// For the float32 layers alone: the integer network rounds each operation on its own.
EARMARK_FN float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// exp for the float32 layers: 0 below -87, no Inf for what is finite, NaN for NaN.
EARMARK_FN float exp_f32(float x) {
  x = x > 88.0f ? 88.0f : x;
  constexpr float kMagic = 12582912.0f;  // as in round_even
  const float shifted = multiply_add(x, 1.44269504f, kMagic);
  const float n = shifted - kMagic;
  // ln 2 in two parts keeps the reduced argument exact enough for large |x|.
  const float r = multiply_add(n, 2.12194440e-4f, multiply_add(n, -0.693359375f, x));
  // exp2_polynomial, its argument not divided by ln 2.
  float p = 0.0013859284f;
  p = multiply_add(p, r, 0.0083747604f);
  p = multiply_add(p, r, 0.041667709f);
  p = multiply_add(p, r, 0.16666421f);
  p = multiply_add(p, r, 0.4999997f);
  p = multiply_add(p, r, 1.0f);
  p = multiply_add(p, r, 1.0f);
  return x < -87.0f ? 0.0f : float_of(bits_of(p) + (bits_of(shifted) << 23));
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

// `count` breakpoints that rise and count + 1 linear pieces, clipped to [low, high].
struct PiecewiseLinear {
  const float* breakpoints = nullptr;
  const float* slopes = nullptr;
  const float* intercepts = nullptr;
  int count = 0;
  float low = 1.0f;
  float high = kNumeratorOne;
};

// Slope and intercept of the piece that v lies in; kCount is the function's count if it is known
// when compiling, else -1.
struct Line {
  float slope;
  float intercept;
};
template <int kCount>
EARMARK_FN Line pwl_line(const PiecewiseLinear& pwl, float v) {
  Line line = {pwl.slopes[0], pwl.intercepts[0]};
  const int count = kCount < 0 ? pwl.count : kCount;
  for (int i = 0; i < count; ++i) {
    const bool beyond = pwl.breakpoints[i] <= v;
    line.slope = beyond ? pwl.slopes[i + 1] : line.slope;
    line.intercept = beyond ? pwl.intercepts[i + 1] : line.intercept;
  }
  return line;
}

template <int kCount>
EARMARK_FN int32_t pwl_numerator(const PiecewiseLinear& pwl, float v) {
  const Line line = pwl_line<kCount>(pwl, v);
  return to_int_even(clamp(v * line.slope + line.intercept, pwl.low, pwl.high));
}

template <int kCount>
EARMARK_FN float pwl_f32(const PiecewiseLinear& pwl, float v) {
  const Line line = pwl_line<kCount>(pwl, v);
  v = multiply_add(v, line.slope, line.intercept);
  v = v < pwl.low ? pwl.low : v;  // NaN stays
  return v > pwl.high ? pwl.high : v;
}

// A function in equal steps: entry i at v = i, lines between, constant outside. A logit x lies at
// v = x * scale + offset.
struct LookupTable {
  const float* values = nullptr;       // [entries]
  const float* differences = nullptr;  // [entries], values[i + 1] - values[i]; the last is 0
  int entries = 0;
  float scale = 1.0f;
  float offset = 0.0f;
};

EARMARK_FN float table_value(const LookupTable& table, float v) {
  v = clamp(v, 0.0f, static_cast<float>(table.entries - 1));
  const int32_t i = static_cast<int32_t>(v);
  return table.values[i] + (v - static_cast<float>(i)) * table.differences[i];
}

EARMARK_FN int32_t table_numerator(const LookupTable& table, float v) {
  return to_int_even(table_value(table, v));
}

}  // namespace earmark
