#include "cpu/pack_conv.h"

#include <algorithm>
#include <cstring>

namespace earmark {
namespace {

// Taps of fewer inputs are gathered.
constexpr int kFewInputs = 8;
// Inputs whose sums int32 holds.
constexpr int kExact = 1 << 15;

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

// One tap of the channels [0, channels) of a panel: groups of kDepth inputs, each of all channels.
// A block of groups stays in the L1 cache from channel to channel.
template <int kDepth, class W>
void interleave(const W* weight, size_t row, int c_in, int channels, int panel, W* to) {
  constexpr int kBlock = 64 * kDepth;
  for (int begin = 0; begin < c_in; begin += kBlock) {
    const int end = std::min(begin + kBlock, c_in);
    for (int o = 0; o < channels; ++o) {
      const W* in = weight + o * row;
      W* out = to + static_cast<ptrdiff_t>(begin) * panel + o * kDepth;
      int i = begin;
      for (; i + kDepth <= end; i += kDepth, out += panel * kDepth) {
        std::memcpy(out, in + i, kDepth * sizeof(W));
      }
      std::copy(in + i, in + end, out);
    }
  }
}

// 128 * sum w of each channel (Packing::signed_inputs).
void write_head(const int8_t* weight, size_t row, int channels, int8_t* head) {
  for (int o = 0; o < channels; ++o, weight += row, head += sizeof(int32_t)) {
    int32_t sum = 0;
    for (size_t i = 0; i < row; ++i) sum += weight[i];
    sum *= 128;
    std::memcpy(head, &sum, sizeof sum);
  }
}

template <class Packed, class W>
Packed pack(Isa isa, const Packing& packing, const ConvShape& shape, const W* weight) {
  auto packed = describe<Packed>(isa, packing, shape);
  const ConvShape& seen = packed.seen;
  const int panel = packing.panel;
  const size_t tap_size = static_cast<size_t>(panel) * packed.c_in_padded;
  const size_t row = static_cast<size_t>(seen.taps()) * seen.c_in;
  const size_t head = panel_head(packing);
  packed.weights = WeightBuffer<W>(packed.panels * (head + seen.taps() * tap_size));
  W* to = packed.weights.data();
  for (int o = 0; o < shape.c_out; o += panel) {
    const int channels = std::min(panel, shape.c_out - o);
    if constexpr (sizeof(W) == 1) {
      if (head != 0) write_head(weight + o * row, row, channels, to);
      to += head;
    }
    for (int tap = 0; tap < seen.taps(); ++tap, to += tap_size) {
      const W* in = weight + o * row + static_cast<size_t>(tap) * seen.c_in;
      const auto with = [&](auto depth) {
        interleave<depth.value>(in, row, seen.c_in, channels, panel, to);
      };
      switch (packing.depth) {
        case 1:
          with(std::integral_constant<int, 1>());
          break;
        case 2:
          with(std::integral_constant<int, 2>());
          break;
        case 4:
          with(std::integral_constant<int, 4>());
          break;
        case 8:
          with(std::integral_constant<int, 8>());
          break;
        default:
          EARMARK_CHECK(false, "groups of ", packing.depth, " inputs");
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
  for (int o = 0; o < shape.c_out; ++o) {
    int64_t magnitude = 0;
    int64_t initial = 0;
    for (int tap = 0; tap < shape.taps(); ++tap, weight += shape.c_in) {
      for (int begin = 0; begin < shape.c_in; begin += kExact) {
        // In int32, which vectorises: 2^15 products of 128 and 255 fit.
        const int end = std::min(begin + kExact, shape.c_in);
        int32_t part_magnitude = 0, part = 0;
        for (int i = begin; i < end; ++i) {
          const int32_t w = weight[i];
          part_magnitude += w < 0 ? -w : w;
          part += w * (input_zero[i] + 128);
        }
        magnitude += part_magnitude;
        initial -= part;
      }
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
