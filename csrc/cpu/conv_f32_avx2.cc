// Float32 tiles of kTileRows = 6 rows x kPanel = 16 channels: 12 accumulators, 2 weight and 1
// broadcast register of 16 ymm.
#define EARMARK_VECTOR __m256
#define EARMARK_LANES 8
#define EARMARK_V(op) _mm256_##op
#include <immintrin.h>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace earmark::EARMARK_ISA {
namespace {

EARMARK_FN __m256 load(const float* p, int n) {
  if (n >= 8) return _mm256_loadu_ps(p);
  float lanes[8] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return _mm256_loadu_ps(lanes);
}

EARMARK_FN void store(float* out, __m256 v, int n) {
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

#include "cpu/conv_f32_tile.inl"
