// Float32 tiles of kTileRows = 12 rows x kPanel = 32 channels: 24 accumulators, 2 weight and 1
// broadcast register of 32 zmm.
#define EARMARK_VECTOR __m512
#define EARMARK_LANES 16
#define EARMARK_V(op) _mm512_##op
#if defined(EARMARK_EMULATED)
#include "emulation/avx512.h"
#else
#include <immintrin.h>
#endif

#include "cpu/kernels.h"
#include "cpu/unroll.h"

namespace earmark::EARMARK_ISA {
namespace {

EARMARK_FN __mmask16 lanes_below(int n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}
EARMARK_FN __m512 load(const float* p, int n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
EARMARK_FN void store(float* p, __m512 v, int n) { _mm512_mask_storeu_ps(p, lanes_below(n), v); }

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_f32_tile.inl"
