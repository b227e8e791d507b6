#include "add_s8.h"

namespace earmark::trt {

const std::vector<std::string>& AddS8::fields() {
  static const std::vector<std::string> names = {
      "multiplier", "residual_multiplier", "in_zero", "residual_zero", "zero", "relu", "gate"};
  return names;
}

AddS8::AddS8(const Fields& fields)
    : multiplier_(factors(fields, "multiplier", -1)),
      residual_multiplier_(factors(fields, "residual_multiplier", 1)[0]),
      in_zero_(fields.integer("in_zero", -128, 127)),
      residual_zero_(fields.integer("residual_zero", -128, 127)),
      out_zero_(fields.integer("zero", -128, 127)),
      relu_(fields.integer("relu", 0, 1, 0) != 0),
      has_gate_(fields.integer("gate", 0, 1, 0) != 0) {
  EARMARK_CHECK(!multiplier_.empty() && multiplier_.size() <= kMostChannels,
                "plugin field 'multiplier' has ", multiplier_.size(), " values");
  channels_ = static_cast<int>(multiplier_.size());
}

void AddS8::shape(const DimsExprs* in, DimsExprs* out, ExprBuilder&) const { out[0] = in[0]; }

void AddS8::check(const TensorDesc* in, const TensorDesc* out) const {
  const Shape shape = Shape::frames(in[0].dims, channels_);
  for (const TensorDesc* other : {&in[1], &out[0]}) {
    const Shape same = Shape::frames(other->dims, channels_);
    EARMARK_CHECK(same.batch == shape.batch && same.time == shape.time,
                  "tensors of different shapes are added");
  }
  if (has_gate_) {
    EARMARK_CHECK(Shape::vector(in[2].dims, channels_).batch == shape.batch,
                  "the gate is of another batch");
  }
}

AddS8::Uploaded AddS8::upload(cuda::Constants& constants) const {
  return {constants.add(multiplier_.data(), channels_, cuda::padded_channels(channels_))};
}

size_t AddS8::workspace(const Dims& in) const {
  return Workspace::bytes(static_cast<int>(in.d[0]), 0);
}

cudaError_t AddS8::enqueue(const Uploaded& uploaded, const TensorDesc* desc, const void* const* in,
                           void* const* out, void* workspace, const cuda::Launch& launch) const {
  const Shape shape = Shape::frames(desc[0].dims, channels_);
  const Workspace filled(workspace, shape, 0, launch);
  cuda::AddS8 call;
  call.channels = channels_;
  call.in = {static_cast<const int8_t*>(in[0]), channels_, 1};
  call.residual = {static_cast<const int8_t*>(in[1]), channels_, 1};
  call.out = {static_cast<int8_t*>(out[0]), channels_, 1};
  call.frames = filled.frames();
  call.multiplier = uploaded.multiplier;
  call.residual_multiplier = residual_multiplier_;
  call.in_zero = in_zero_;
  call.residual_zero = residual_zero_;
  call.out_zero = out_zero_;
  if (has_gate_) call.gate = {static_cast<const float*>(in[2]), channels_};
  call.relu = relu_;
  return cuda::add_s8(call, filled.launch());
}

}  // namespace earmark::trt
