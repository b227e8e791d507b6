// EarmarkSoftmax: softmax over one axis, exact or with a piecewise-linear function or a table in
// place of exp (cuda/softmax.h). Input and output: float32, float16 or bfloat16 of any shape.
#pragma once

#include "cuda/softmax.h"
#include "frames.h"
#include "plugin.h"
#include "softmax_function.h"

namespace earmark::trt {

class Softmax {
 public:
  struct Uploaded {
    cuda::SoftmaxFunction function;
  };

  static constexpr char kName[] = "EarmarkSoftmax";
  static const std::vector<std::string>& fields();
  explicit Softmax(const Fields& fields);

  static constexpr int inputs() { return 1; }
  static constexpr int outputs() { return 1; }
  DataType type(int, DataType given) const {
    return given == DataType::kHalf || given == DataType::kBFloat16 ? given : DataType::kFloat;
  }
  int rank(int) const { return 0; }
  void shape(const DimsExprs* in, DimsExprs* out, ExprBuilder& builder) const;
  void check(const TensorDesc* in, const TensorDesc* out) const;
  Uploaded upload(cuda::Constants& constants) const;
  size_t workspace(const Dims& in) const;
  cudaError_t enqueue(const Uploaded& uploaded, const TensorDesc* desc, const void* const* in,
                      void* const* out, void* workspace, const cuda::Launch& launch) const;

 private:
  int axis_;
  SoftmaxFields softmax_;
};

}  // namespace earmark::trt
