// One tile is 6 rows x 16 channels: 12 accumulators, 2 weight and 1 broadcast register of 16 ymm.
#include "cpu/conv_s8_ymm.inl"
#if defined(EARMARK_EMULATED)
#include "emulation/avx_vnni.h"
#endif

namespace earmark::EARMARK_ISA {
namespace {

EARMARK_FN Ints dot(Ints sum, Ints x, Ints w) { return _mm256_dpbusd_avx_epi32(sum, x, w); }

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_s8_vnni.inl"
