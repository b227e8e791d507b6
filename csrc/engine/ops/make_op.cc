#include <map>

#include "engine/ops/ops.h"

namespace earmark {

std::unique_ptr<Op> make_op(const Plan& plan, const OpDesc& desc, Isa isa) {
  using Factory = OpPtr (*)(const OpArgs&, const OpDesc&, Isa);
  static const std::map<std::string, Factory> factories = {
      {"quantize_s8", make_quantize_s8},
      {"quantize_s16", make_quantize_s16},
      {"dequantize_f32", make_dequantize_f32},
      {"affine_f32", make_affine_f32},
      {"range_f32", make_range_f32},
      {"conv_s8", make_conv_s8},
      {"conv_s16", make_conv_s16},
      {"conv_f32", make_conv_f32},
      {"add_s8", make_add_s8},
      {"add_f32", make_add_f32},
      {"max_pool_s8", make_max_pool_s8},
      {"max_pool_f32", make_max_pool_f32},
      {"stats_s8", make_stats_s8},
      {"stats_f32", make_stats_f32},
      {"dense_s8", make_dense_s8},
      {"dense_s16", make_dense_s16},
      {"dense_f32", make_dense_f32},
      {"attentive_pool_s8", make_attentive_pool_s8},
      {"attentive_pool_s16", make_attentive_pool_s16},
      {"attentive_pool_f32", make_attentive_pool_f32},
  };
  const auto found = factories.find(desc.op);
  EARMARK_CHECK(found != factories.end(), "op '", desc.name, "': unknown kind '", desc.op, "'");
  const OpArgs args(plan, desc);
  return found->second(args, desc, isa);
}

}  // namespace earmark
