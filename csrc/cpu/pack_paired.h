// Weights for VPMADDUBSW, which adds two products u8 * s8 in int16 and saturates.
//
// A pair of weights cannot saturate if its positive and its negative sum are at most 128 in
// magnitude (255 * 128 < 2^15). Pairs are made within groups of four inputs, in the one of three
// ways that leaves the fewest pairs too large; what still is too large is split: the rest goes into
// an extra group of 8 channels. Bell-shaped weights of wide layers need few of them.
//
// Weights of seven bits need none of that, and their inputs are not copied in three orders but
// once.
//
// The same bound holds for two pairs together in most choices of two groups: then their sums of
// products may be added in int16, before they are widened. Groups are matched so that nearly all
// find another, the most difficult first.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv_shape.h"
#include "cpu/kernels.h"
#include "cpu/weight_memory.h"

namespace earmark {

// Weights of four inputs for 8 channels.
struct alignas(32) PairedVector {
  int8_t weight[8][4] = {};
};

struct PairedWeights {
  std::vector<WeightBuffer<PairedVector>> panels;
  std::vector<int32_t> offsets;
  std::vector<PairedBlock> blocks;  // point into the two; one more ends them
  int blocks_a_panel = 0;
  int pairings = 3;  // that weights read of each group: all three, or 1, the inputs' own order
  // Vector instructions that a row takes for all of it, and the measured equal of them if the
  // weights were widened to int16 instead.
  int64_t cost = 0;
  int64_t cost_widened = 0;
};

// In panels of 16 channels and blocks of inputs, whose weights and rows of a tile fit the L1 cache
// together. weight: [c_out][taps][c_in]; without -128; c_in_padded: a multiple of
// 4.
PairedWeights pack_paired(const ConvShape& shape, int c_in_padded, const int8_t* weight);

}  // namespace earmark
