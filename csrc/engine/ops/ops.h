// One factory per op; make_op.cc maps the names of the plan to them.
#pragma once

#include <memory>

#include "engine/op.h"
#include "engine/op_args.h"

namespace earmark {

using OpPtr = std::unique_ptr<Op>;

OpPtr make_quantize_s8(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_quantize_s16(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_dequantize_f32(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_affine_f32(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_range_f32(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_conv_s8(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_conv_s16(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_conv_f32(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_add_s8(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_add_f32(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_max_pool_s8(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_max_pool_f32(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_stats_s8(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_stats_f32(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_dense_s8(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_dense_s16(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_dense_f32(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_attentive_pool_s8(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_attentive_pool_s16(const OpArgs& args, const OpDesc& desc, Isa isa);
OpPtr make_attentive_pool_f32(const OpArgs& args, const OpDesc& desc, Isa isa);

}  // namespace earmark
