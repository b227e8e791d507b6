#include "engine/mel_filters.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "engine/float_environment.h"

namespace earmark {
namespace {

constexpr double kMaxFrequencyHz = 8000;
// More filters than the spectrum can tell apart make no sense.
constexpr int kMaxMels = 400;

// value(i) for the n_mels + 2 corners of the triangles.
template <class Value>
std::vector<double> corners(int n_mels, const Value& value) {
  EARMARK_CHECK(n_mels >= 1 && n_mels <= kMaxMels, "n_mels is ", n_mels, ", expected 1 to ",
                kMaxMels);
  std::vector<double> values;
  for (int i = 0; i < n_mels + 2; ++i) values.push_back(value(i));
  return values;
}

// weight(m, frequency), where it is positive.
template <class Weight>
MelFilters filters_of(int n_mels, int n_fft, const Weight& weight) {
  MelFilters f = {.n_fft = n_fft, .first_bin = {}, .first_weight = {}, .weights = {}};
  const int last = n_fft / 2;
  for (int m = 0; m < n_mels; ++m) {
    f.first_bin.push_back(0);
    const size_t first = f.weights.size();
    f.first_weight.push_back(static_cast<int>(first));
    for (int k = 0; k <= last; ++k) {
      const double value = weight(m, kMaxFrequencyHz * k / last);
      if (value <= 0) continue;
      if (f.weights.size() == first) f.first_bin.back() = k;
      f.weights.push_back(value);
    }
    // A narrow one may lie between two bins.
    if (f.weights.size() == first) f.weights.push_back(0);
  }
  f.first_weight.push_back(static_cast<int>(f.weights.size()));
  return f;
}

double triangle(double x, const double* corner) {
  const double rise = (x - corner[0]) / (corner[1] - corner[0]);
  const double fall = (corner[2] - x) / (corner[2] - corner[1]);
  return std::min(rise, fall);
}

double kaldi_mel(double hz) { return 1127 * std::log(1 + hz / 700); }

double htk_mel(double hz) { return 2595 * std::log10(1 + hz / 700); }
double htk_hz(double mel) { return 700 * (std::pow(10, mel / 2595) - 1); }

// 15 mels of 200 / 3 Hz each, then 27 for a factor of 6.4.
constexpr double kLinearHz = 1000, kLinearMels = 15, kMelHz = 200.0 / 3;
const double kLogStep = std::log(6.4) / 27;

double slaney_mel(double hz) {
  return hz < kLinearHz ? hz / kMelHz : kLinearMels + std::log(hz / kLinearHz) / kLogStep;
}
double slaney_hz(double mel) {
  return mel < kLinearMels ? mel * kMelHz : kLinearHz * std::exp(kLogStep * (mel - kLinearMels));
}

}  // namespace

MelFilters symmetric_filters(int n_mels, int n_fft) {
  const FloatEnvironment defaults;
  const double top = htk_mel(kMaxFrequencyHz);
  const auto hz = corners(n_mels, [&](int i) { return htk_hz(top * i / (n_mels + 1)); });
  return filters_of(n_mels, n_fft, [&](int m, double frequency) {
    return 1 - std::fabs(frequency - hz[m + 1]) / (hz[m + 1] - hz[m]);
  });
}

MelFilters kaldi_filters(int n_mels, int n_fft, double low, double high, double gain) {
  const FloatEnvironment defaults;
  const double bottom = kaldi_mel(low), top = kaldi_mel(high);
  const auto mel =
      corners(n_mels, [&](int i) { return bottom + (top - bottom) * i / (n_mels + 1); });
  return filters_of(n_mels, n_fft, [&](int m, double frequency) {
    return gain * triangle(kaldi_mel(frequency), &mel[m]);
  });
}

MelFilters htk_filters(int n_mels, int n_fft, double low, double high) {
  const FloatEnvironment defaults;
  const double bottom = htk_mel(low), top = htk_mel(high);
  const auto hz =
      corners(n_mels, [&](int i) { return htk_hz(bottom + (top - bottom) * i / (n_mels + 1)); });
  return filters_of(n_mels, n_fft,
                    [&](int m, double frequency) { return triangle(frequency, &hz[m]); });
}

MelFilters slaney_filters(int n_mels, int n_fft) {
  const FloatEnvironment defaults;
  const double top = slaney_mel(kMaxFrequencyHz);
  const auto hz = corners(n_mels, [&](int i) { return slaney_hz(top * i / (n_mels + 1)); });
  return filters_of(n_mels, n_fft, [&](int m, double frequency) {
    return triangle(frequency, &hz[m]) * (2 / (hz[m + 2] - hz[m]));
  });
}

}  // namespace earmark
