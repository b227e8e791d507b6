// The table row of one ISA; compiled once for each, with that ISA's flags and
// EARMARK_ISA (namespace), _NAME, _ENUM, _ROW and _TILES defined by the build.
#include <cstring>

#include "core/fbank.h"
#include "cpu/kernels.h"
#include "cpu/unroll.h"
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace earmark {
namespace EARMARK_ISA {

void conv_s8(const ConvCallS8&, const EpilogueS8&, uint8_t* out, ptrdiff_t out_stride);
void conv_s8_f32(const ConvCallS8&, const EpilogueS8&, float* out, ptrdiff_t out_stride);
void conv_acc_s8(const ConvCallS8&, const int32_t* initial, int32_t* acc, ptrdiff_t acc_stride);
void conv_f32(const ConvCallF32&, const EpilogueF32&, float* out, ptrdiff_t out_stride);

namespace {
#include "cpu/frame_kernels.inl"
// Behind it, for EARMARK_RAN.
#include "cpu/fbank.inl"
#include "cpu/levels.inl"
#include "cpu/peak.inl"
#include "cpu/rans.inl"
#include "cpu/softmax.inl"
}  // namespace

}  // namespace EARMARK_ISA

extern const Kernels EARMARK_ISA_ROW;
const Kernels EARMARK_ISA_ROW = {
    .isa = Isa::EARMARK_ISA_ENUM,
    .tiles = EARMARK_ISA_TILES,
    .peaks = {EARMARK_ISA::kPeakS8, EARMARK_ISA::kPeakF32},
    .conv_s8 = EARMARK_ISA::conv_s8,
    .conv_s8_f32 = EARMARK_ISA::conv_s8_f32,
    .conv_acc_s8 = EARMARK_ISA::conv_acc_s8,
    .combine_s16 = EARMARK_ISA::combine_s16,
    .conv_f32 = EARMARK_ISA::conv_f32,
    .range_f32 = EARMARK_ISA::range_f32,
    .quantize_s8 = EARMARK_ISA::quantize_s8,
    .quantize_s16 = EARMARK_ISA::quantize_s16,
    .dequantize_f32 = EARMARK_ISA::dequantize_f32,
    .affine_f32 = EARMARK_ISA::affine_f32,
    .add_s8 = EARMARK_ISA::add_s8,
    .add_f32 = EARMARK_ISA::add_f32,
    .max_pool_s8 = EARMARK_ISA::max_pool_s8,
    .max_pool_f32 = EARMARK_ISA::max_pool_f32,
    .stats_s8 = EARMARK_ISA::stats_s8,
    .stats_f32 = EARMARK_ISA::stats_f32,
    .table_s8 = EARMARK_ISA::table_s8,
    .tanh_f32 = EARMARK_ISA::tanh_f32,
    .max_s32 = EARMARK_ISA::max_s32,
    .softmax_moments_s8 = EARMARK_ISA::softmax_moments_s8,
    .pwl_moments_s8 = EARMARK_ISA::pwl_moments_s8,
    .table_moments_s8 = EARMARK_ISA::table_moments_s8,
    .max_f32 = EARMARK_ISA::max_f32,
    .softmax_moments_f32 = EARMARK_ISA::softmax_moments_f32,
    .pwl_moments_f32 = EARMARK_ISA::pwl_moments_f32,
    .table_moments_f32 = EARMARK_ISA::table_moments_f32,
    .softmax_moments_s16 = EARMARK_ISA::softmax_moments_s16,
    .pwl_moments_s16 = EARMARK_ISA::pwl_moments_s16,
    .table_moments_s16 = EARMARK_ISA::table_moments_s16,
    .softmax_f32 = EARMARK_ISA::softmax_f32,
    .pwl_softmax_f32 = EARMARK_ISA::pwl_softmax_f32,
    .table_softmax_f32 = EARMARK_ISA::table_softmax_f32,
    .fbank_f32 = EARMARK_ISA::fbank_f32,
    .center_f32 = EARMARK_ISA::center_f32,
    .standardize_f32 = EARMARK_ISA::standardize_f32,
    .scale_f32 = EARMARK_ISA::scale_f32,
    .decode_rans = EARMARK_ISA::decode_rans,
    .restore_levels = EARMARK_ISA::restore_levels,
};

}  // namespace earmark
