// The int8 ops that others are fused from (fuse.h); what each does is in csrc/cuda/<op>.h.
#pragma once

#include "cuda/add.h"
#include "cuda/conv_s8.h"
#include "cuda/dense_s8.h"
#include "cuda/quantize_s8.h"
#include "cuda/softmax_function.h"
#include "cuda/stats.h"
#include "engine/device/device_op.h"
#include "engine/op_args.h"

namespace earmark::device {

// Per-channel arrays in device memory, as the kernels want them padded.
const float* upload(Constants& constants, const AlignedBuffer<float>& values, int channels);
EpilogueS8 upload(Constants& constants, const Epilogue& epilogue,
                  const std::vector<int32_t>& initial, int channels, bool relu, int zero_u8);

// Likewise a table with lines, a softmax.
LookupTable upload(Constants& constants, LookupTable table);
cuda::SoftmaxFunction softmax_function(const OpArgs& args, Constants& constants, bool integer);

// Weights, epilogue and the input's quantization of an int8 layer.
class LayerS8 {
 public:
  LayerS8(const OpArgs& args, const OpDesc& desc, Constants& constants, const ConvShape& shape,
          const Tensor& in, const std::vector<int64_t>& weight_shape, int out_zero_u8);

  cuda::LayerS8 of(const Walk& walk, const Tensor* bias) const {
    return {weights, epilogue, walk.vectors(bias), walk.vectors(quantization)};
  }

  const Tensor* quantization;
  cuda::WeightsS8 weights;
  EpilogueS8 epilogue;
};

class ConvS8 final : public DeviceOp {
 public:
  ConvS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants);
  cuda::ConvS8 call(const Walk& walk) const;
  cudaError_t launch(const Walk& walk) const override {
    return cuda::conv_s8(call(walk), walk.launch);
  }
  size_t workspace_bytes(const Walk& walk) const override {
    return cuda::workspace_bytes(call(walk), *walk.launch.device);
  }

  const Tensor *in, *out, *bias = nullptr;
  ConvShape shape;
  LayerS8 layer;
  const int8_t* table = nullptr;
  int table_size = 0;
};

class DenseS8 final : public DeviceOp {
 public:
  DenseS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants);
  cudaError_t launch(const Walk& walk) const override;

  const Tensor *in, *out;
  LayerS8 layer;
  const float* table = nullptr;
  int table_size = 0;
};

class AddS8 final : public DeviceOp {
 public:
  AddS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants);
  cudaError_t launch(const Walk& walk) const override;

  const Tensor *in, *residual, *out, *gate = nullptr;
  const float* multiplier;
  float residual_multiplier;
  bool relu;
};

class QuantizeS8 final : public DeviceOp {
 public:
  QuantizeS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants);
  cudaError_t launch(const Walk& walk) const override;

  const Tensor *in, *out, *quantization;
  const float* multiplier = nullptr;
  const float* offset = nullptr;
};

class StatsS8 final : public DeviceOp {
 public:
  StatsS8(const OpArgs& args, const OpDesc& desc, const Op& host, Constants& constants);
  cuda::StatsS8 call(const Walk& walk) const;
  cudaError_t launch(const Walk& walk) const override {
    return cuda::stats_s8(call(walk), walk.launch);
  }

  const Tensor *in, *out, *valid;
  const float* multiplier;
  bool std;
  Variance variance;
};

// What is not in this header, of other dtypes and of 16 bits; null for an op that is neither.
DeviceOpPtr make_other_op(const OpArgs& args, const OpDesc& desc, const Op& host,
                          Constants& constants);
DeviceOpPtr make_s16_op(const OpArgs& args, const OpDesc& desc, const Op& host,
                        Constants& constants);

}  // namespace earmark::device
