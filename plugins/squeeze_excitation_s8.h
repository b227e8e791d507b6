// EarmarkSqueezeExcitationS8: the gate of squeeze-excitation (cuda/squeeze_excitation_s8.h). Input:
// int8 (batch, time, channels). Output: float32 (batch, channels).
#pragma once

#include "cuda/squeeze_excitation_s8.h"
#include "frames.h"
#include "plugin.h"

namespace earmark::trt {

class SqueezeExcitationS8 {
 public:
  struct Uploaded {
    cuda::SqueezeExcitationS8 call;
  };

  static constexpr char kName[] = "EarmarkSqueezeExcitationS8";
  static const std::vector<std::string>& fields();
  explicit SqueezeExcitationS8(const Fields& fields);

  static constexpr int inputs() { return 1; }
  static constexpr int outputs() { return 1; }
  DataType type(int position, DataType) const {
    return position == 0 ? DataType::kInt8 : DataType::kFloat;
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
  int in_zero_, squeezed_zero_, hidden_zero_;
  std::vector<float> mean_multiplier_, squeezed_, hidden_quantization_, table_;
  Weights reduce_, expand_;
  Epilogue reduce_epilogue_, expand_epilogue_;
};

}  // namespace earmark::trt
