#include "attentive_pool_s8.h"

namespace earmark::trt {

const std::vector<std::string>& AttentivePoolS8::fields() {
  static const std::vector<std::string> names = {
      "channels",    "hidden",           "weight",     "input_zero",   "multiplier",
      "offset",      "value_multiplier", "value_zero", "min_variance", "softmax",
      "breakpoints", "slopes",           "intercepts", "bounds",       "table"};
  return names;
}

AttentivePoolS8::AttentivePoolS8(const Fields& fields)
    : channels_(fields.integer("channels", 1, kMostChannels)),
      hidden_(fields.integer("hidden", 1, kMostChannels)),
      value_zero_(fields.integer("value_zero", -128, 127)),
      min_variance_(fields.number("min_variance")),
      multiplier_(factors(fields, "multiplier", channels_)),
      value_multiplier_(factors(fields, "value_multiplier", channels_)),
      softmax_(fields) {
  EARMARK_CHECK(min_variance_ >= 0, "plugin field 'min_variance' is ", min_variance_);
  ConvShape shape;
  shape.c_in = hidden_;
  shape.c_out = channels_;
  weights_ = Weights(shape, fields.bytes("weight", shape.weights()).data(),
                     fields.bytes("input_zero", hidden_));
  if (!softmax_.is_exact()) offset_ = factors(fields, "offset", channels_);
}

void AttentivePoolS8::shape(const DimsExprs* in, DimsExprs* out, ExprBuilder& builder) const {
  out[0].count = 2;
  out[0].d[0] = in[0].d[0];
  out[0].d[1] = builder.constant(2 * channels_);
}

void AttentivePoolS8::check(const TensorDesc* in, const TensorDesc* out) const {
  const Shape hidden = Shape::frames(in[0].dims, hidden_);
  const Shape values = Shape::frames(in[1].dims, channels_);
  EARMARK_CHECK(hidden.batch == values.batch && hidden.time == values.time,
                "the attention's frames are not those of the values");
  EARMARK_CHECK(Shape::vector(out[0].dims, 2 * channels_).batch == values.batch,
                "the output is of another batch");
}

AttentivePoolS8::Uploaded AttentivePoolS8::upload(cuda::Constants& constants) const {
  Uploaded uploaded;
  cuda::AttentivePoolS8& call = uploaded.call;
  call.hidden_channels = hidden_;
  call.channels = channels_;
  call.weights = weights_.upload(constants);
  call.initial = constants.add(weights_.initial());
  const size_t padded = cuda::padded_channels(channels_);
  call.multiplier = constants.add(multiplier_.data(), channels_, padded);
  if (!offset_.empty()) call.offset = constants.add(offset_.data(), channels_, padded);
  call.value_multiplier = constants.add(value_multiplier_.data(), channels_, padded);
  call.value_zero = value_zero_;
  call.min_variance = min_variance_;
  call.softmax = softmax_.upload(constants);
  return uploaded;
}

size_t AttentivePoolS8::workspace(const Dims& in) const {
  return Workspace::bytes(static_cast<int>(in.d[0]), 0);
}

cudaError_t AttentivePoolS8::enqueue(const Uploaded& uploaded, const TensorDesc* desc,
                                     const void* const* in, void* const* out, void* workspace,
                                     const cuda::Launch& launch) const {
  const Shape shape = Shape::frames(desc[0].dims, hidden_);
  const Workspace filled(workspace, shape, 0, launch);
  cuda::AttentivePoolS8 call = uploaded.call;
  call.hidden = {static_cast<const int8_t*>(in[0]), hidden_, 1};
  call.values = {static_cast<const int8_t*>(in[1]), channels_, 1};
  call.frames = filled.frames();
  call.out = {static_cast<float*>(out[0]), 2 * channels_};
  return cuda::attentive_pool_s8(call, filled.launch());
}

}  // namespace earmark::trt
