// EarmarkConvS8: a convolution over time with what follows it in the plan (docs/arithmetic.md,
// conv_s8). Inputs: int8 (batch, time, c_in), or several whose channels follow each other, `parts`
// of them; with `bias` then float32 (batch, c_out) in place of the offsets. Output: int8
// (batch, time, c_out).
//
// Several, so that no Concat stands between plugins: TensorRT may have plugins write into parts of
// its result, of which they are told nothing.
#pragma once

#include "frames.h"
#include "plugin.h"

namespace earmark::trt {

class ConvS8 {
 public:
  struct Uploaded {
    cuda::LayerS8 layer;
    const int8_t* table = nullptr;
  };

  static constexpr char kName[] = "EarmarkConvS8";
  static const std::vector<std::string>& fields();
  explicit ConvS8(const Fields& fields);

  int inputs() const { return parts() + (has_bias_ ? 1 : 0); }
  static constexpr int outputs() { return 1; }
  DataType type(int position, DataType) const {
    return has_bias_ && position == parts() ? DataType::kFloat : DataType::kInt8;
  }
  int rank(int input) const { return input < parts() ? 3 : 2; }
  void shape(const DimsExprs* in, DimsExprs* out, ExprBuilder& builder) const;
  void check(const TensorDesc* in, const TensorDesc* out) const;
  Uploaded upload(cuda::Constants& constants) const;
  size_t workspace(const Dims& in) const;
  cudaError_t enqueue(const Uploaded& uploaded, const TensorDesc* desc, const void* const* in,
                      void* const* out, void* workspace, const cuda::Launch& launch) const;

 private:
  int parts() const { return static_cast<int>(parts_.size()); }

  ConvShape shape_;
  std::vector<int> parts_;  // channels of each input
  Weights weights_;
  std::vector<int8_t> table_;
  Epilogue epilogue_;
  bool has_bias_ = false;
};

}  // namespace earmark::trt
