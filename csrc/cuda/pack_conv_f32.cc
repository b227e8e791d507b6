#include "cuda/pack_conv_f32.h"

#include "cuda/tensors.h"

namespace earmark::cuda {

std::vector<float> pack_conv_f32(const ConvShape& shape, const float* weight) {
  const size_t depth = static_cast<size_t>(shape.taps()) * shape.c_in;
  const int outputs = padded_channels(shape.c_out);
  std::vector<float> packed(depth * outputs);
  for (int o = 0; o < shape.c_out; ++o) {
    for (size_t k = 0; k < depth; ++k) packed[k * outputs + o] = weight[o * depth + k];
  }
  return packed;
}

}  // namespace earmark::cuda
