#include "core/check.h"
#include "cuda/pack_conv_s8.h"
#include "engine/device/ops.h"
#include "engine/ops/softmax_function.h"

namespace earmark::device {

const float* upload(Constants& constants, const AlignedBuffer<float>& values, int channels) {
  if (values.size() == 0) return nullptr;
  return constants.add(values.data(), channels, cuda::padded_channels(channels));
}

EpilogueS8 upload(Constants& constants, const Epilogue& epilogue,
                  const std::vector<int32_t>& initial, int channels, bool relu, int zero_u8) {
  return {.initial = constants.add(initial),
          .multiplier = upload(constants, epilogue.multiplier, channels),
          .offset = upload(constants, epilogue.offset, channels),
          .gain = upload(constants, epilogue.gain, channels),
          .shift = upload(constants, epilogue.shift, channels),
          .relu = relu,
          .zero_u8 = zero_u8};
}

LayerS8::LayerS8(const OpArgs& args, const OpDesc& desc, Constants& constants,
                 const ConvShape& shape, const Tensor& in, const std::vector<int64_t>& weight_shape,
                 int out_zero_u8)
    : quantization(args.found_quantization("quantization", desc.quantization)) {
  const std::vector<int8_t> zero =
      quantization == nullptr ? args.input_zero(in) : std::vector<int8_t>(in.channels, 1);
  const cuda::PackedConvS8 packed =
      cuda::pack_conv_s8(shape, args.weights_s8(weight_shape), zero.data());
  weights = {constants.add(packed.weight), packed.depth, constants.add(packed.input_zero)};
  epilogue = upload(constants, args.epilogue(shape.c_out, DType::kS8), packed.initial, shape.c_out,
                    args.flag("relu"), out_zero_u8);
}

LookupTable upload(Constants& constants, LookupTable table) {
  table.values = constants.add(table.values, table.entries);
  table.differences = constants.add(table.differences, table.entries);
  return table;
}

cuda::SoftmaxFunction softmax_function(const OpArgs& args, Constants& constants, bool integer) {
  const SoftmaxFunction host(args, integer);
  cuda::SoftmaxFunction f;
  using Kind = cuda::SoftmaxFunction::Kind;
  if (host.kind == SoftmaxFunction::Kind::kPwl) {
    f.kind = Kind::kPwl;
    f.pwl = host.pwl();
    f.pwl.breakpoints = constants.add(f.pwl.breakpoints, f.pwl.count);
    f.pwl.slopes = constants.add(f.pwl.slopes, f.pwl.count + 1);
    f.pwl.intercepts = constants.add(f.pwl.intercepts, f.pwl.count + 1);
  } else if (host.kind == SoftmaxFunction::Kind::kTable) {
    f.kind = Kind::kTable;
    f.table = upload(constants, host.table());
  }
  return f;
}

namespace {

void take_host(DeviceOp& op, const Op& host) {
  op.reads = host.frames_in;
  op.reads.insert(op.reads.end(), host.vectors_in.begin(), host.vectors_in.end());
  if (host.valid != nullptr) op.reads.push_back(host.valid);
  op.writes = {host.out};
  op.host = {&host};
}

ConvShape dense_shape(const Tensor& in, const Tensor& out) {
  ConvShape shape;
  shape.c_in = in.channels;
  shape.c_out = out.channels;
  return shape;
}

}  // namespace

ConvS8::ConvS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants)
    : DeviceOp(desc.name, desc.op),
      in(&args.in(Kind::kFrames, DType::kS8)),
      out(host.out),
      shape(args.conv_shape(*in, *out)),
      layer(args, desc, constants, shape, *in,
            {shape.c_out, shape.time.kernel, shape.width.kernel, shape.c_in}, out->zero_u8()) {
  take_host(*this, host);
  if (!desc.bias.empty()) bias = &args.find("bias", desc.bias);
  if (args.has("table")) {
    const std::vector<int8_t> values = args.table_s8();
    table = constants.add(values);
    table_size = static_cast<int>(values.size());
  }
}

cuda::ConvS8 ConvS8::call(const Walk& walk) const {
  cuda::ConvS8 c;
  c.shape = shape;
  c.layer = layer.of(walk, bias);
  c.table = table;
  c.table_size = table_size;
  c.in = walk.frames<const int8_t>(*in);
  c.in_frames = walk.ragged(*in);
  if (out->dtype == DType::kF32) {
    c.out_f32 = walk.frames<float>(*out);
  } else {
    c.out = walk.frames<int8_t>(*out);
  }
  c.out_frames = walk.ragged(*out);
  return c;
}

DenseS8::DenseS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants)
    : DeviceOp(desc.name, desc.op),
      in(&args.in(Kind::kVector, DType::kS8)),
      out(host.out),
      layer(args, desc, constants, dense_shape(*in, *out), *in, {out->channels, in->channels},
            out->zero_u8()) {
  take_host(*this, host);
  if (args.has("table")) {
    const std::vector<float> values = args.table_f32();
    table = constants.add(values);
    table_size = static_cast<int>(values.size());
  }
}

cudaError_t DenseS8::launch(const Walk& walk) const {
  cuda::DenseS8 c;
  c.inputs = in->channels;
  c.outputs = out->channels;
  c.layer = layer.of(walk, nullptr);
  c.table = table;
  c.table_size = table_size;
  c.in = walk.vectors<const int8_t>(*in);
  if (out->dtype == DType::kF32) {
    c.out_f32 = walk.vectors<float>(*out);
  } else {
    c.out = walk.vectors<int8_t>(*out);
  }
  c.recordings = walk.recordings;
  return cuda::dense_s8(c, walk.launch);
}

AddS8::AddS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants)
    : DeviceOp(desc.name, desc.op),
      in(&args.in(Kind::kFrames, DType::kS8)),
      residual(&args.find("residual", desc.residual)),
      out(host.out),
      multiplier(upload(constants, args.floats("multiplier", in->channels), in->channels)),
      residual_multiplier(args.floats("residual_multiplier", 1)[0]),
      relu(args.flag("relu")) {
  take_host(*this, host);
  if (!desc.gate.empty()) gate = &args.find("gate", desc.gate);
}

cudaError_t AddS8::launch(const Walk& walk) const {
  cuda::AddS8 c;
  c.channels = in->channels;
  c.in = walk.frames<const int8_t>(*in);
  c.residual = walk.frames<const int8_t>(*residual);
  c.out = walk.frames<int8_t>(*out);
  c.frames = walk.ragged(*in);
  c.multiplier = multiplier;
  c.residual_multiplier = residual_multiplier;
  c.in_zero = in->zero_point;
  c.residual_zero = residual->zero_point;
  c.out_zero = out->zero_point;
  c.gate = walk.vectors(gate);
  c.relu = relu;
  return cuda::add_s8(c, walk.launch);
}

QuantizeS8::QuantizeS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants)
    : DeviceOp(desc.name, desc.op),
      in(&args.find("in", desc.in)),
      out(host.out),
      quantization(args.found_quantization("quantization", desc.quantization)) {
  take_host(*this, host);
  if (quantization != nullptr) return;
  multiplier = upload(constants, args.floats("multiplier", in->channels), in->channels);
  offset = upload(constants, args.floats("offset", in->channels), in->channels);
}

cudaError_t QuantizeS8::launch(const Walk& walk) const {
  cuda::QuantizeS8 c;
  c.channels = in->channels;
  c.in = walk.frames<const float>(*in);
  c.out = walk.frames<int8_t>(*out);
  c.frames = walk.ragged(*in);
  c.multiplier = multiplier;
  c.offset = offset;
  c.zero = out->zero_point;
  c.found = walk.vectors(quantization);
  return cuda::quantize_s8(c, walk.launch);
}

StatsS8::StatsS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants)
    : DeviceOp(desc.name, desc.op),
      in(&args.in(Kind::kFrames, DType::kS8)),
      out(host.out),
      valid(host.valid),
      multiplier(upload(constants, args.floats("multiplier", in->channels), in->channels)),
      std(args.flag("std")),
      variance(std ? args.variance() : Variance{}) {
  take_host(*this, host);
}

cuda::StatsS8 StatsS8::call(const Walk& walk) const {
  cuda::StatsS8 c;
  c.channels = in->channels;
  c.in = walk.frames<const int8_t>(*in);
  c.frames = walk.ragged(*in, valid);
  c.zero = in->zero_point;
  c.multiplier = multiplier;
  c.std = std;
  c.variance = variance;
  c.out = walk.vectors<float>(*out);
  return c;
}

DeviceOpPtr make_device_op(const Plan& plan, const OpDesc& desc, const Op& host,
                           Constants& constants) {
  const OpArgs args(plan, desc);
  const auto make = [&](auto* type) -> DeviceOpPtr {
    return std::make_unique<std::remove_pointer_t<decltype(type)>>(args, desc, host, constants);
  };
  if (desc.op == "conv_s8") return make(static_cast<ConvS8*>(nullptr));
  if (desc.op == "dense_s8") return make(static_cast<DenseS8*>(nullptr));
  if (desc.op == "add_s8") return make(static_cast<AddS8*>(nullptr));
  if (desc.op == "quantize_s8") return make(static_cast<QuantizeS8*>(nullptr));
  if (desc.op == "stats_s8") return make(static_cast<StatsS8*>(nullptr));
  DeviceOpPtr other = make_other_op(args, desc, host, constants);
  if (other == nullptr) other = make_s16_op(args, desc, host, constants);
  if (other == nullptr) {
    throw std::runtime_error(
        concat("op '", desc.name, "' (", desc.op, "): there is no CUDA kernel of it yet"));
  }
  take_host(*other, host);
  return other;
}

}  // namespace earmark::device
