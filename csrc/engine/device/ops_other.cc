// The ops that are never fused: each fills its kernel's struct.
#include "cuda/affine_f32.h"
#include "cuda/attentive_pool_f32.h"
#include "cuda/attentive_pool_s8.h"
#include "cuda/conv_f32.h"
#include "cuda/max_pool.h"
#include "cuda/pack_conv_f32.h"
#include "cuda/pack_conv_s8.h"
#include "cuda/range_f32.h"
#include "engine/device/call_op.h"
#include "engine/device/ops.h"

namespace earmark::device {
namespace {

DeviceOpPtr dequantize_f32(const OpArgs& args, const OpDesc& desc, const Op& host,
                           Constants& constants) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  const float* multiplier = upload(constants, args.floats("multiplier", in.channels), in.channels);
  return call_op<cuda::dequantize_f32>(desc, [&in, &out, multiplier](const Walk& walk) {
    return cuda::DequantizeF32{.channels = in.channels,
                               .in = walk.frames<const int8_t>(in),
                               .out = walk.frames<float>(out),
                               .frames = walk.ragged(in),
                               .multiplier = multiplier,
                               .zero = in.zero_point};
  });
}

DeviceOpPtr affine_f32(const OpArgs& args, const OpDesc& desc, const Op& host,
                       Constants& constants) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  const float* multiplier = upload(constants, args.floats("multiplier", in.channels), in.channels);
  const float* offset = upload(constants, args.floats("offset", in.channels), in.channels);
  return call_op<cuda::affine_f32>(desc, [&in, &out, multiplier, offset](const Walk& walk) {
    return cuda::AffineF32{.channels = in.channels,
                           .recordings = walk.recordings,
                           .in = walk.vectors<const float>(in),
                           .out = walk.vectors<float>(out),
                           .multiplier = multiplier,
                           .offset = offset};
  });
}

DeviceOpPtr range_f32(const OpArgs& args, const OpDesc& desc, const Op& host, Constants&) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  return call_op<cuda::range_f32>(desc, [&in, &out](const Walk& walk) {
    return cuda::RangeF32{.channels = in.channels,
                          .in = walk.frames<const float>(in),
                          .frames = walk.ragged(in),
                          .out = walk.vectors<float>(out)};
  });
}

cuda::LayerF32 layer_f32(const OpArgs& args, Constants& constants, const ConvShape& shape,
                         const std::vector<int64_t>& weight_shape) {
  const Epilogue epilogue = args.epilogue(shape.c_out, DType::kF32);
  const std::string activation = args.word("activation", "");
  using Activation = cuda::LayerF32::Activation;
  return {.weight = constants.add(cuda::pack_conv_f32(shape, args.weights_f32(weight_shape))),
          .offset = upload(constants, epilogue.offset, shape.c_out),
          .gain = upload(constants, epilogue.gain, shape.c_out),
          .shift = upload(constants, epilogue.shift, shape.c_out),
          .relu = args.flag("relu") || activation == "relu",
          .activation = activation == "tanh"      ? Activation::kTanh
                        : activation == "sigmoid" ? Activation::kSigmoid
                                                  : Activation::kNone};
}

// conv_f32, and dense_f32 as a convolution of one position.
DeviceOpPtr layer_f32_op(const OpArgs& args, const OpDesc& desc, const Op& host,
                         Constants& constants) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  const Tensor* bias = desc.bias.empty() ? nullptr : &args.find("bias", desc.bias);
  ConvShape shape;
  std::vector<int64_t> weight_shape;
  if (in.kind == Kind::kFrames) {
    shape = args.conv_shape(in, out);
    weight_shape = {shape.c_out, shape.time.kernel, shape.width.kernel, shape.c_in};
  } else {
    shape.c_in = in.channels;
    shape.c_out = out.channels;
    weight_shape = {shape.c_out, shape.c_in};
  }
  const cuda::LayerF32 layer = layer_f32(args, constants, shape, weight_shape);
  return call_op<cuda::conv_f32>(desc, [&in, &out, bias, shape, layer](const Walk& walk) {
    return cuda::ConvF32{.shape = shape,
                         .layer = layer,
                         .bias = walk.vectors(bias),
                         .in = walk.frames<const float>(in),
                         .in_frames = walk.ragged(in),
                         .out = walk.frames<float>(out),
                         .out_frames = walk.ragged(out)};
  });
}

DeviceOpPtr add_f32(const OpArgs& args, const OpDesc& desc, const Op& host, Constants&) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  const Tensor& residual = args.find("residual", desc.residual);
  const Tensor* gate = desc.gate.empty() ? nullptr : &args.find("gate", desc.gate);
  const bool relu = args.flag("relu");
  return call_op<cuda::add_f32>(desc, [&in, &out, &residual, gate, relu](const Walk& walk) {
    return cuda::AddF32{.channels = in.channels,
                        .in = walk.frames<const float>(in),
                        .residual = walk.frames<const float>(residual),
                        .out = walk.frames<float>(out),
                        .frames = walk.ragged(in),
                        .gate = walk.vectors(gate),
                        .relu = relu};
  });
}

template <class T, auto kLaunch>
DeviceOpPtr max_pool(const OpArgs& args, const OpDesc& desc, const Op& host, Constants&) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  const ConvShape shape = args.conv_shape(in, out);
  return call_op<kLaunch>(desc, [&in, &out, shape](const Walk& walk) {
    return cuda::MaxPool<T>{.shape = shape,
                            .in = walk.frames<const T>(in),
                            .in_frames = walk.ragged(in),
                            .out = walk.frames<T>(out),
                            .out_frames = walk.ragged(out)};
  });
}

DeviceOpPtr stats_f32(const OpArgs& args, const OpDesc& desc, const Op& host, Constants&) {
  const Tensor &in = args.find("in", desc.in), &out = *host.out;
  const bool std = args.flag("std");
  const Variance variance = std ? args.variance() : Variance{};
  const Tensor* valid = host.valid;
  return call_op<cuda::stats_f32>(desc, [&in, &out, valid, std, variance](const Walk& walk) {
    return cuda::StatsF32{.channels = in.channels,
                          .in = walk.frames<const float>(in),
                          .frames = walk.ragged(in, valid),
                          .std = std,
                          .variance = variance,
                          .out = walk.vectors<float>(out)};
  });
}

DeviceOpPtr attentive_pool_s8(const OpArgs& args, const OpDesc& desc, const Op& host,
                              Constants& constants) {
  const Tensor& hidden = args.find("in", desc.in);
  const Tensor &values = args.find("values", desc.values), &out = *host.out;
  const Tensor* found = args.found_quantization("values_quantization", desc.values_quantization);
  ConvShape shape;
  shape.c_in = hidden.channels;
  shape.c_out = values.channels;
  const std::vector<int8_t> zero = args.input_zero(hidden);
  const cuda::PackedConvS8 packed =
      cuda::pack_conv_s8(shape, args.weights_s8({shape.c_out, shape.c_in}), zero.data());
  cuda::AttentivePoolS8 call;
  call.hidden_channels = hidden.channels;
  call.channels = values.channels;
  call.weights = {constants.add(packed.weight), packed.depth, constants.add(packed.input_zero)};
  call.initial = constants.add(packed.initial);
  call.multiplier = upload(constants, args.floats("multiplier", shape.c_out, true), shape.c_out);
  call.softmax = softmax_function(args, constants, true);
  if (call.softmax.kind != cuda::SoftmaxFunction::Kind::kExact) {
    call.offset = upload(constants, args.floats("offset", shape.c_out), shape.c_out);
  }
  call.value_zero = values.zero_point;
  if (found == nullptr) {
    call.value_multiplier =
        upload(constants, args.floats("value_multiplier", shape.c_out), shape.c_out);
  }
  call.min_variance = args.min_variance();
  const Tensor* valid = host.valid;
  return call_op<cuda::attentive_pool_s8>(
      desc, [&hidden, &values, &out, valid, found, call](const Walk& walk) {
        cuda::AttentivePoolS8 c = call;
        c.hidden = walk.frames<const int8_t>(hidden);
        c.values = walk.frames<const int8_t>(values);
        c.frames = walk.ragged(values, valid);
        c.found = walk.vectors(found);
        c.out = walk.vectors<float>(out);
        return c;
      });
}

DeviceOpPtr attentive_pool_f32(const OpArgs& args, const OpDesc& desc, const Op& host,
                               Constants& constants) {
  const Tensor& hidden = args.find("in", desc.in);
  const Tensor &values = args.find("values", desc.values), &out = *host.out;
  ConvShape shape;
  shape.c_in = hidden.channels;
  shape.c_out = values.channels;
  cuda::AttentivePoolF32 call;
  call.hidden_channels = hidden.channels;
  call.channels = values.channels;
  call.weight =
      constants.add(cuda::pack_conv_f32(shape, args.weights_f32({shape.c_out, shape.c_in})));
  call.offset =
      upload(constants, args.epilogue(values.channels, DType::kF32).offset, values.channels);
  call.softmax = softmax_function(args, constants, false);
  call.min_variance = args.min_variance();
  const Tensor* valid = host.valid;
  return call_op<cuda::attentive_pool_f32>(desc,
                                           [&hidden, &values, &out, valid, call](const Walk& walk) {
                                             cuda::AttentivePoolF32 c = call;
                                             c.hidden = walk.frames<const float>(hidden);
                                             c.values = walk.frames<const float>(values);
                                             c.frames = walk.ragged(values, valid);
                                             c.out = walk.vectors<float>(out);
                                             return c;
                                           });
}

}  // namespace

DeviceOpPtr make_other_op(const OpArgs& args, const OpDesc& desc, const Op& host,
                          Constants& constants) {
  using Factory = DeviceOpPtr (*)(const OpArgs&, const OpDesc&, const Op&, Constants&);
  static const std::map<std::string, Factory> factories = {
      {"dequantize_f32", dequantize_f32},
      {"affine_f32", affine_f32},
      {"range_f32", range_f32},
      {"conv_f32", layer_f32_op},
      {"dense_f32", layer_f32_op},
      {"add_f32", add_f32},
      {"max_pool_s8", max_pool<int8_t, cuda::max_pool_s8>},
      {"max_pool_f32", max_pool<float, cuda::max_pool_f32>},
      {"stats_f32", stats_f32},
      {"attentive_pool_s8", attentive_pool_s8},
      {"attentive_pool_f32", attentive_pool_f32},
  };
  const auto found = factories.find(desc.op);
  return found == factories.end() ? nullptr : found->second(args, desc, host, constants);
}

}  // namespace earmark::device
