// Ops with inputs or weights of 16 bits.
#include "cuda/attentive_pool_s16.h"
#include "cuda/conv_s16.h"
#include "cuda/pack_conv_s8.h"
#include "engine/device/call_op.h"
#include "engine/device/ops.h"

namespace earmark::device {
namespace {

DeviceOpPtr quantize_s16(const OpArgs& args, const OpDesc& desc, const Op& host,
                         Constants& constants) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  const float* multiplier = upload(constants, args.floats("multiplier", in.channels), in.channels);
  const float* offset = upload(constants, args.floats("offset", in.channels), in.channels);
  return call_op<cuda::quantize_s16>(desc, [&in, &out, multiplier, offset](const Walk& walk) {
    return cuda::QuantizeS16{.channels = in.channels,
                             .in = walk.frames<const float>(in),
                             .out = walk.planes<int8_t>(out),
                             .frames = walk.ragged(in),
                             .multiplier = multiplier,
                             .offset = offset,
                             .zero = out.zero_point};
  });
}

cuda::WeightsS16 weights_s16(const OpArgs& args, Constants& constants, const ConvShape& shape,
                             const Tensor& in, const std::vector<int64_t>& weight_shape) {
  const std::vector<std::vector<int8_t>> planes = args.weight_planes(weight_shape);
  const cuda::PackedConvS16 packed = cuda::pack_conv_s16(shape, planes, args.input_zero_planes(in));
  return {.weight = constants.add(packed.weight),
          .planes = static_cast<int>(planes.size()),
          .depth = packed.depth,
          .input_zero = constants.add(packed.input_zero),
          .initial = constants.add(packed.initial)};
}

// conv_s16, and dense_s16 as a convolution of one position.
DeviceOpPtr layer_s16(const OpArgs& args, const OpDesc& desc, const Op& host,
                      Constants& constants) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  const Tensor* bias = desc.bias.empty() ? nullptr : &args.find("bias", desc.bias);
  cuda::ConvS16 call;
  std::vector<int64_t> weight_shape;
  if (in.kind == Kind::kFrames) {
    call.shape = args.conv_shape(in, out);
    weight_shape = {call.shape.c_out, call.shape.time.kernel, call.shape.width.kernel,
                    call.shape.c_in};
  } else {
    call.shape.c_in = in.channels;
    call.shape.c_out = out.channels;
    weight_shape = {call.shape.c_out, call.shape.c_in};
  }
  call.weights = weights_s16(args, constants, call.shape, in, weight_shape);
  call.epilogue = upload(constants, args.epilogue(out.channels, DType::kS16), {}, out.channels,
                         args.flag("relu"), 0);
  if (args.has("table")) call.table = upload(constants, args.line_table().view());
  return call_op<cuda::conv_s16>(desc, [&in, &out, bias, call](const Walk& walk) {
    cuda::ConvS16 c = call;
    c.bias = walk.vectors(bias);
    c.in = walk.planes<const int8_t>(in);
    c.in_frames = walk.ragged(in);
    c.out = walk.frames<float>(out);
    c.out_frames = walk.ragged(out);
    return c;
  });
}

DeviceOpPtr attentive_pool_s16(const OpArgs& args, const OpDesc& desc, const Op& host,
                               Constants& constants) {
  const Tensor& hidden = args.find("in", desc.in);
  const Tensor &values = args.find("values", desc.values), &out = *host.out;
  ConvShape shape;
  shape.c_in = hidden.channels;
  shape.c_out = values.channels;
  const Epilogue epilogue = args.epilogue(shape.c_out, DType::kS16);
  cuda::AttentivePoolS16 call;
  call.hidden_channels = shape.c_in;
  call.channels = shape.c_out;
  call.weights = weights_s16(args, constants, shape, hidden, {shape.c_out, shape.c_in});
  call.multiplier = upload(constants, epilogue.multiplier, shape.c_out);
  call.offset = upload(constants, epilogue.offset, shape.c_out);
  call.softmax = softmax_function(args, constants, true);
  call.min_variance = args.min_variance();
  const Tensor* valid = host.valid;
  return call_op<cuda::attentive_pool_s16>(desc,
                                           [&hidden, &values, &out, valid, call](const Walk& walk) {
                                             cuda::AttentivePoolS16 c = call;
                                             c.hidden = walk.planes<const int8_t>(hidden);
                                             c.values = walk.frames<const float>(values);
                                             c.frames = walk.ragged(values, valid);
                                             c.out = walk.vectors<float>(out);
                                             return c;
                                           });
}

}  // namespace

DeviceOpPtr make_s16_op(const OpArgs& args, const OpDesc& desc, const Op& host,
                        Constants& constants) {
  if (desc.op == "quantize_s16") return quantize_s16(args, desc, host, constants);
  if (desc.op == "conv_s16" || desc.op == "dense_s16") {
    return layer_s16(args, desc, host, constants);
  }
  if (desc.op == "attentive_pool_s16") return attentive_pool_s16(args, desc, host, constants);
  return nullptr;
}

}  // namespace earmark::device
