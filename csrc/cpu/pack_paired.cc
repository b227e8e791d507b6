#include "cpu/pack_paired.h"

#include <algorithm>
#include <array>
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
// Two of them: GCC keeps to one at a time by itself.
using Wide = Bytes __attribute__((vector_size(2 * sizeof(Bytes)), may_alias));
using EachByte = uint8_t __attribute__((vector_size(sizeof(Wide)), may_alias));
constexpr Bytes kOnes = 0x0101010101010101;
constexpr Bytes kTops = 0x80 * kOnes;

// From the four inputs of each channel, channel by channel, to the eight channels of each input.
void transpose(Bytes (&words)[4]) {
  const auto swap = [](Bytes& low, Bytes& high, int shift, Bytes mask) {
    const Bytes different = (low >> shift ^ high) & mask;
    high ^= different;
    low ^= different << shift;
  };
  for (Bytes& word : words) {  // of two channels: their first inputs, their second ones, ...
    Bytes different = (word ^ word >> 16) & 0xFFFF0000;
    word ^= different ^ different << 16;
    different = (word ^ word >> 8) & 0x0000FF000000FF00;
    word ^= different ^ different << 8;
  }
  swap(words[0], words[2], 32, 0x00000000FFFFFFFF);
  swap(words[1], words[3], 32, 0x00000000FFFFFFFF);
  swap(words[0], words[1], 16, 0x0000FFFF0000FFFF);
  swap(words[2], words[3], 16, 0x0000FFFF0000FFFF);
}

// What the weights of a group add up to in one pairing: of each pair the positive and the negative
// sum, at most 127. Where one is 128, what is matched with it must be 0, as with 127.
struct PairSums {
  alignas(Wide) Bytes sums[kVectors][2][2];  // [vector][negative][pair]
  bool is_split[kVectors] = {};
  int splits = 0;

  // Whether no sum together with the other's exceeds the bound.
  bool fit(const PairSums& other) const {
    const auto* a = reinterpret_cast<const Wide*>(sums);
    const auto* b = reinterpret_cast<const Wide*>(other.sums);
    Wide over = {};
    for (size_t i = 0; i < sizeof sums / sizeof(Wide); ++i) over |= a[i] + b[i];
    return ((over[0] | over[1]) & kTops) == 0;
  }

  void keep_least(const PairSums& other) {
    auto* a = reinterpret_cast<EachByte*>(sums);
    const auto* b = reinterpret_cast<const EachByte*>(other.sums);
    for (size_t i = 0; i < sizeof sums / sizeof(EachByte); ++i) a[i] = a[i] < b[i] ? a[i] : b[i];
  }

  // How many sums are large; a match fails by these.
  int difficulty() const {
    const auto* words = reinterpret_cast<const Wide*>(sums);
    Wide counts = {};
    for (size_t i = 0; i < sizeof sums / sizeof(Wide); ++i) {
      for (const int large : {48, 80, 104}) {
        counts += ((words[i] + (128 - large) * kOnes) & kTops) >> 7;
      }
    }
    return static_cast<int>((counts[0] + counts[1]) * kOnes >> 56);
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
  PairSums least;  // no pairing has less
  int difficulty;
};

void find_pairings(Group& group, int pairings) {
  Magnitudes magnitudes;
  for (int j = 0; j < kVectors; ++j) {
    Bytes inputs[4];
    static_assert(sizeof inputs == sizeof group.weights[j]);
    std::memcpy(inputs, &group.weights[j], sizeof inputs);
    transpose(inputs);
    for (int i = 0; i < 4; ++i) {
      const Bytes negative = (inputs[i] >> 7 & kOnes) * 255;
      magnitudes[0][j][i] = inputs[i] & ~negative;
      // None carries: what is added to is at most 127.
      magnitudes[1][j][i] = ((inputs[i] ^ negative) & negative) + (negative & kOnes);
    }
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
  group.least = group.sums[0];
  for (int i = 1; i < 3; ++i) group.least.keep_least(group.sums[i]);
}

// Pairings in which two groups can be added in int16, indices of both; first is -1 if there are
// none.
std::pair<int, int> match(const Group& a, const Group& b) {
  if (!a.least.fit(b.least)) return {-1, -1};
  for (int i = 0; i < 3; ++i) {
    for (int k = 0; k < 3; ++k) {
      if (a.sums[i].fit(b.sums[k])) return {i, k};
    }
  }
  return {-1, -1};
}

// The weights with the inputs as a pairing has them.
Vector in_order(const Vector& weights, int pairing) {
  if (pairing == 0) return weights;
  uint32_t words[kLanes];  // of a channel each; the first input is the lowest byte
  std::memcpy(words, &weights, sizeof words);
  for (uint32_t& word : words) {
    const uint32_t first = word & 0xFF;
    word = pairing == 1
               ? first | (word << 8 & 0xFF0000) | (word >> 8 & 0xFF00) | (word & 0xFF000000)
               : first | (word >> 16 & 0xFF00) | (word << 8 & 0xFFFF0000);
  }
  Vector ordered;
  std::memcpy(&ordered, words, sizeof words);
  return ordered;
}

// Vectors and the offsets of their groups, in a kernel's order.
struct Stream {
  std::vector<Vector> vectors;
  std::vector<int32_t> offsets;
};

// The streams of a block.
struct BlockStreams {
  int pairings = 0;  // that the kernel copies
  Stream doubles, singles, extra[kVectors];

  std::array<const Stream*, 2 + kVectors> all() const {
    return {&doubles, &singles, &extra[0], &extra[1]};
  }

  void add(Stream& to, const Group& group, int choice) {
    const int pairing = group.pairings[choice];
    const int offset = kPairedLine * (pairings * group.number + pairing);
    to.offsets.push_back(offset);
    for (int j = 0; j < kVectors; ++j) {
      const Vector whole = in_order(group.weights[j], pairing);
      if (!group.sums[choice].is_split[j]) {
        to.vectors.push_back(whole);
        continue;
      }
      Vector part, rest;
      for (int lane = 0; lane < kLanes; ++lane) {
        for (int i = 0; i < 4; ++i) {
          const int8_t kept = static_cast<int8_t>(whole.weight[lane][i] / 2);
          part.weight[lane][i] = kept;
          rest.weight[lane][i] = static_cast<int8_t>(whole.weight[lane][i] - kept);
        }
      }
      to.vectors.push_back(part);
      extra[j].vectors.push_back(rest);
      extra[j].offsets.push_back(offset);
    }
  }
};

BlockStreams match_groups(const std::vector<Group>& groups, int pairings) {
  std::vector<const Group*> left(groups.size());
  std::transform(groups.begin(), groups.end(), left.begin(), [](const Group& g) { return &g; });
  std::sort(left.begin(), left.end(), [](const Group* a, const Group* b) {
    return std::pair(-a->difficulty, a) < std::pair(-b->difficulty, b);
  });
  BlockStreams block;
  block.pairings = pairings;
  block.doubles.vectors.reserve(groups.size() * kVectors);
  block.doubles.offsets.reserve(groups.size());
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
    const size_t size = std::min(4, shape.c_in - i);
    for (int o = begin; o < end; ++o) {
      const size_t row = static_cast<size_t>(o) * shape.taps() + tap;
      const int8_t* from = weight + row * shape.c_in + i;
      int8_t* to = group.weights[(o - begin) / kLanes].weight[o % kLanes];
      size == 4 ? std::memcpy(to, from, 4) : std::memcpy(to, from, size);
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

int groups_of(const PairedBlock& block) {
  return 2 * block.doubles + block.singles + block.extra[0] + block.extra[1];
}

int vectors_of(const PairedBlock& block) {
  return kVectors * (2 * block.doubles + block.singles) + block.extra[0] + block.extra[1];
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
  packed.offsets.reserve(static_cast<size_t>(groups_a_panel) * panels * 7 / 5);
  for (int panel = 0; panel < panels; ++panel) {
    std::vector<Vector> vectors;
    const size_t first = packed.blocks.size();
    for (int b = 0; b < packed.blocks_a_panel; ++b) {
      const BlockStreams streams = streams_of(panel, b);
      packed.blocks.push_back(count(streams));
      packed.cost += cost_of(packed.blocks.back());
      for (const Stream* stream : streams.all()) {
        vectors.insert(vectors.end(), stream->vectors.begin(), stream->vectors.end());
        packed.offsets.insert(packed.offsets.end(), stream->offsets.begin(), stream->offsets.end());
      }
    }
    packed.panels.emplace_back(vectors.size());
    std::copy(vectors.begin(), vectors.end(), packed.panels.back().data());
    const Vector* weights = packed.panels.back().data();
    for (size_t i = first; i < packed.blocks.size(); ++i) {
      packed.blocks[i].weights = weights->weight[0];
      weights += vectors_of(packed.blocks[i]);
    }
  }
  packed.offsets.resize(packed.offsets.size() + kOffsetSlack);
  const int32_t* offsets = packed.offsets.data();
  for (PairedBlock& block : packed.blocks) {
    block.offsets = offsets;
    offsets += groups_of(block);
  }
  // What is prefetched behind the last.
  packed.blocks.push_back(packed.blocks.back());
  return packed;
}

}  // namespace earmark
