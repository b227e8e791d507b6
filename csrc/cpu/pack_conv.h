// Convolution weights in the order that one instruction set reads them, with what they were packed
// for.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv_shape.h"
#include "cpu/aligned_buffer.h"
#include "cpu/kernels.h"
#include "cpu/pack_paired.h"
#include "cpu/weight_memory.h"

namespace earmark {

// Packed for `isa`; another ISA's kernels must not read it.
template <class W>
struct PackedConv {
  Isa isa;
  ConvShape shape;
  // As the kernel sees it. Where the taps have few inputs, they are copied side by side and are one
  // tap: padded alone to the kernel's depth, most products would be with zeros.
  ConvShape seen;
  Packing packing;
  int c_in_padded;
  int panels;
  WeightBuffer<W> weights;              // empty if they are
  const PairedBlock* paired = nullptr;  // here
  int paired_blocks = 0;
  int pairings = 0;

  bool gathers() const { return seen.taps() != shape.taps(); }
};

struct PackedConvS8 : PackedConv<int8_t> {
  PairedWeights pairs;
  AlignedBuffer<int32_t> initial;  // -(z + 128) * sum w, padded to kMaxPanel
};

using PackedConvF32 = PackedConv<float>;

// weight: [c_out][taps][c_in]; input_zero: [c_in]. Throws if an int32 sum could overflow.
PackedConvS8 pack_conv_s8(Isa isa, const ConvShape& shape, const int8_t* weight,
                          const int8_t* input_zero);
// Where the accumulators start: -(z + 128) * sum w. As `PackedConvS8::initial`, for another zero
// point.
AlignedBuffer<int32_t> initial_sums(const ConvShape& shape, const int8_t* weight,
                                    const int8_t* input_zero);
PackedConvF32 pack_conv_f32(Isa isa, const ConvShape& shape, const float* weight);

}  // namespace earmark
