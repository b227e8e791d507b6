// Log mel filterbank in float64, 8 frames at once: lane l of every array is frame l, and each lane
// runs the same scalar operations, so that neither the width of the vectors nor the frames beside
// it change a frame's bits. Included by kernel_row.cc like frame_kernels.inl.

namespace fbank_lanes {

using namespace fbank;

using Geometry = FbankGeometry;
constexpr int kLanes = Geometry::kLanes;

struct Complex {
  double re[kLanes];
  double im[kLanes];
};

// rows[b * n_rows + i] = sample hop * (frame + i) + first + b, emphasised and continued beyond the
// ends: lane l of the frame's sample hop * a + b is then rows[b * n_rows + a + l].
EARMARK_FN void transpose_rows(const FbankFrames& frames, const float* samples, int64_t n_samples,
                               int64_t frame, double* __restrict rows) {
  const int hop = frames.hop, n_rows = Geometry::rows(hop);
  const double emphasis = frames.each_by_itself ? 0 : frames.emphasis;
  for (int i = 0; i < n_rows; ++i) {
    const int64_t begin = (frame + i) * hop + frames.first;
    const bool inside = begin >= 1 && begin + hop <= n_samples;
    const float* x = samples + begin;
    if (inside && emphasis == 0) {
      for (int b = 0; b < hop; ++b) rows[b * n_rows + i] = x[b];
    } else if (inside) {
      for (int b = 0; b < hop; ++b) rows[b * n_rows + i] = x[b] - emphasis * x[b - 1];
    } else {
      for (int b = 0; b < hop; ++b) {
        rows[b * n_rows + i] = sample_at(frames, samples, n_samples, begin + b);
      }
    }
  }
}

EARMARK_FN void frame_means(const FbankTables& t, const double* rows, double* __restrict mean) {
  double sum[kSums][kLanes] = {};
  for (int n = 0; n < Geometry::kWindow; n += kSums) {
    for (int part = 0; part < kSums; ++part) {
      const double* x = rows + t.source[n + part];
      for (int l = 0; l < kLanes; ++l) sum[part][l] += x[l];
    }
  }
  for (int l = 0; l < kLanes; ++l) mean[l] = 0;
  for (int part = 0; part < kSums; ++part) {
    for (int l = 0; l < kLanes; ++l) mean[l] += sum[part][l];
  }
  for (int l = 0; l < kLanes; ++l) mean[l] /= Geometry::kWindow;
}

// The window, and the transform's first stage: butterflies of radix 4. Behind the frame the window
// is 0, and any sample will do.
template <bool kEachByItself>
EARMARK_FN void windowed_radix4(const FbankTables& t, const double* rows, Complex* z) {
  alignas(64) double mean[kLanes];
  if constexpr (kEachByItself) frame_means(t, rows, mean);
  const double emphasis = t.frames.emphasis;
  const int step = t.fft / 4;
  for (int j = 0; j < step; ++j) {
    const double* in[8];
    const double* before[8];
    double window[8];
    for (int q = 0; q < 8; ++q) {
      const int n = 2 * (j + step * (q / 2)) + q % 2;
      const int i = n < Geometry::kWindow ? n : 0;
      in[q] = rows + t.source[i];
      before[q] = rows + t.source[i > 0 ? i - 1 : 0];
      window[q] = t.window[n];
    }
    const double* w = t.twiddle + 6 * j;
    Complex& z0 = z[j];
    Complex& z1 = z[j + step];
    Complex& z2 = z[j + 2 * step];
    Complex& z3 = z[j + 3 * step];
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) {
      const auto value = [&](int q) {
        if constexpr (!kEachByItself) return in[q][l] * window[q];
        return emphasised(in[q][l], before[q][l], mean[l], emphasis) * window[q];
      };
      double r0 = value(0), i0 = value(1), r1 = value(2), i1 = value(3);
      double r2 = value(4), i2 = value(5), r3 = value(6), i3 = value(7);
      fbank::radix4(r0, i0, r1, i1, r2, i2, r3, i3, w);
      z0.re[l] = r0, z0.im[l] = i0;
      z1.re[l] = r1, z1.im[l] = i1;
      z2.re[l] = r2, z2.im[l] = i2;
      z3.re[l] = r3, z3.im[l] = i3;
    }
  }
}

// A butterfly of radix 4 over z[0], z[step], ..., with the twiddle factors behind it.
EARMARK_FN void radix4(Complex* z, int step, const double* w) {
  Complex& z0 = z[0];
  Complex& z1 = z[step];
  Complex& z2 = z[2 * step];
  Complex& z3 = z[3 * step];
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    double r0 = z0.re[l], i0 = z0.im[l], r1 = z1.re[l], i1 = z1.im[l];
    double r2 = z2.re[l], i2 = z2.im[l], r3 = z3.re[l], i3 = z3.im[l];
    fbank::radix4(r0, i0, r1, i1, r2, i2, r3, i3, w);
    z0.re[l] = r0, z0.im[l] = i0;
    z1.re[l] = r1, z1.im[l] = i1;
    z2.re[l] = r2, z2.im[l] = i2;
    z3.re[l] = r3, z3.im[l] = i3;
  }
}

// Of radix 5.
EARMARK_FN void radix5(Complex* z, int step, const double* w) {
  Complex& z0 = z[0];
  Complex& z1 = z[step];
  Complex& z2 = z[2 * step];
  Complex& z3 = z[3 * step];
  Complex& z4 = z[4 * step];
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    double r0 = z0.re[l], i0 = z0.im[l], r1 = z1.re[l], i1 = z1.im[l], r2 = z2.re[l];
    double i2 = z2.im[l], r3 = z3.re[l], i3 = z3.im[l], r4 = z4.re[l], i4 = z4.im[l];
    fbank::radix5(r0, i0, r1, i1, r2, i2, r3, i3, r4, i4, w);
    z0.re[l] = r0, z0.im[l] = i0;
    z1.re[l] = r1, z1.im[l] = i1;
    z2.re[l] = r2, z2.im[l] = i2;
    z3.re[l] = r3, z3.im[l] = i3;
    z4.re[l] = r4, z4.im[l] = i4;
  }
}

EARMARK_FN void radix2(Complex* z) {
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    double r0 = z[0].re[l], i0 = z[0].im[l], r1 = z[1].re[l], i1 = z[1].im[l];
    fbank::radix2(r0, i0, r1, i1);
    z[0].re[l] = r0, z[0].im[l] = i0;
    z[1].re[l] = r1, z[1].im[l] = i1;
  }
}

// Complex transform in place, decimation in frequency.
EARMARK_FN void transform(const FbankTables& t, const double* rows, Complex* z) {
  if (t.frames.each_by_itself) {
    windowed_radix4<true>(t, rows, z);
  } else {
    windowed_radix4<false>(t, rows, z);
  }
  for (const FbankStage& stage : t.stages) {
    const int step = stage.length / stage.radix;
    for (Complex* part = z; part < z + t.fft; part += stage.length) {
      for (int j = 0; j < step; ++j) {
        if (stage.radix == 5) {
          radix5(part + j, step, stage.twiddle + 8 * j);
        } else if (stage.radix == 4) {
          radix4(part + j, step, stage.twiddle + 6 * j);
        } else {
          radix2(part);
        }
      }
    }
  }
}

EARMARK_FN void split_power(const Complex& a, const Complex& b, double cosine, double sine,
                            double* __restrict low, double* __restrict high) {
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    double low_bin, high_bin;
    fbank::split_power(a.re[l], a.im[l], b.re[l], b.im[l], cosine, sine, low_bin, high_bin);
    low[l] = low_bin;
    high[l] = high_bin;
  }
}

// Four times the power of all bins.
EARMARK_FN void power_spectrum(const FbankTables& t, const Complex* z, double (*power)[kLanes]) {
  const int half = t.fft / 2;
  for (int k = 0; k < half; ++k) {
    const int mirrored = k == 0 ? 0 : t.fft - k;
    split_power(z[t.order[k]], z[t.order[mirrored]], t.split[2 * k], t.split[2 * k + 1], power[k],
                power[t.fft - k]);
  }
  const Complex& middle = z[t.order[half]];
  for (int l = 0; l < kLanes; ++l) power[half][l] = middle_power(middle.re[l], middle.im[l]);
}

EARMARK_FN void features(const FbankLog& log, const double* __restrict energy, int n,
                         float* __restrict values) {
  const FbankLog kind = log;  // in registers, whatever `values` may be taken for
  for (int i = 0; i < n; ++i) values[i] = feature(kind, energy[i]);
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

}  // namespace fbank_lanes

static float fbank_f32(const FbankTables& t, const float* samples, int64_t n_samples, int64_t frame,
                       int n_frames, float* out, ptrdiff_t out_stride) {
  EARMARK_RAN("fbank_f32");
  using Geometry = FbankGeometry;
  constexpr int kLanes = Geometry::kLanes;
  alignas(64) double rows[Geometry::kMaxRowSamples];
  alignas(64) fbank_lanes::Complex z[Geometry::kMaxFft];
  alignas(64) double power[Geometry::kMaxBins][kLanes];
  fbank_lanes::transpose_rows(t.frames, samples, n_samples, frame, rows);
  fbank_lanes::transform(t, rows, z);
  fbank_lanes::power_spectrum(t, z, power);
  float maximum[kLanes];
  for (float& value : maximum) value = -INFINITY;
  constexpr int kBlock = 16;  // of mels
  for (int m0 = 0; m0 < t.n_mels; m0 += kBlock) {
    const int n = t.n_mels - m0 < kBlock ? t.n_mels - m0 : kBlock;
    alignas(64) double energy[kBlock][kLanes];
    for (int m = 0; m < n; ++m) fbank_lanes::filter(t, m0 + m, power, energy[m]);
    alignas(64) float values[kBlock][kLanes];
    fbank_lanes::features(t.log, energy[0], n * kLanes, values[0]);
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

// Likewise.
static void standardize_f32(float* x, ptrdiff_t x_stride, int n_rows, int channels,
                            double min_deviation) {
  EARMARK_RAN("standardize_f32");
  constexpr int kBlock = 16;
  for (int c0 = 0; c0 < channels; c0 += kBlock) {
    const int n = channels - c0 < kBlock ? channels - c0 : kBlock;
    double mean[kBlock] = {}, squares[kBlock] = {}, deviation[kBlock];
    for (int r = 0; r < n_rows; ++r) {
      const float* __restrict row = x + r * x_stride + c0;
      for (int c = 0; c < n; ++c) mean[c] += row[c];
    }
    for (int c = 0; c < n; ++c) mean[c] /= n_rows;
    for (int r = 0; r < n_rows; ++r) {
      const float* __restrict row = x + r * x_stride + c0;
      for (int c = 0; c < n; ++c) squares[c] += (row[c] - mean[c]) * (row[c] - mean[c]);
    }
    for (int c = 0; c < n; ++c) {
      deviation[c] = fbank_lanes::deviation(squares[c], n_rows, min_deviation);
    }
    for (int r = 0; r < n_rows; ++r) {
      float* __restrict row = x + r * x_stride + c0;
      for (int c = 0; c < n; ++c) row[c] = static_cast<float>((row[c] - mean[c]) / deviation[c]);
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
