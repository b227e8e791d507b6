// EarmarkAddS8: a residual added to frames, these times constants or a gate (docs/arithmetic.md,
// add_s8). Inputs: int8 (batch, time, channels), the residual likewise, and with `gate` float32
// (batch, channels). Output: int8 (batch, time, channels).
#pragma once

#include "cuda/add.h"
#include "frames.h"
#include "plugin.h"

namespace earmark::trt {

class AddS8 {
 public:
  struct Uploaded {
    const float* multiplier = nullptr;
  };

  static constexpr char kName[] = "EarmarkAddS8";
  static const std::vector<std::string>& fields();
  explicit AddS8(const Fields& fields);

  int inputs() const { return has_gate_ ? 3 : 2; }
  static constexpr int outputs() { return 1; }
  DataType type(int position, DataType) const {
    return has_gate_ && position == 2 ? DataType::kFloat : DataType::kInt8;
  }
  int rank(int input) const { return input == 2 ? 2 : 3; }
  void shape(const DimsExprs* in, DimsExprs* out, ExprBuilder& builder) const;
  void check(const TensorDesc* in, const TensorDesc* out) const;
  Uploaded upload(cuda::Constants& constants) const;
  size_t workspace(const Dims& in) const;
  cudaError_t enqueue(const Uploaded& uploaded, const TensorDesc* desc, const void* const* in,
                      void* const* out, void* workspace, const cuda::Launch& launch) const;

 private:
  int channels_;
  std::vector<float> multiplier_;
  float residual_multiplier_;
  int in_zero_, residual_zero_, out_zero_;
  bool relu_, has_gate_;
};

}  // namespace earmark::trt
