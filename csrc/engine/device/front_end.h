// A front end's tables in device memory, and its kernels.
#pragma once

#include "cuda/fbank_f32.h"
#include "engine/device/walk.h"
#include "engine/front_end.h"

namespace earmark::device {

class DeviceFrontEnd {
 public:
  explicit DeviceFrontEnd(const FrontEnd& front_end);

  // Whether it makes what that front end makes.
  bool same_as(const FrontEnd& front_end) const;
  // Features [frames.rows][n_features] of waveforms that lie one after another.
  cudaError_t run(const float* samples, const int64_t* starts, const cuda::Ragged& frames,
                  float* features, const cuda::Launch& launch) const;

 private:
  std::vector<char> contents_;  // all that its features depend on
  Constants constants_;
  FbankTables tables_;
  FbankNormalization normalization_;
};

}  // namespace earmark::device
