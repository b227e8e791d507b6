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

EARMARK_FN void store(float* out, __m512 v, int n) {
  const __mmask16 mask = static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
  _mm512_mask_storeu_ps(out, mask, v);
}

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_f32_tile.inl"
