// Tensors (batch, time, channels) of a plugin as the kernels take them, and constants of layers.
#pragma once

#include "core/epilogue_s8.h"
#include "cuda/constants.h"
#include "cuda/conv_s8.h"
#include "cuda/pack_conv_s8.h"
#include "fields.h"

namespace earmark::trt {

// Of frames: (batch, time, channels), of a vector (batch, channels) with time 1.
struct Shape {
  int batch = 0, time = 1, channels = 0;

  // Throws std::invalid_argument for dimensions that no tensor of `channels` has.
  static Shape frames(const Dims& dims, int channels);
  static Shape vector(const Dims& dims, int channels);
};

// The memory that an op asks of TensorRT: where recordings begin, and what the kernels share, which
// has to be zero before.
class Workspace {
 public:
  static size_t bytes(int batch, size_t shared);

  // Queues what fills it.
  Workspace(void* memory, const Shape& shape, size_t shared, const cuda::Launch& launch);

  cuda::Ragged frames() const { return frames_; }
  const cuda::Launch& launch() const { return launch_; }

 private:
  cuda::Ragged frames_;
  cuda::Launch launch_;
};

// 0, frames, 2 * frames ... to `offsets`, [batch + 1].
cudaError_t count_offsets(int32_t* offsets, int batch, int frames, const cuda::Launch& launch);

inline constexpr int kMostChannels = 1 << 16;

// An epilogue as a plan stores it, rows of `channels`: multiplier, offset and perhaps gain and
// shift.
struct Epilogue {
  int channels = 0;
  std::vector<float> rows;
  bool relu = false;
  int out_zero = 0;

  EpilogueS8 upload(cuda::Constants& constants, const std::vector<int32_t>& initial) const;
};
// `row`: of `rows` many one behind the other, each of two or four rows of `channels`.
Epilogue epilogue_of(const std::vector<float>& values, int channels, int layers, int row);

// Finite floats within what a plan may hold.
std::vector<float> factors(const Fields& fields, const std::string& name, int64_t size);

// Weights of a layer as the kernels read them.
class Weights {
 public:
  Weights() = default;
  // weight: [c_out][taps][c_in]; zero: of each input channel. Throws std::invalid_argument for -128
  // and for sums that could overflow.
  Weights(const ConvShape& shape, const int8_t* weight, const std::vector<int8_t>& zero);

  // What a layer's sums begin with.
  const std::vector<int32_t>& initial() const { return packed_.initial; }
  cuda::WeightsS8 upload(cuda::Constants& constants) const;

 private:
  cuda::PackedConvS8 packed_;
};

}  // namespace earmark::trt
