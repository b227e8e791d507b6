#include "cpu/rans_encode.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"

namespace earmark {
namespace {

void check_sums(const uint16_t* frequencies, int n_tables) {
  for (int t = 0; t < n_tables; ++t) {
    const uint16_t* table = frequencies + t * kRansSymbols;
    const int64_t sum = std::accumulate(table, table + kRansSymbols, int64_t{0});
    EARMARK_CHECK(sum == kRansTotal, "frequency table ", t, " has the sum ", sum, ", expected ",
                  kRansTotal);
  }
}

}  // namespace

std::vector<uint32_t> rans_places(const uint16_t* frequencies, int n_tables) {
  check_sums(frequencies, n_tables);
  std::vector<uint32_t> places;
  places.reserve(static_cast<size_t>(n_tables) * kRansTotal);
  for (int i = 0; i < n_tables * kRansSymbols; ++i) {
    const uint32_t frequency = frequencies[i];
    for (uint32_t distance = 0; distance < frequency; ++distance) {
      places.push_back((i % kRansSymbols) | (frequency - 1) << 8 | distance << 20);
    }
  }
  return places;
}

std::vector<uint8_t> encode_rans(const uint16_t* frequencies, int n_tables,
                                 const RansMatrix& matrix, const uint8_t* bytes) {
  check_sums(frequencies, n_tables);
  std::vector<uint16_t> firsts(static_cast<size_t>(n_tables) * kRansSymbols);
  for (int t = 0; t < n_tables; ++t) {
    const uint16_t* table = frequencies + t * kRansSymbols;
    std::exclusive_scan(table, table + kRansSymbols, firsts.begin() + t * kRansSymbols,
                        uint16_t{0});
  }
  // Last in, first out: everything runs backwards, and so is the code written.
  std::vector<uint8_t> code;
  uint32_t states[kRansLanes];
  std::fill(states, states + kRansLanes, kRansLow);
  for (int64_t r = matrix.rows - 1; r >= 0; --r) {
    const uint8_t* row = bytes + r * matrix.columns;
    for (int64_t c = matrix.columns - 1; c >= 0; --c) {
      const int level = matrix.row_level[r] + matrix.column_level[c];
      const int at = std::min(level, n_tables - 1) * kRansSymbols + row[c];
      const uint32_t frequency = frequencies[at];
      EARMARK_CHECK(frequency > 0, "the byte ", int{row[c]}, " has no frequency in table ",
                    at / kRansSymbols);
      uint32_t& x = states[c % kRansLanes];
      if (x >= uint64_t{frequency} << (32 - kRansBits)) {
        code.push_back(static_cast<uint8_t>(x >> 8));
        code.push_back(static_cast<uint8_t>(x));
        x >>= 16;
      }
      x = (x / frequency << kRansBits) + x % frequency + firsts[at];
    }
  }
  for (int i = kRansLanes - 1; i >= 0; --i) {
    for (int byte = 3; byte >= 0; --byte) {
      code.push_back(static_cast<uint8_t>(states[i] >> (8 * byte)));
    }
  }
  std::reverse(code.begin(), code.end());
  return code;
}

}  // namespace earmark
