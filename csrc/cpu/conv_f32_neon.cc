// Float32 tiles of kTileRows = 12 rows x kPanel = 8 channels: 24 accumulators, 2 weight and 1
// broadcast register of 32.
#define EARMARK_VECTOR float32x4_t
#define EARMARK_LANES 4
#define EARMARK_V(op) neon_##op
#include "cpu/kernels.h"
#include "cpu/neon.h"
#include "cpu/unroll.h"

namespace earmark::EARMARK_ISA {
namespace {

EARMARK_FN float32x4_t load(const float* p, int n) { return neon_load_first(p, n); }
EARMARK_FN void store(float* out, float32x4_t v, int n) { neon_store_first(out, v, n); }

}  // namespace
}  // namespace earmark::EARMARK_ISA

#include "cpu/conv_f32_tile.inl"
