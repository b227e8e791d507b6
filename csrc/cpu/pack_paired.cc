#include "cpu/pack_paired.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace earmark {
namespace {

constexpr int kLanes = 8;
constexpr int kVectors = 2;
constexpr int kPanel = kVectors * kLanes;
static_assert(kPanel == kTilesAvx2.s8_paired.panel);

// 12 KiB of weights beside the lines of a tile.
constexpr int kBlockGroups = 192;

// Two products of a byte and weights of this sum fit int16: 255 * 128 < 2^15.
constexpr int kMaxSum = 128;

// The orders in which a kernel's copy of a row holds four inputs; neighbours are a pair.
constexpr int kPairings[3][4] = {{0, 1, 2, 3}, {0, 2, 1, 3}, {0, 3, 1, 2}};

// Vector instructions of a row: products of bytes, widening and adding for each vector of channels,
// one broadcast for each group. A group of widened weights takes as long as nine on Zen 3.
constexpr int kCostDouble = 5 * kVectors + 2;
constexpr int kCostSingle = 3 * kVectors + 1;
constexpr int kCostExtra = 3 + 1;
constexpr int kCostWidened = 9;

// The copy of a group is worth so much for each pairing: with inputs as they are, so many times the
// least cost are allowed.
constexpr double kCostNatural = 1.1;

using Vector = PairedVector;

// Eight bytes, one for each channel of a vector; no operation here carries from one to the next.
using Bytes = uint64_t;
static_assert(sizeof(Bytes) == kLanes);
constexpr Bytes kOnes = 0x0101010101010101;
constexpr Bytes kTops = 0x80 * kOnes;

// What the weights of a group add up to in one pairing: of each pair the positive and the negative
// sum, at most 127. Where one is 128, what is matched with it must be 0, as with 127.
struct PairSums {
  Bytes sums[kVectors][2][2];  // [vector][negative][pair]
  bool is_split[kVectors] = {};
  int splits = 0;

  // Whether no sum together with the other's exceeds the bound. Without branches, which nobody
  // could predict.
  bool fit(const PairSums& other) const {
    const Bytes* a = sums[0][0];
    const Bytes* b = other.sums[0][0];
    Bytes over = 0;
    for (size_t i = 0; i < sizeof sums / sizeof(Bytes); ++i) over |= a[i] + b[i];
    return (over & kTops) == 0;
  }

  // How many sums are large; a match fails by these.
  int difficulty() const {
    int total = 0;
    const Bytes* words = sums[0][0];
    for (size_t i = 0; i < sizeof sums / sizeof(Bytes); ++i) {
      for (const int large : {48, 80, 104}) {
        total += (((words[i] + (128 - large) * kOnes) & kTops) >> 7) * kOnes >> 56;
      }
    }
    return total;
  }
};

using Magnitudes = Bytes[2][kVectors][4];  // [negative][vector][input], bytes of at most 127

// Of a vector that must be split, the halves that stay: small sums find a match.
PairSums sum_pairs(const Magnitudes& magnitudes, int pairing) {
  PairSums result;
  for (int j = 0; j < kVectors; ++j) {
    Bytes too_large = 0;
    for (int negative = 0; negative < 2; ++negative) {
      const Bytes* inputs = magnitudes[negative][j];
      for (int pair = 0; pair < 2; ++pair) {
        const Bytes sum =
            inputs[kPairings[pairing][2 * pair]] + inputs[kPairings[pairing][2 * pair + 1]];
        too_large |= sum & ((sum & ~kTops) + ~kTops) & kTops;
        result.sums[j][negative][pair] = sum - ((sum & kTops) >> 7);
      }
    }
    if (too_large == 0) continue;
    result.is_split[j] = true;
    ++result.splits;
    for (int negative = 0; negative < 2; ++negative) {
      const auto half = [&](int input) {
        return magnitudes[negative][j][kPairings[pairing][input]] >> 1 & ~kTops;
      };
      result.sums[j][negative][0] = half(0) + half(1);
      result.sums[j][negative][1] = half(2) + half(3);
    }
  }
  return result;
}

// Four inputs of a panel, and the pairings that leave the fewest splits: one may be there twice.
struct Group {
  int number;
  Vector weights[kVectors];
  int pairings[3];
  PairSums sums[3];
  int difficulty;
};

void find_pairings(Group& group, int pairings) {
  Magnitudes magnitudes;
  for (int j = 0; j < kVectors; ++j) {
    uint8_t bytes[2][4][kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int w = group.weights[j].weight[lane][i];
        bytes[0][i][lane] = static_cast<uint8_t>(std::max(w, 0));
        bytes[1][i][lane] = static_cast<uint8_t>(std::max(-w, 0));
      }
    }
    std::memcpy(magnitudes[0][j], bytes[0], sizeof bytes[0]);
    std::memcpy(magnitudes[1][j], bytes[1], sizeof bytes[1]);
  }
  int best = 0;
  for (int i = 0; i < 3; ++i) {
    const int pairing = i < pairings ? i : 0;
    group.pairings[i] = pairing;
    group.sums[i] = sum_pairs(magnitudes, pairing);
    if (group.sums[i].splits < group.sums[best].splits) best = i;
  }
  group.difficulty = group.sums[best].difficulty();
  for (int i = 0; i < 3; ++i) {
    if (group.sums[i].splits > group.sums[best].splits) {
      group.pairings[i] = group.pairings[best];
      group.sums[i] = group.sums[best];
    }
    group.difficulty = std::min(group.difficulty, group.sums[i].difficulty());
  }
}

// Pairings in which two groups can be added in int16, indices of both; first is -1 if there are
// none.
std::pair<int, int> match(const Group& a, const Group& b) {
  unsigned fitting = 0;
  for (int i = 0; i < 3; ++i) {
    for (int k = 0; k < 3; ++k) {
      fitting |= static_cast<unsigned>(a.sums[i].fit(b.sums[k])) << (3 * i + k);
    }
  }
  if (fitting == 0) return {-1, -1};
  const int first = std::countr_zero(fitting);
  return {first / 3, first % 3};
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

// The streams of a block.
struct BlockStreams {
  int pairings = 0;  // that the kernel copies
  Stream doubles, singles, extra[kVectors];

  void add(Stream& to, const Group& group, int choice) {
    const int pairing = group.pairings[choice];
    const int offset = kPairedLine * (pairings * group.number + pairing);
    to.offsets.push_back(offset);
    for (int j = 0; j < kVectors; ++j) {
      Vector part, rest;
      const bool is_split = group.sums[choice].is_split[j];
      for (int lane = 0; lane < kLanes; ++lane) {
        for (int i = 0; i < 4; ++i) {
          const int w = group.weights[j].weight[lane][kPairings[pairing][i]];
          const int kept = is_split ? w / 2 : w;
          part.weight[lane][i] = static_cast<int8_t>(kept);
          rest.weight[lane][i] = static_cast<int8_t>(w - kept);
        }
      }
      to.vectors.push_back(part);
      if (!is_split) continue;
      extra[j].vectors.push_back(rest);
      extra[j].offsets.push_back(offset);
    }
  }
};

BlockStreams match_groups(const std::vector<Group>& groups, int pairings) {
  std::vector<const Group*> left;
  for (const Group& group : groups) left.push_back(&group);
  std::stable_sort(left.begin(), left.end(),
                   [](const Group* a, const Group* b) { return a->difficulty > b->difficulty; });
  BlockStreams block;
  block.pairings = pairings;
  while (!left.empty()) {
    const Group* group = left.front();
    left.erase(left.begin());
    // The most difficult that fits: easy ones are for those that come later.
    std::pair<int, int> pairings;
    const auto other = std::find_if(left.begin(), left.end(), [&](const Group* candidate) {
      pairings = match(*group, *candidate);
      return pairings.first >= 0;
    });
    if (other == left.end()) {
      block.add(block.singles, *group, 0);
      continue;
    }
    block.add(block.doubles, *group, pairings.first);
    block.add(block.doubles, **other, pairings.second);
    left.erase(other);
  }
  return block;
}

// The weights of one panel and of the groups [first, last) of four inputs.
std::vector<Group> read_groups(const ConvShape& shape, int groups_a_tap, const int8_t* weight,
                               int panel, int first, int last, int pairings) {
  const int begin = panel * kPanel;
  const int end = std::min(begin + kPanel, shape.c_out);
  std::vector<Group> groups(last - first);
  for (int number = first; number < last; ++number) {
    Group& group = groups[number - first];
    group.number = number;
    const int tap = number / groups_a_tap;
    const int i = 4 * (number % groups_a_tap);
    for (int o = begin; o < end; ++o) {
      const size_t row = static_cast<size_t>(o) * shape.taps() + tap;
      std::copy_n(weight + row * shape.c_in + i, std::min(4, shape.c_in - i),
                  group.weights[(o - begin) / kLanes].weight[o % kLanes]);
    }
    find_pairings(group, pairings);
  }
  return groups;
}

PairedBlock count(const BlockStreams& streams) {
  PairedBlock block{};
  block.doubles = static_cast<int>(streams.doubles.offsets.size() / 2);
  block.singles = static_cast<int>(streams.singles.offsets.size());
  for (int j = 0; j < kVectors; ++j) {
    block.extra[j] = static_cast<int>(streams.extra[j].offsets.size());
  }
  return block;
}

int64_t cost_of(const PairedBlock& block) {
  return kCostDouble * block.doubles + kCostSingle * block.singles +
         kCostExtra * (block.extra[0] + block.extra[1]);
}

}  // namespace

PairedWeights pack_paired(const ConvShape& shape, int c_in_padded, const int8_t* weight) {
  const int groups_a_tap = c_in_padded / 4;
  const int groups_a_panel = shape.taps() * groups_a_tap;
  const int panels = (shape.c_out + kPanel - 1) / kPanel;
  PairedWeights packed;
  packed.blocks_a_panel = (groups_a_panel + kBlockGroups - 1) / kBlockGroups;
  packed.cost_widened = int64_t{kCostWidened} * groups_a_panel * panels;
  const auto block_begin = [&](int b) { return groups_a_panel * b / packed.blocks_a_panel; };
  const auto streams_of = [&](int panel, int b) {
    return match_groups(read_groups(shape, groups_a_tap, weight, panel, block_begin(b),
                                    block_begin(b + 1), packed.pairings),
                        packed.pairings);
  };
  // As the first block is, the others are.
  packed.pairings = 1;
  if (cost_of(count(streams_of(0, 0))) > kCostNatural * kCostDouble / 2 * block_begin(1)) {
    packed.pairings = 3;
  }
  Stream all;
  // Space for a fifth more, beyond which the result is rarely used.
  all.vectors.reserve(static_cast<size_t>(groups_a_panel) * panels * kVectors * 6 / 5);
  all.offsets.reserve(static_cast<size_t>(groups_a_panel) * panels * 7 / 5);
  for (int panel = 0; panel < panels; ++panel) {
    for (int b = 0; b < packed.blocks_a_panel; ++b) {
      const BlockStreams streams = streams_of(panel, b);
      packed.blocks.push_back(count(streams));
      packed.cost += cost_of(packed.blocks.back());
      all.append(streams.doubles);
      all.append(streams.singles);
      for (const Stream& extra : streams.extra) all.append(extra);
    }
  }
  packed.vectors = WeightBuffer<Vector>(all.vectors.size());
  std::copy(all.vectors.begin(), all.vectors.end(), packed.vectors.data());
  packed.offsets = std::move(all.offsets);
  packed.offsets.resize(packed.offsets.size() + kOffsetSlack);
  packed.blocks.emplace_back();
  const Vector* vectors = packed.vectors.data();
  const int32_t* offsets = packed.offsets.data();
  for (PairedBlock& block : packed.blocks) {
    block.weights = vectors->weight[0];
    block.offsets = offsets;
    const int groups = 2 * block.doubles + block.singles;
    const int extra = block.extra[0] + block.extra[1];
    vectors += groups * kVectors + extra;
    offsets += groups + extra;
  }
  return packed;
}

}  // namespace earmark
