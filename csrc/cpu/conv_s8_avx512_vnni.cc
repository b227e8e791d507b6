// One tile is 6 rows x 64 channels: 24 accumulators, 4 weight and 1 broadcast register of 32 zmm.
#if defined(EARMARK_EMULATED)
#include "emulation/avx512.h"
#else
#include <immintrin.h>
#endif

#include <cstring>

#include "cpu/kernels.h"
#include "cpu/unroll.h"

#define EARMARK_VECTOR __m512
#define EARMARK_V(op) _mm512_##op

namespace earmark::EARMARK_ISA {
namespace {

using Ints = __m512i;

EARMARK_FN Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
EARMARK_FN Ints broadcast_4_bytes(const void* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}
EARMARK_FN void store_ints(void* p, Ints v) { _mm512_storeu_si512(p, v); }
EARMARK_FN Ints dot(Ints sum, Ints x, Ints w) { return _mm512_dpbusd_epi32(sum, x, w); }

EARMARK_FN Ints to_ints(__m512 v) {
  return _mm512_cvt_roundps_epi32(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

EARMARK_FN __mmask16 lanes_below(int n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1);
}

constexpr int kStored = 1;
EARMARK_FN void store_bytes(uint8_t* out, const Ints (&q)[kStored], int z, int n) {
  const Ints bytes = _mm512_add_epi32(q[0], _mm512_set1_epi32(z));
  _mm512_mask_cvtepi32_storeu_epi8(out, lanes_below(n), bytes);
}

EARMARK_FN void store_floats(float* out, __m512 v, int n) {
  _mm512_mask_storeu_ps(out, lanes_below(n), v);
}

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_s8_tile.inl"
#include "cpu/conv_s8_vnni.inl"
