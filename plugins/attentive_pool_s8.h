// EarmarkAttentivePoolS8: the attention's last layer, the softmax over time, exact or with a
// piecewise-linear function or a table in place of exp, and the weighted statistics
// (cuda/attentive_pool_s8.h). Inputs: int8 (batch, time, hidden) and int8 (batch, time, channels).
// Output: float32 (batch, 2 * channels), means and standard deviations.
#pragma once

#include "cuda/attentive_pool_s8.h"
#include "frames.h"
#include "plugin.h"
#include "softmax_function.h"

namespace earmark::trt {

class AttentivePoolS8 {
 public:
  struct Uploaded {
    cuda::AttentivePoolS8 call;
  };

  static constexpr char kName[] = "EarmarkAttentivePoolS8";
  static const std::vector<std::string>& fields();
  explicit AttentivePoolS8(const Fields& fields);

  static constexpr int inputs() { return 2; }
  static constexpr int outputs() { return 1; }
  DataType type(int position, DataType) const {
    return position < 2 ? DataType::kInt8 : DataType::kFloat;
  }
  int rank(int) const { return 3; }
  void shape(const DimsExprs* in, DimsExprs* out, ExprBuilder& builder) const;
  void check(const TensorDesc* in, const TensorDesc* out) const;
  Uploaded upload(cuda::Constants& constants) const;
  size_t workspace(const Dims& in) const;
  cudaError_t enqueue(const Uploaded& uploaded, const TensorDesc* desc, const void* const* in,
                      void* const* out, void* workspace, const cuda::Launch& launch) const;

 private:
  int channels_, hidden_;
  int value_zero_;
  double min_variance_;
  Weights weights_;
  std::vector<float> multiplier_, offset_, value_multiplier_;
  SoftmaxFields softmax_;
};

}  // namespace earmark::trt
