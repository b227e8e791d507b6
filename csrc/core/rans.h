// The entropy coder of stored weights (docs/file-format.md, "rans"): an asymmetric numeral system
// (J. Duda, arXiv:1311.2540) of range type, interleaved (F. Giesen, arXiv:1402.3392).
//
// A matrix of bytes is coded row by row. The level of its row plus that of its column names the
// frequency table of a byte, so a decoder knows all tables beforehand and works on many bytes at
// once.
#pragma once

#include <cstdint>

namespace earmark {

inline constexpr int kRansLanes = 16;
inline constexpr int kRansSymbols = 256;
inline constexpr int kRansBits = 12;
inline constexpr int kRansTotal = 1 << kRansBits;
// A state is in [kRansLow, kRansLow << 16) and takes in 16 bits at a time.
inline constexpr uint32_t kRansLow = 1u << 16;

// Which table each byte of a matrix has: min(row_level[r] + column_level[c], n_tables - 1).
struct RansMatrix {
  int64_t rows;
  int64_t columns;
  const uint8_t* row_level;
  const uint8_t* column_level;  // kRansLanes more can be read
};

// Tables as a decoder reads them: [n_tables][kRansTotal] of the symbol at a place of the total, its
// frequency - 1 from bit 8, and the place's distance from the symbol's first from bit 20.
struct RansTables {
  const uint32_t* places;
  int n_tables;
};

}  // namespace earmark
