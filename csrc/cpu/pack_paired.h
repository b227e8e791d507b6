// Weights for VPMADDUBSW, which adds two products u8 * s8 in int16 and saturates.
//
// A pair of weights cannot saturate if its positive and its negative sum are at most 128 in
// magnitude (255 * 128 < 2^15). Pairs are made within groups of four inputs, in the one of three
// ways that leaves the fewest pairs too large; what still is too large is split: the rest goes into
// an extra group of 8 channels. Bell-shaped weights of wide layers need few of them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv_shape.h"
#include "cpu/kernels.h"

namespace earmark {

// Weights of four inputs for 8 channels.
struct alignas(32) PairedVector {
  int8_t weight[8][4] = {};
};

struct PairedWeights {
  std::vector<PairedVector> vectors;
  std::vector<int32_t> offsets;
  std::vector<PairedPanel> panels;  // point into the two
  size_t extra = 0;                 // vectors that are there because of a split
};

// In panels of 16 channels. weight: [c_out][taps][c_in]; c_in_padded: a multiple of 4.
PairedWeights pack_paired(const ConvShape& shape, int c_in_padded, const int8_t* weight);

}  // namespace earmark
