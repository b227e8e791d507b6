// Coding of stored weights, the other way round from Kernels::decode_rans.
#pragma once

#include <vector>

#include "core/rans.h"

namespace earmark {

// Tables for a decoder from frequencies [n_tables][kRansSymbols], each table's sum kRansTotal.
// Throws std::invalid_argument where one has another sum.
std::vector<uint32_t> rans_places(const uint16_t* frequencies, int n_tables);

// The code of a matrix of bytes. Throws std::invalid_argument for a byte of frequency 0.
std::vector<uint8_t> encode_rans(const uint16_t* frequencies, int n_tables,
                                 const RansMatrix& matrix, const uint8_t* bytes);

}  // namespace earmark
