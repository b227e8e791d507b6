// Log mel filterbank in float64, 8 frames at once: lane l of every array is frame l, and each lane
// runs the same scalar operations, so that neither the width of the vectors nor the frames beside
// it change a frame's bits. Included by kernel_row.cc like frame_kernels.inl.

namespace fbank {

using Geometry = FbankGeometry;
constexpr int kLanes = Geometry::kLanes;

struct Complex {
  double re[kLanes];
  double im[kLanes];
};

// rows[b * n_rows + i] = sample hop * (frame + i) - 200 + b, or 0 beyond the ends: lane l of the
// window's sample hop * a + b is then rows[b * n_rows + a + l].
EARMARK_FN void transpose_rows(int hop, const float* samples, int64_t n_samples, int64_t frame,
                               float* __restrict rows) {
  const int n_rows = Geometry::rows(hop);
  for (int i = 0; i < n_rows; ++i) {
    const int64_t begin = (frame + i) * hop - Geometry::kWindow / 2;
    if (begin >= 0 && begin + hop <= n_samples) {
      for (int b = 0; b < hop; ++b) rows[b * n_rows + i] = samples[begin + b];
    } else {
      for (int b = 0; b < hop; ++b) {
        const int64_t s = begin + b;
        rows[b * n_rows + i] = s >= 0 && s < n_samples ? samples[s] : 0.0f;
      }
    }
  }
}

// Lane l of z = (re, im) times the twiddle factor w.
EARMARK_FN void store_twiddled(Complex& z, int l, double re, double im, const double* w) {
  z.re[l] = re * w[0] - im * w[1];
  z.im[l] = re * w[1] + im * w[0];
}

// The window, and the transform's first stage: 50 butterflies of radix 4.
EARMARK_FN void windowed_radix4(const FbankTables& t, const float* rows, Complex* z) {
  constexpr int kStep = Geometry::kFft / 4;
  for (int j = 0; j < kStep; ++j) {
    const float* in[8];
    double window[8];
    for (int q = 0; q < 8; ++q) {
      const int n = 2 * (j + kStep * (q / 2)) + q % 2;
      in[q] = rows + t.source[n];
      window[q] = t.window[n];
    }
    const double* w = t.twiddle4 + 6 * j;
    Complex& z0 = z[j];
    Complex& z1 = z[j + kStep];
    Complex& z2 = z[j + 2 * kStep];
    Complex& z3 = z[j + 3 * kStep];
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) {
      const double r0 = in[0][l] * window[0], i0 = in[1][l] * window[1];
      const double r1 = in[2][l] * window[2], i1 = in[3][l] * window[3];
      const double r2 = in[4][l] * window[4], i2 = in[5][l] * window[5];
      const double r3 = in[6][l] * window[6], i3 = in[7][l] * window[7];
      const double sum02r = r0 + r2, sum02i = i0 + i2, dif02r = r0 - r2, dif02i = i0 - i2;
      const double sum13r = r1 + r3, sum13i = i1 + i3, dif13r = r1 - r3, dif13i = i1 - i3;
      z0.re[l] = sum02r + sum13r;
      z0.im[l] = sum02i + sum13i;
      store_twiddled(z1, l, dif02r + dif13i, dif02i - dif13r, w);
      store_twiddled(z2, l, sum02r - sum13r, sum02i - sum13i, w + 2);
      store_twiddled(z3, l, dif02r - dif13i, dif02i + dif13r, w + 4);
    }
  }
}

// A butterfly of radix 5 over z[0], z[step], ..., with the twiddle factors behind it.
EARMARK_FN void radix5(Complex* z, int step, const double* w) {
  constexpr double kSin1 = 0.95105651629515357212;            // sin(2 pi / 5)
  constexpr double kSin2 = 0.58778525229247312917;            // sin(4 pi / 5)
  constexpr double kHalfDifference = 0.55901699437494742410;  // (cos(2 pi / 5) - cos(4 pi / 5)) / 2
  Complex& z0 = z[0];
  Complex& z1 = z[step];
  Complex& z2 = z[2 * step];
  Complex& z3 = z[3 * step];
  Complex& z4 = z[4 * step];
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    const double sum14r = z1.re[l] + z4.re[l], sum14i = z1.im[l] + z4.im[l];
    const double dif14r = z1.re[l] - z4.re[l], dif14i = z1.im[l] - z4.im[l];
    const double sum23r = z2.re[l] + z3.re[l], sum23i = z2.im[l] + z3.im[l];
    const double dif23r = z2.re[l] - z3.re[l], dif23i = z2.im[l] - z3.im[l];
    const double sumr = sum14r + sum23r, sumi = sum14i + sum23i;
    // (cos(2 pi / 5) + cos(4 pi / 5)) / 2 = -1/4
    const double middler = z0.re[l] - 0.25 * sumr, middlei = z0.im[l] - 0.25 * sumi;
    const double spreadr = kHalfDifference * (sum14r - sum23r);
    const double spreadi = kHalfDifference * (sum14i - sum23i);
    const double even1r = middler + spreadr, even1i = middlei + spreadi;
    const double even2r = middler - spreadr, even2i = middlei - spreadi;
    const double odd1r = kSin1 * dif14r + kSin2 * dif23r;
    const double odd1i = kSin1 * dif14i + kSin2 * dif23i;
    const double odd2r = kSin2 * dif14r - kSin1 * dif23r;
    const double odd2i = kSin2 * dif14i - kSin1 * dif23i;
    z0.re[l] = z0.re[l] + sumr;
    z0.im[l] = z0.im[l] + sumi;
    store_twiddled(z1, l, even1r + odd1i, even1i - odd1r, w);
    store_twiddled(z2, l, even2r + odd2i, even2i - odd2r, w + 2);
    store_twiddled(z3, l, even2r - odd2i, even2i + odd2r, w + 4);
    store_twiddled(z4, l, even1r - odd1i, even1i + odd1r, w + 6);
  }
}

EARMARK_FN void radix2(Complex* z) {
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    const double r0 = z[0].re[l], i0 = z[0].im[l];
    const double r1 = z[1].re[l], i1 = z[1].im[l];
    z[0].re[l] = r0 + r1;
    z[0].im[l] = i0 + i1;
    z[1].re[l] = r0 - r1;
    z[1].im[l] = i0 - i1;
  }
}

// Complex transform of 200 = 4 * 5 * 5 * 2 in place, decimation in frequency.
EARMARK_FN void transform(const FbankTables& t, const float* rows, Complex* z) {
  windowed_radix4(t, rows, z);
  for (Complex* part = z; part < z + Geometry::kFft; part += 50) {
    for (int j = 0; j < 10; ++j) radix5(part + j, 10, t.twiddle5 + 8 * j);
    for (Complex* p = part; p < part + 50; p += 10) {
      for (int j = 0; j < 2; ++j) radix5(p + j, 2, t.twiddle5b + 8 * j);
      for (int q = 0; q < 10; q += 2) radix2(p + q);
    }
  }
}

// Four times the power of bins k and 200 - k, k < 100, from the frequencies k and 200 - k of the
// complex transform: 2 X = A + C and A - C (conjugated), A = Z[k] + conj Z[200 - k] and C = -i
// exp(-2 pi i k / 400) (Z[k] - conj Z[200 - k]).
EARMARK_FN void split_power(const Complex& a, const Complex& b, double cosine, double sine,
                            double* __restrict low, double* __restrict high) {
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    const double ar = a.re[l] + b.re[l], ai = a.im[l] - b.im[l];
    const double br = a.re[l] - b.re[l], bi = a.im[l] + b.im[l];
    const double cr = cosine * bi - sine * br, ci = cosine * br + sine * bi;  // -Im C
    const double lowr = ar + cr, lowi = ai - ci, highr = ar - cr, highi = ai + ci;
    low[l] = lowr * lowr + lowi * lowi;
    high[l] = highr * highr + highi * highi;
  }
}

// Four times the power of all bins.
EARMARK_FN void power_spectrum(const FbankTables& t, const Complex* z, double (*power)[kLanes]) {
  constexpr int kHalf = Geometry::kFft / 2;
  for (int k = 0; k < kHalf; ++k) {
    const int mirrored = k == 0 ? 0 : Geometry::kFft - k;
    split_power(z[t.order[k]], z[t.order[mirrored]], t.split[2 * k], t.split[2 * k + 1], power[k],
                power[Geometry::kFft - k]);
  }
  // The middle one is its own mirror image.
  const Complex& middle = z[t.order[kHalf]];
  for (int l = 0; l < kLanes; ++l) {
    power[kHalf][l] = 4 * (middle.re[l] * middle.re[l] + middle.im[l] * middle.im[l]);
  }
}

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
  const uint64_t shifted = bits_of(x) + (kOne - kRootHalf);
  // An integer in the low bits of 2^52: AVX2 has no conversion of 64-bit integers.
  const double n = double_of((shifted >> 52) | bits_of(kTwoTo52)) - (kTwoTo52 + kBias);
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

constexpr double kMinPower = 1e-10;
constexpr float kMinDecibels = -100;

EARMARK_FN void decibels(const double* __restrict energy, int n, float* __restrict values) {
  for (int i = 0; i < n; ++i) {
    values[i] = static_cast<float>(decibels(energy[i] > kMinPower ? energy[i] : kMinPower));
  }
}

// One filter of at least one weight.
EARMARK_FN void filter(const FbankTables& t, int m, const double (*power)[kLanes],
                       double* __restrict energy) {
  const double* __restrict weights = t.weights + t.first_weight[m];
  const int n = t.first_weight[m + 1] - t.first_weight[m];
  const double* __restrict bins = power[t.first_bin[m]];
  for (int l = 0; l < kLanes; ++l) {
    double sum = 0;
    int i = 0;
    do sum += weights[i] * bins[i * kLanes + l];
    while (++i < n);  // a test before the first would keep the lanes from being vectorised
    energy[l] = sum;
  }
}

}  // namespace fbank

static float fbank_f32(const FbankTables& t, const float* samples, int64_t n_samples, int64_t frame,
                       int n_frames, float* out, ptrdiff_t out_stride) {
  EARMARK_RAN("fbank_f32");
  using Geometry = FbankGeometry;
  constexpr int kLanes = Geometry::kLanes;
  alignas(64) float rows[Geometry::kMaxRowSamples];
  alignas(64) fbank::Complex z[Geometry::kFft];
  alignas(64) double power[Geometry::kBins][kLanes];
  fbank::transpose_rows(t.hop, samples, n_samples, frame, rows);
  fbank::transform(t, rows, z);
  fbank::power_spectrum(t, z, power);
  float maximum[kLanes];
  for (float& value : maximum) value = fbank::kMinDecibels;
  constexpr int kBlock = 16;  // of mels
  for (int m0 = 0; m0 < t.n_mels; m0 += kBlock) {
    const int n = t.n_mels - m0 < kBlock ? t.n_mels - m0 : kBlock;
    alignas(64) double energy[kBlock][kLanes];
    for (int m = 0; m < n; ++m) fbank::filter(t, m0 + m, power, energy[m]);
    alignas(64) float values[kBlock][kLanes];
    fbank::decibels(energy[0], n * kLanes, values[0]);
    for (int m = 0; m < n; ++m) {
      for (int l = 0; l < kLanes; ++l) {
        maximum[l] = values[m][l] > maximum[l] ? values[m][l] : maximum[l];
      }
    }
    for (int l = 0; l < n_frames; ++l) {
      for (int m = 0; m < n; ++m) out[l * out_stride + m0 + m] = values[m][l];
    }
  }
  float largest = maximum[0];
  for (int l = 1; l < n_frames; ++l) largest = maximum[l] > largest ? maximum[l] : largest;
  return largest;
}

// Columns in blocks of 16; frames in their order.
static void center_f32(float* x, ptrdiff_t x_stride, int n_rows, int channels, float floor) {
  EARMARK_RAN("center_f32");
  constexpr int kBlock = 16;
  for (int c0 = 0; c0 < channels; c0 += kBlock) {
    const int n = channels - c0 < kBlock ? channels - c0 : kBlock;
    double mean[kBlock] = {};
    for (int r = 0; r < n_rows; ++r) {
      float* __restrict row = x + r * x_stride + c0;
      for (int c = 0; c < n; ++c) {
        row[c] = row[c] > floor ? row[c] : floor;
        mean[c] += row[c];
      }
    }
    for (int c = 0; c < n; ++c) mean[c] /= n_rows;
    for (int r = 0; r < n_rows; ++r) {
      float* __restrict row = x + r * x_stride + c0;
      for (int c = 0; c < n; ++c) row[c] = static_cast<float>(row[c] - mean[c]);
    }
  }
}

static void scale_f32(float* x, ptrdiff_t x_stride, int n_rows, int channels, float floor,
                      float offset, float scale) {
  EARMARK_RAN("scale_f32");
  for (int r = 0; r < n_rows; ++r) {
    float* __restrict row = x + r * x_stride;
    for (int c = 0; c < channels; ++c) {
      row[c] = ((row[c] > floor ? row[c] : floor) + offset) * scale;
    }
  }
}
