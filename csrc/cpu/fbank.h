// Geometry and tables of the mel filterbank kernel (docs/arithmetic.md, "Front end").
#pragma once

#include <cstdint>

namespace earmark {

// Frames of 400 samples, one each `hop`, centred: frame t begins at sample hop * t - 200.
struct FbankGeometry {
  static constexpr int kWindow = 400;
  static constexpr int kBins = kWindow / 2 + 1;
  static constexpr int kFft = kWindow / 2;  // complex: even samples real, odd ones imaginary
  static constexpr int kLanes = 8;          // frames computed at once
  static constexpr int kMaxHop = kWindow;
  // Samples of kLanes frames lie in rows of `hop`: frame l begins in row l.
  static constexpr int rows(int hop) { return kLanes - 1 + (kWindow + hop - 1) / hop; }
  // Of all rows, at most.
  static constexpr int kMaxRowSamples = kLanes * kMaxHop + kWindow;
};

// Made once by the front end; the kernel only reads them. Complex values are pairs (real,
// imaginary).
struct FbankTables {
  int hop;                  // from 1 to kMaxHop
  const double* window;     // [kWindow]
  const int* source;        // [kWindow]: element of the transposed rows, [hop][rows], for lane 0
  const double* twiddle4;   // [50][3] complex: exp(-2 pi i j p / 200), p = 1 .. 3
  const double* twiddle5;   // [10][4] complex: exp(-2 pi i j p / 50), p = 1 .. 4
  const double* twiddle5b;  // [2][4] complex: exp(-2 pi i j p / 10), p = 1 .. 4
  const int* order;         // [kFft]: where the transform in place leaves frequency k
  const double* split;      // [kFft / 2] pairs: cos and sin of 2 pi k / 400
  int n_mels;
  // Filter m adds weights[first_weight[m] + i] * power[first_bin[m] + i], up to first_weight[m +
  // 1].
  const int* first_bin;     // [n_mels]
  const int* first_weight;  // [n_mels + 1]
  const double* weights;    // a quarter of the filter: the power below is four times too large
};

}  // namespace earmark
