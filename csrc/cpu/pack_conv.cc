#include "cpu/pack_conv.h"

#include <cstdlib>

namespace earmark {
namespace {

// Taps of fewer inputs are gathered.
constexpr int kFewInputs = 8;

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

ConvShape as_seen(const ConvShape& shape) {
  if (shape.taps() == 1 || shape.c_in >= kFewInputs) return shape;
  ConvShape seen;
  seen.c_in = shape.taps() * shape.c_in;
  seen.c_out = shape.c_out;
  return seen;
}

template <class Packed>
Packed describe(Isa isa, const Packing& packing, const ConvShape& shape) {
  Packed packed{};
  packed.isa = isa;
  packed.shape = shape;
  packed.seen = as_seen(shape);
  packed.packing = packing;
  packed.c_in_padded = round_up(packed.seen.c_in, packing.depth);
  packed.panels = round_up(shape.c_out, packing.panel) / packing.panel;
  return packed;
}

template <class Packed, class W>
Packed pack(Isa isa, const Packing& packing, const ConvShape& shape, const W* weight) {
  auto packed = describe<Packed>(isa, packing, shape);
  const ConvShape& seen = packed.seen;
  const size_t depth_total = static_cast<size_t>(seen.taps()) * packed.c_in_padded;
  packed.weights =
      WeightBuffer<W>(static_cast<size_t>(packed.panels) * packing.panel * depth_total);
  for (int o = 0; o < shape.c_out; ++o) {
    W* panel = packed.weights.data() + (o / packing.panel) * packing.panel * depth_total;
    for (int tap = 0; tap < seen.taps(); ++tap) {
      const W* in = weight + (static_cast<size_t>(o) * seen.taps() + tap) * seen.c_in;
      for (int i = 0; i < seen.c_in; ++i) {
        const size_t k = static_cast<size_t>(tap) * packed.c_in_padded + i;
        const size_t group = k / packing.depth;
        panel[(group * packing.panel + o % packing.panel) * packing.depth + k % packing.depth] =
            in[i];
      }
    }
  }
  return packed;
}

// In pairs where the ISA has a kernel for them and this takes fewer instructions.
PackedConvS8 pack_s8(Isa isa, const ConvShape& shape, const int8_t* weight) {
  const Tiles& tiles = kernels(isa).tiles;
  if (tiles.s8_paired.panel != 0) {
    auto packed = describe<PackedConvS8>(isa, tiles.s8_paired, shape);
    packed.pairs = pack_paired(packed.seen, packed.c_in_padded, weight);
    packed.paired = packed.pairs.blocks.data();
    packed.paired_blocks = packed.pairs.blocks_a_panel;
    packed.pairings = packed.pairs.pairings;
    packed.packing.scratch_per_input = packed.pairings;
    if (packed.pairs.cost <= packed.pairs.cost_widened) return packed;
  }
  return pack<PackedConvS8>(isa, tiles.s8, shape, weight);
}

}  // namespace

AlignedBuffer<int32_t> initial_sums(const ConvShape& shape, const int8_t* weight,
                                    const int8_t* input_zero) {
  AlignedBuffer<int32_t> sums(round_up(shape.c_out, kMaxPanel));
  const size_t depth = static_cast<size_t>(shape.taps()) * shape.c_in;
  for (int o = 0; o < shape.c_out; ++o) {
    int64_t magnitude = 0;
    int64_t initial = 0;
    for (size_t k = 0; k < depth; ++k) {
      const int64_t w = weight[o * depth + k];
      magnitude += std::abs(w);
      initial -= w * (input_zero[k % shape.c_in] + 128);
    }
    EARMARK_CHECK(255 * magnitude < kMaxAccumulator, "output channel ", o,
                  ": 255 * sum|w| = ", 255 * magnitude, " could overflow the int32 accumulator");
    sums[o] = static_cast<int32_t>(initial);
  }
  return sums;
}

PackedConvS8 pack_conv_s8(Isa isa, const ConvShape& shape, const int8_t* weight,
                          const int8_t* input_zero) {
  PackedConvS8 packed = pack_s8(isa, shape, weight);
  packed.initial = initial_sums(shape, weight, input_zero);
  return packed;
}

PackedConvF32 pack_conv_f32(Isa isa, const ConvShape& shape, const float* weight) {
  return pack<PackedConvF32>(isa, kernels(isa).tiles.f32, shape, weight);
}

}  // namespace earmark
