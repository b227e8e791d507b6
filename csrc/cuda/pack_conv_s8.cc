#include "cuda/pack_conv_s8.h"

#include <cstdlib>

#include "core/planes.h"

namespace earmark::cuda {
namespace {

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

PackedConvS8 pack_conv_s8(const ConvShape& shape, const int8_t* weight, const int8_t* input_zero) {
  const size_t depth = static_cast<size_t>(shape.taps()) * shape.c_in;
  EARMARK_CHECK(depth <= kMaxAccumulator, "a layer of ", depth, " inputs");
  const int outputs = padded_channels(shape.c_out);
  PackedConvS8 packed;
  packed.depth = round_up(static_cast<int>(depth), kDepth);
  packed.weight.resize(static_cast<size_t>(outputs) * packed.depth);
  packed.initial.resize(outputs);
  packed.input_zero.assign(input_zero, input_zero + shape.c_in);
  packed.input_zero.resize(round_up(shape.c_in, 16));
  for (int o = 0; o < shape.c_out; ++o) {
    int64_t magnitude = 0;
    int64_t initial = 0;
    for (size_t k = 0; k < depth; ++k) {
      const int8_t w = weight[o * depth + k];
      packed.weight[static_cast<size_t>(o) * packed.depth + k] = w;
      magnitude += std::abs(w);
      initial -= static_cast<int64_t>(w) * input_zero[k % shape.c_in];
    }
    EARMARK_CHECK(255 * magnitude < kMaxAccumulator, "output channel ", o,
                  ": 255 * sum|w| = ", 255 * magnitude, " could overflow the int32 accumulator");
    packed.initial[o] = static_cast<int32_t>(initial);
  }
  return packed;
}

PackedConvS16 pack_conv_s16(const ConvShape& shape, const std::vector<std::vector<int8_t>>& weight,
                            const std::vector<std::vector<int8_t>>& input_zero) {
  PackedConvS16 all;
  all.initial.resize(padded_channels(shape.c_out));
  const auto append = [](std::vector<int8_t>& to, const std::vector<int8_t>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  const int inputs = static_cast<int>(input_zero.size()), weights = static_cast<int>(weight.size());
  for (int a = 0; a < inputs; ++a) {
    for (int b = 0; b < weights; ++b) {
      const PackedConvS8 packed = pack_conv_s8(shape, weight[b].data(), input_zero[a].data());
      if (a == 0) append(all.weight, packed.weight);
      if (b == 0) append(all.input_zero, packed.input_zero);
      all.depth = packed.depth;
      for (size_t o = 0; o < all.initial.size(); ++o) {
        all.initial[o] += int64_t{plane_factor(inputs, a, weights, b)} * packed.initial[o];
      }
    }
  }
  return all;
}

}  // namespace earmark::cuda
