#include "cpu/pack_paired.h"

#include <algorithm>
#include <utility>

namespace earmark {
namespace {

constexpr int kLanes = 8;
constexpr int kVectors = 2;
constexpr int kPanel = kVectors * kLanes;
static_assert(kPanel == kTilesAvx2.s8_paired.panel);

// Two products of a byte and weights of this sum fit int16: 255 * 128 < 2^15.
constexpr int kMaxSum = 128;

// The orders in which a kernel's copy of a row holds four inputs; neighbours are a pair.
constexpr int kPairings[3][4] = {{0, 1, 2, 3}, {0, 2, 1, 3}, {0, 3, 1, 2}};

using Vector = PairedVector;

// One group of inputs in one pairing, for the channels of a panel.
struct Group {
  int32_t offset = 0;
  int splits = kVectors + 1;
  Vector part[kVectors];
  Vector rest[kVectors];
  bool is_split[kVectors] = {};
};

// By how much the sum of two weights is too large, with its sign.
int excess(int a, int b) {
  if ((a > 0) != (b > 0)) return 0;
  const int sum = a + b;
  return sum > kMaxSum ? sum - kMaxSum : sum < -kMaxSum ? sum + kMaxSum : 0;
}

Group make_group(const Vector (&weights)[kVectors], int number, int pairing) {
  Group group;
  group.offset = 12 * number + 4 * pairing;
  group.splits = 0;
  for (int j = 0; j < kVectors; ++j) {
    for (int c = 0; c < kLanes; ++c) {
      for (int i = 0; i < 4; i += 2) {
        const int a = weights[j].weight[c][kPairings[pairing][i]];
        const int b = weights[j].weight[c][kPairings[pairing][i + 1]];
        const int rest = excess(a, b);
        group.part[j].weight[c][i] = static_cast<int8_t>(a - rest);
        group.part[j].weight[c][i + 1] = static_cast<int8_t>(b);
        group.rest[j].weight[c][i] = static_cast<int8_t>(rest);
        group.is_split[j] |= rest != 0;
      }
    }
    group.splits += group.is_split[j];
  }
  return group;
}

Group best_group(const Vector (&weights)[kVectors], int number) {
  Group best;
  for (int pairing = 0; pairing < 3 && best.splits > 0; ++pairing) {
    const Group group = make_group(weights, number, pairing);
    if (group.splits < best.splits) best = group;
  }
  return best;
}

// Vectors and the offsets of their groups, in a kernel's order.
struct Stream {
  std::vector<Vector> vectors;
  std::vector<int32_t> offsets;

  void append(const Stream& other) {
    vectors.insert(vectors.end(), other.vectors.begin(), other.vectors.end());
    offsets.insert(offsets.end(), other.offsets.begin(), other.offsets.end());
  }
};

}  // namespace

PairedWeights pack_paired(const ConvShape& shape, int c_in_padded, const int8_t* weight) {
  const int groups_a_tap = c_in_padded / 4;
  PairedWeights packed;
  const size_t panels = (shape.c_out + kPanel - 1) / kPanel;
  const size_t groups = panels * shape.taps() * groups_a_tap;
  Stream all;
  // Space for a fifth more, beyond which the result is not used.
  all.vectors.reserve(groups * kVectors * 6 / 5);
  all.offsets.reserve(groups * 7 / 5);
  for (int begin = 0; begin < shape.c_out; begin += kPanel) {
    const int end = std::min(begin + kPanel, shape.c_out);
    Stream extra[kVectors];
    for (int number = 0; number < shape.taps() * groups_a_tap; ++number) {
      const int tap = number / groups_a_tap;
      const int i = 4 * (number % groups_a_tap);
      Vector weights[kVectors];
      for (int o = begin; o < end; ++o) {
        const size_t row = static_cast<size_t>(o) * shape.taps() + tap;
        std::copy_n(weight + row * shape.c_in + i, std::min(4, shape.c_in - i),
                    weights[(o - begin) / kLanes].weight[o % kLanes]);
      }
      const Group group = best_group(weights, number);
      all.offsets.push_back(group.offset);
      for (int j = 0; j < kVectors; ++j) {
        all.vectors.push_back(group.part[j]);
        if (!group.is_split[j]) continue;
        extra[j].vectors.push_back(group.rest[j]);
        extra[j].offsets.push_back(group.offset);
      }
    }
    PairedPanel& panel = packed.panels.emplace_back();
    panel.groups = shape.taps() * groups_a_tap;
    for (int j = 0; j < kVectors; ++j) {
      panel.extra[j] = static_cast<int>(extra[j].vectors.size());
      packed.extra += panel.extra[j];
      all.append(extra[j]);
    }
  }
  packed.vectors = std::move(all.vectors);
  packed.offsets = std::move(all.offsets);
  const Vector* vectors = packed.vectors.data();
  const int32_t* offsets = packed.offsets.data();
  for (PairedPanel& panel : packed.panels) {
    panel.weights = vectors->weight[0];
    panel.offsets = offsets;
    const int extra = panel.extra[0] + panel.extra[1];
    vectors += panel.groups * kVectors + extra;
    offsets += panel.groups + extra;
  }
  return packed;
}

}  // namespace earmark
