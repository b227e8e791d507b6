// EarmarkRes2S8: the chain of convolutions of an SE-Res2 block (cuda/res2_s8.h). Input and output:
// int8 (batch, time, (steps + 1) * width), in chunks of `width` channels. `in_at` and `out_at` say
// which chunk is which: first the one that passes the chain by, then those of the steps.
#pragma once

#include "cuda/res2_s8.h"
#include "frames.h"
#include "plugin.h"

namespace earmark::trt {

class Res2S8 {
 public:
  struct Uploaded {
    std::vector<cuda::WeightsS8> weights;
    std::vector<EpilogueS8> epilogues;
    std::vector<const float*> multipliers;  // of every step but the first
  };

  static constexpr char kName[] = "EarmarkRes2S8";
  static const std::vector<std::string>& fields();
  explicit Res2S8(const Fields& fields);

  static constexpr int inputs() { return 1; }
  static constexpr int outputs() { return 1; }
  DataType type(int, DataType) const { return DataType::kInt8; }
  int rank(int) const { return 3; }
  void shape(const DimsExprs* in, DimsExprs* out, ExprBuilder& builder) const;
  void check(const TensorDesc* in, const TensorDesc* out) const;
  Uploaded upload(cuda::Constants& constants) const;
  size_t workspace(const Dims& in) const;
  cudaError_t enqueue(const Uploaded& uploaded, const TensorDesc* desc, const void* const* in,
                      void* const* out, void* workspace, const cuda::Launch& launch) const;

 private:
  int channels() const { return (steps_ + 1) * shape_.c_in; }

  int steps_;
  ConvShape shape_;
  std::vector<Weights> weights_;  // of each step
  std::vector<Epilogue> epilogues_;
  std::vector<float> multiplier_, residual_multiplier_;
  std::vector<int> in_at_, out_at_;
  std::vector<int> in_zero_, sum_zero_, out_zero_;
};

}  // namespace earmark::trt
