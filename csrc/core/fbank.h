// Geometry, tables and arithmetic of the mel filterbank kernels (docs/arithmetic.md, "Front end"):
// what happens to the numbers of one frame. Kernels say which frames they compute at once.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/quant.h"

namespace earmark {

// Frames of 400 samples, one each `hop`, centred: frame t begins at sample hop * t - 200.
struct FbankGeometry {
  static constexpr int kWindow = 400;
  static constexpr int kBins = kWindow / 2 + 1;
  static constexpr int kFft = kWindow / 2;  // complex: even samples real, odd ones imaginary
  static constexpr int kLanes = 8;          // frames that the CPU computes at once
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

// Of a recording's features: never below the largest of them less kTopDb, nor below `floor`; then
// the mean over time is taken off, or they are (feature + offset) * scale.
struct FbankNormalization {
  static constexpr float kTopDb = 80;
  float floor = -INFINITY;
  bool center = true;
  float offset = 0;
  float scale = 1;
};

namespace fbank {

inline constexpr double kMinPower = 1e-10;
inline constexpr float kMinDecibels = -100;

// (re, im) times the twiddle factor w.
EARMARK_FN void twiddle(double& re, double& im, const double* w) {
  const double r = re * w[0] - im * w[1];
  im = re * w[1] + im * w[0];
  re = r;
}

// A butterfly of radix 4 in place, with the twiddle factors w[0 .. 5] behind it.
EARMARK_FN void radix4(double& r0, double& i0, double& r1, double& i1, double& r2, double& i2,
                       double& r3, double& i3, const double* w) {
  const double sum02r = r0 + r2, sum02i = i0 + i2, dif02r = r0 - r2, dif02i = i0 - i2;
  const double sum13r = r1 + r3, sum13i = i1 + i3, dif13r = r1 - r3, dif13i = i1 - i3;
  r0 = sum02r + sum13r;
  i0 = sum02i + sum13i;
  r1 = dif02r + dif13i;
  i1 = dif02i - dif13r;
  r2 = sum02r - sum13r;
  i2 = sum02i - sum13i;
  r3 = dif02r - dif13i;
  i3 = dif02i + dif13r;
  twiddle(r1, i1, w);
  twiddle(r2, i2, w + 2);
  twiddle(r3, i3, w + 4);
}

// Of radix 5, with w[0 .. 7].
EARMARK_FN void radix5(double& r0, double& i0, double& r1, double& i1, double& r2, double& i2,
                       double& r3, double& i3, double& r4, double& i4, const double* w) {
  constexpr double kSin1 = 0.95105651629515357212;            // sin(2 pi / 5)
  constexpr double kSin2 = 0.58778525229247312917;            // sin(4 pi / 5)
  constexpr double kHalfDifference = 0.55901699437494742410;  // (cos(2 pi / 5) - cos(4 pi / 5)) / 2
  const double sum14r = r1 + r4, sum14i = i1 + i4;
  const double dif14r = r1 - r4, dif14i = i1 - i4;
  const double sum23r = r2 + r3, sum23i = i2 + i3;
  const double dif23r = r2 - r3, dif23i = i2 - i3;
  const double sumr = sum14r + sum23r, sumi = sum14i + sum23i;
  // (cos(2 pi / 5) + cos(4 pi / 5)) / 2 = -1/4
  const double middler = r0 - 0.25 * sumr, middlei = i0 - 0.25 * sumi;
  const double spreadr = kHalfDifference * (sum14r - sum23r);
  const double spreadi = kHalfDifference * (sum14i - sum23i);
  const double even1r = middler + spreadr, even1i = middlei + spreadi;
  const double even2r = middler - spreadr, even2i = middlei - spreadi;
  const double odd1r = kSin1 * dif14r + kSin2 * dif23r;
  const double odd1i = kSin1 * dif14i + kSin2 * dif23i;
  const double odd2r = kSin2 * dif14r - kSin1 * dif23r;
  const double odd2i = kSin2 * dif14i - kSin1 * dif23i;
  r0 = r0 + sumr;
  i0 = i0 + sumi;
  r1 = even1r + odd1i;
  i1 = even1i - odd1r;
  r2 = even2r + odd2i;
  i2 = even2i - odd2r;
  r3 = even2r - odd2i;
  i3 = even2i + odd2r;
  r4 = even1r - odd1i;
  i4 = even1i + odd1r;
  twiddle(r1, i1, w);
  twiddle(r2, i2, w + 2);
  twiddle(r3, i3, w + 4);
  twiddle(r4, i4, w + 6);
}

EARMARK_FN void radix2(double& r0, double& i0, double& r1, double& i1) {
  const double r = r0, i = i0;
  r0 = r + r1;
  i0 = i + i1;
  r1 = r - r1;
  i1 = i - i1;
}

// Four times the power of bins k and 200 - k, k < 100, from the frequencies a = Z[k] and b =
// Z[200 - k] of the complex transform: 2 X = A + C and A - C (conjugated), A = Z[k] + conj Z[200 -
// k] and C = -i exp(-2 pi i k / 400) (Z[k] - conj Z[200 - k]).
EARMARK_FN void split_power(double a_re, double a_im, double b_re, double b_im, double cosine,
                            double sine, double& low, double& high) {
  const double ar = a_re + b_re, ai = a_im - b_im;
  const double br = a_re - b_re, bi = a_im + b_im;
  const double cr = cosine * bi - sine * br, ci = cosine * br + sine * bi;  // -Im C
  const double lowr = ar + cr, lowi = ai - ci, highr = ar - cr, highi = ai + ci;
  low = lowr * lowr + lowi * lowi;
  high = highr * highr + highi * highi;
}

// Of the bin 100, which is its own mirror image.
EARMARK_FN double middle_power(double re, double im) { return 4 * (re * re + im * im); }

EARMARK_FN uint64_t bits_of(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

EARMARK_FN double double_of(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// 10 log10(x) for normal x > 0, relative error below 1e-13: x = 2^n m with m in [1/sqrt 2, sqrt 2),
// ln m = 2 atanh((m - 1) / (m + 1)) by its series.
EARMARK_FN double decibels(double x) {
  constexpr uint64_t kOne = 0x3ff0000000000000, kRootHalf = 0x3fe6a09e667f3bcd;
  constexpr double kTwoTo52 = 0x1p52, kBias = 1023;
  constexpr double kOctave = 3.0102999566398119521;  // 10 log10(2)
  constexpr double kUnit = 8.6858896380650365530;    // 20 / ln(10)
  constexpr uint64_t kTwoTo52Bits = 0x4330000000000000;
  const uint64_t shifted = bits_of(x) + (kOne - kRootHalf);
  // An integer in the low bits of 2^52: AVX2 has no conversion of 64-bit integers.
  const double n = double_of((shifted >> 52) | kTwoTo52Bits) - (kTwoTo52 + kBias);
  const double m = double_of((shifted & 0x000fffffffffffff) + kRootHalf);
  const double s = (m - 1.0) / (m + 1.0);
  const double y = s * s;  // at most 0.0295
  double p = kUnit / 15;
  p = p * y + kUnit / 13;
  p = p * y + kUnit / 11;
  p = p * y + kUnit / 9;
  p = p * y + kUnit / 7;
  p = p * y + kUnit / 5;
  p = p * y + kUnit / 3;
  p = p * y + kUnit;
  return n * kOctave + s * p;
}

// The feature of a filter's energy.
EARMARK_FN float feature(double energy) {
  return static_cast<float>(decibels(energy > kMinPower ? energy : kMinPower));
}

}  // namespace fbank
}  // namespace earmark
