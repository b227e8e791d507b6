// The scalar rules that every kernel equals bit for bit (docs/arithmetic.md).
//
// Activations are int8 in the arithmetic and u = q + 128 (uint8) in memory; `zero_u8` is the zero
// point in that form. Each function has internal linkage: the same inline function compiled for two
// instruction sets must never be merged by the linker.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define EARMARK_FN static __host__ __device__ __forceinline__
#define EARMARK_MEMBER __host__ __device__ __forceinline__
#else
#define EARMARK_FN static inline __attribute__((always_inline))
#define EARMARK_MEMBER inline __attribute__((always_inline))
#endif

namespace earmark {

// Magnitudes that the loader accepts for multipliers, offsets and table entries (or exactly 0).
inline constexpr float kMinMagnitude = 0x1p-126f;
inline constexpr float kMaxMagnitude = 0x1p40f;

// Upper bound of 255 * sum |w[o]|: both sum w*u and its zero-point correction then fit int32.
inline constexpr int64_t kMaxAccumulator = int64_t{1} << 30;

inline constexpr int kMaxFrames = (1 << 24) - 1;

// Round half to even for |v| <= 2^22: the sum has an ulp of 1.
EARMARK_FN float round_even(float v) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (v + kMagic) - kMagic;
}

// Round half to even, |v| <= 2^24: one instruction where `round_even` needs two and a conversion.
EARMARK_FN int32_t to_int_even(float v) {
#if defined(__CUDA_ARCH__)
  return __float2int_rn(v);
#elif defined(__clang__)  // it has no irintf
  return static_cast<int32_t>(__builtin_lrintf(v));
#else
  return __builtin_irintf(v);
#endif
}

EARMARK_FN float clamp(float v, float low, float high) {
  v = v > low ? v : low;
  return v < high ? v : high;
}

// The lower bound of requantize(v, z) on v; with a ReLU before it the two clamps are one.
EARMARK_FN float requantize_low(int zero_u8, bool relu) {
  return relu ? 0.0f : static_cast<float>(-zero_u8);
}

// requantize(v, z) + 128, in 0 .. 255.
EARMARK_FN uint8_t requantize_u8(float v, float low, int zero_u8) {
  const float high = static_cast<float>(255 - zero_u8);
  return static_cast<uint8_t>(to_int_even(clamp(v, low, high)) + zero_u8);
}
EARMARK_FN uint8_t requantize_u8(float v, int zero_u8) {
  return requantize_u8(v, requantize_low(zero_u8, false), zero_u8);
}

// requantize(v, z) itself.
EARMARK_FN int8_t requantize_s8(float v, int zero_u8) {
  return static_cast<int8_t>(requantize_u8(v, zero_u8) ^ 0x80);
}

// The same to 16 bits: q + 32768, in 0 .. 65535.
EARMARK_FN uint16_t requantize_u16(float v, int zero_u16) {
  const float low = static_cast<float>(-zero_u16), high = static_cast<float>(65535 - zero_u16);
  return static_cast<uint16_t>(to_int_even(clamp(v, low, high)) + zero_u16);
}

// An int16 weight is kWeightBase * high + low, both in [-127, 127]. To base 256 a low digit of -128
// would be needed, which no kernel takes.
inline constexpr int kWeightBase = 255;
inline constexpr int kMaxWeightS16 = 127 * kWeightBase + 127;

// A quantization found at run time, x = scale * (q - zero), in the order in which `range_f32`
// leaves it in a vector. One of a file's own making may hold anything.
struct FoundQuantization {
  float scale;
  float inverse;
  float zero;
};
inline constexpr int kFoundSize = 3;

// Whose 256 steps cover low <= 0 to high >= 0. A tensor of zeros has a step too.
EARMARK_FN FoundQuantization find_quantization(float low, float high) {
  constexpr float kSmallest = 0x1p-100f;
  float span = high - low;
  span = span > kSmallest ? span : kSmallest;
  const float inverse = 255.0f / span;
  const float zero = static_cast<float>(requantize_u8(-low * inverse, 0) - 128);
  return {span / 255.0f, inverse, zero};
}

// The zero point as in memory, q + 128.
EARMARK_FN int zero_u8(const FoundQuantization& found) {
  return static_cast<int>(clamp(found.zero, -128.0f, 127.0f)) + 128;
}

// Position of v in a table of `size` entries whose middle is v = 0.
EARMARK_FN int32_t table_index(float v, int size) {
  const int half = size / 2;
  return to_int_even(clamp(v, static_cast<float>(-half), static_cast<float>(half - 1))) + half;
}

}  // namespace earmark
