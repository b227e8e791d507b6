// What int8 tiles of NEON have in common: 6 rows x 16 channels, 24 accumulators of 32 registers.
#include <arm_neon.h>

#include "cpu/kernels.h"
#include "cpu/neon.h"
#include "cpu/unroll.h"

#define EARMARK_VECTOR float32x4_t
#define EARMARK_V(op) neon_##op

namespace earmark::EARMARK_ISA {
namespace {

using Ints = int32x4_t;

EARMARK_FN Ints load_ints(const int32_t* p) { return vld1q_s32(p); }
EARMARK_FN void store_ints(int32_t* p, Ints v) { vst1q_s32(p, v); }

EARMARK_FN Ints to_ints(float32x4_t v) { return vcvtnq_s32_f32(v); }

// Each q + z fits a byte, and q an int16.
constexpr int kStored = 2;
EARMARK_FN void store_bytes(uint8_t* out, const Ints (&q)[kStored], int z, int n) {
  const int16x8_t words = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
  const uint8x8_t bytes = vqmovun_s16(vaddq_s16(words, vdupq_n_s16(static_cast<int16_t>(z))));
  if (n >= 8) {
    vst1_u8(out, bytes);
  } else {
    uint8_t lanes[8];
    vst1_u8(lanes, bytes);
    for (int i = 0; i < n; ++i) out[i] = lanes[i];
  }
}

EARMARK_FN void store_floats(float* out, float32x4_t v, int n) { neon_store_first(out, v, n); }

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_s8_tile.inl"
