#include "squeeze_excitation_s8.h"

namespace earmark::trt {
namespace {

// Of a layer whose inputs all have the zero point `zero`.
Weights dense(const Fields& fields, const std::string& name, int inputs, int outputs, int zero) {
  ConvShape shape;
  shape.c_in = inputs;
  shape.c_out = outputs;
  return {shape, fields.bytes(name, shape.weights()).data(),
          std::vector<int8_t>(inputs, static_cast<int8_t>(zero))};
}

// `values`: multipliers of all channels, then offsets.
cuda::Quantization upload(cuda::Constants& constants, const std::vector<float>& values,
                          int channels, int zero) {
  const size_t padded = cuda::padded_channels(channels);
  return {constants.add(values.data(), channels, padded),
          constants.add(values.data() + channels, channels, padded), zero};
}

}  // namespace

const std::vector<std::string>& SqueezeExcitationS8::fields() {
  static const std::vector<std::string> names = {
      "channels",      "hidden",        "in_zero", "mean_multiplier",
      "squeezed",      "squeezed_zero", "reduce",  "reduce_epilogue",
      "hidden_values", "hidden_zero",   "expand",  "expand_epilogue",
      "table"};
  return names;
}

SqueezeExcitationS8::SqueezeExcitationS8(const Fields& fields)
    : channels_(fields.integer("channels", 1, kMostChannels)),
      hidden_(fields.integer("hidden", 1, kMostChannels)),
      in_zero_(fields.integer("in_zero", -128, 127)),
      squeezed_zero_(fields.integer("squeezed_zero", -128, 127)),
      hidden_zero_(fields.integer("hidden_zero", -128, 127)),
      mean_multiplier_(factors(fields, "mean_multiplier", channels_)),
      squeezed_(factors(fields, "squeezed", 2 * channels_)),
      hidden_quantization_(factors(fields, "hidden_values", 2 * hidden_)),
      reduce_(dense(fields, "reduce", channels_, hidden_, squeezed_zero_)),
      expand_(dense(fields, "expand", hidden_, channels_, hidden_zero_)),
      reduce_epilogue_(epilogue_of(factors(fields, "reduce_epilogue", -1), hidden_, 1, 0)),
      expand_epilogue_(epilogue_of(factors(fields, "expand_epilogue", -1), channels_, 1, 0)) {
  reduce_epilogue_.relu = true;
  if (fields.has("table")) {
    table_ = fields.floats("table");
    EARMARK_CHECK(table_.size() >= 2 && table_.size() % 2 == 0, "plugin field 'table' has ",
                  table_.size(), " values");
  }
}

void SqueezeExcitationS8::shape(const DimsExprs* in, DimsExprs* out, ExprBuilder& builder) const {
  out[0].count = 2;
  out[0].d[0] = in[0].d[0];
  out[0].d[1] = builder.constant(channels_);
}

void SqueezeExcitationS8::check(const TensorDesc* in, const TensorDesc* out) const {
  const Shape shape = Shape::frames(in[0].dims, channels_);
  EARMARK_CHECK(Shape::vector(out[0].dims, channels_).batch == shape.batch,
                "the gate is of another batch");
}

SqueezeExcitationS8::Uploaded SqueezeExcitationS8::upload(cuda::Constants& constants) const {
  Uploaded uploaded;
  cuda::SqueezeExcitationS8& call = uploaded.call;
  call.channels = channels_;
  call.hidden_channels = hidden_;
  call.in_zero = in_zero_;
  call.mean_multiplier =
      constants.add(mean_multiplier_.data(), channels_, cuda::padded_channels(channels_));
  call.squeezed = trt::upload(constants, squeezed_, channels_, squeezed_zero_);
  call.hidden = trt::upload(constants, hidden_quantization_, hidden_, hidden_zero_);
  call.reduce = reduce_.upload(constants);
  call.reduce_epilogue = reduce_epilogue_.upload(constants, reduce_.initial());
  call.expand = expand_.upload(constants);
  call.expand_epilogue = expand_epilogue_.upload(constants, expand_.initial());
  if (!table_.empty()) call.table = constants.add(table_);
  call.table_size = static_cast<int>(table_.size());
  return uploaded;
}

size_t SqueezeExcitationS8::workspace(const Dims& in) const {
  const int batch = static_cast<int>(in.d[0]);
  return Workspace::bytes(batch, sizeof(int) * batch * (size_t{1} + channels_));
}

cudaError_t SqueezeExcitationS8::enqueue(const Uploaded& uploaded, const TensorDesc* desc,
                                         const void* const* in, void* const* out, void* workspace,
                                         const cuda::Launch& launch) const {
  const Shape shape = Shape::frames(desc[0].dims, channels_);
  cuda::SqueezeExcitationS8 call = uploaded.call;
  call.in = {static_cast<const int8_t*>(in[0]), channels_, 1};
  call.gate = {static_cast<float*>(out[0]), channels_};
  EARMARK_CHECK(cuda::supports(call, *launch.device), channels_,
                " channels do not run on this device");
  const size_t shared = sizeof(int) * shape.batch * (size_t{1} + channels_);
  const Workspace filled(workspace, shape, shared, launch);
  call.frames = filled.frames();
  return cuda::squeeze_excitation_s8(call, filled.launch());
}

}  // namespace earmark::trt
