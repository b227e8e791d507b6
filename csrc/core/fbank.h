// Geometry, tables and arithmetic of the mel filterbank kernels (docs/arithmetic.md, "Front end"):
// what happens to the numbers of one frame. Kernels say which frames they compute at once.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/quant.h"

namespace earmark {

// Frames of 400 samples, transformed as they are or with zeros behind them: a real transform of N
// values, 400 or 512, is a complex one of N / 2.
struct FbankGeometry {
  static constexpr int kWindow = 400;
  static constexpr int kMaxFft = 256;  // complex: even samples real, odd ones imaginary
  static constexpr int kMaxBins = kMaxFft + 1;
  static constexpr int kLaterStages = 3;  // of the transform, after its first, of radix 4
  static constexpr int kLanes = 8;        // frames that the CPU computes at once
  static constexpr int kMaxHop = kWindow;
  // Samples of kLanes frames lie in rows of `hop`: frame l begins in row l.
  static constexpr int rows(int hop) { return kLanes - 1 + (kWindow + hop - 1) / hop; }
  // Of all rows, at most.
  static constexpr int kMaxRowSamples = kLanes * kMaxHop + kWindow;
};

// Where frames lie in a recording, and what is done to their samples before the window.
struct FbankFrames {
  int hop = 160;                // samples from one frame to the next, 1 to kMaxHop
  int first = -200;             // sample that frame 0 begins with
  bool reflected = false;       // beyond the ends: the recording reflected there, else zeros
  double emphasis = 0;          // each sample less that times the one before it
  bool each_by_itself = false;  // take off the frame's mean, then emphasise within the frame
};

// The feature of a filter's energy e: unit * 10 log10(max(e + offset, least)).
struct FbankLog {
  static constexpr double kNatural = 0.23025850929940456840;  // ln(10) / 10

  double offset = 0;
  double least = 1e-10;
  double unit = 1;
};

// Butterflies with the twiddle factors behind them, on blocks of `length` values.
struct FbankStage {
  int radix = 0;                    // 2, 4 or 5
  int length = 0;                   // a multiple of the radix
  const double* twiddle = nullptr;  // [length / radix][radix - 1] complex
};

// Made once by the front end; the kernel only reads them. Complex values are pairs (real,
// imaginary).
struct FbankTables {
  FbankFrames frames;
  FbankLog log;
  int fft;                // complex length
  const double* window;   // [2 * fft], 0 from kWindow on
  const int* source;      // [kWindow]: element of the transposed rows, [hop][rows], for lane 0
  const double* twiddle;  // [fft / 4][3] complex, of the first stage
  FbankStage stages[FbankGeometry::kLaterStages];
  const int* order;     // [fft]: where the transform in place leaves frequency k
  const double* split;  // [fft / 2] pairs: cos and sin of pi k / fft
  int n_mels;
  // Filter m adds weights[first_weight[m] + i] * power[first_bin[m] + i], up to first_weight[m +
  // 1].
  const int* first_bin;     // [n_mels]
  const int* first_weight;  // [n_mels + 1]
  const double* weights;    // a quarter of the filter: the power below is four times too large
};

// Of a recording's features: raised to the largest of them less `top`, and to `floor`; then
// (feature + offset) * scale, or less the mean over time. Or, raised to nothing, less the mean and
// divided by the standard deviation, of n - 1 frames, plus `min_deviation`.
struct FbankNormalization {
  enum class Kind { kScale, kCenter, kStandardize };

  Kind kind = Kind::kCenter;
  float top = INFINITY;
  float floor = -INFINITY;
  float offset = 0;
  float scale = 1;
  double min_deviation = 0;
};

namespace fbank {

// Sums of a frame's samples are those of its kSums parts, sample i in part i % kSums.
inline constexpr int kSums = 20;

// Sample i of a recording of n samples, emphasised; beyond the ends as the frames have it, and 0
// where there is nothing to reflect.
EARMARK_FN double sample_at(const FbankFrames& frames, const float* samples, int64_t n, int64_t i) {
  if (i < 0 || i >= n) {
    if (!frames.reflected) return 0;
    i = i < 0 ? -i : 2 * (n - 1) - i;
    if (i < 0 || i >= n) return 0;
  }
  const double x = samples[i];
  if (frames.emphasis == 0 || frames.each_by_itself) return x;
  const double before = i > 0 ? samples[i - 1] : frames.reflected && n > 1 ? samples[1] : 0;
  return x - frames.emphasis * before;
}

// Of a frame by itself; the sample before its first is its first.
EARMARK_FN double emphasised(double x, double before, double mean, double emphasis) {
  return (x - mean) - emphasis * (before - mean);
}

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

// Four times the power of bins k and F - k, k < F / 2, from the frequencies a = Z[k] and b = Z[F -
// k] of the complex transform of F values: 2 X = A + C and A - C (conjugated), A = Z[k] + conj Z[F
// - k] and C = -i exp(-pi i k / F) (Z[k] - conj Z[F - k]).
EARMARK_FN void split_power(double a_re, double a_im, double b_re, double b_im, double cosine,
                            double sine, double& low, double& high) {
  const double ar = a_re + b_re, ai = a_im - b_im;
  const double br = a_re - b_re, bi = a_im + b_im;
  const double cr = cosine * bi - sine * br, ci = cosine * br + sine * bi;  // -Im C
  const double lowr = ar + cr, lowi = ai - ci, highr = ar - cr, highi = ai + ci;
  low = lowr * lowr + lowi * lowi;
  high = highr * highr + highi * highi;
}

// Of the bin F / 2, which is its own mirror image.
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

EARMARK_FN float feature(const FbankLog& log, double energy) {
  const double e = energy + log.offset;
  return static_cast<float>(decibels(e > log.least ? e : log.least) * log.unit);
}

// The divisor of values over n >= 2 frames, of the sum of their squared distances to the mean.
EARMARK_FN double deviation(double squares, int n, double min_deviation) {
  return std::sqrt(squares / (n - 1)) + min_deviation;
}

}  // namespace fbank
}  // namespace earmark
