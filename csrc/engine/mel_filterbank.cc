#include "engine/mel_filterbank.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/check.h"
#include "engine/float_environment.h"

namespace earmark {
namespace {

using Geometry = FbankGeometry;

constexpr double kMaxFrequencyHz = 8000;

// exp(-2 pi i j p / length) for j = 0 .. count - 1 and p = 1 .. radix - 1.
std::vector<double> twiddles(int length, int count, int radix) {
  std::vector<double> table;
  for (int j = 0; j < count; ++j) {
    for (int p = 1; p < radix; ++p) {
      const double phase = -2 * std::numbers::pi * (j * p) / length;
      table.push_back(std::cos(phase));
      table.push_back(std::sin(phase));
    }
  }
  return table;
}

}  // namespace

MelFilterbank::MelFilterbank(int n_mels, int hop) : n_mels_(n_mels), hop_(hop) {
  EARMARK_CHECK(n_mels >= 1 && n_mels <= kMaxMels, "n_mels is ", n_mels, ", expected 1 to ",
                kMaxMels);
  const FloatEnvironment defaults;
  make_transform();
  make_filters();
}

void MelFilterbank::make_transform() {
  for (int n = 0; n < Geometry::kWindow; ++n) {
    // Periodic, as torch.hamming_window is unless told otherwise.
    window_.push_back(0.54 - 0.46 * std::cos(2 * std::numbers::pi * n / Geometry::kWindow));
    source_.push_back(n % hop_ * Geometry::rows(hop_) + n / hop_);
  }
  twiddle4_ = twiddles(200, 50, 4);
  twiddle5_ = twiddles(50, 10, 5);
  twiddle5b_ = twiddles(10, 2, 5);
  for (int k = 0; k < Geometry::kFft; ++k) {
    order_.push_back(50 * (k % 4) + 10 * (k / 4 % 5) + 2 * (k / 20 % 5) + k / 100);
  }
  for (int k = 0; k < Geometry::kFft / 2; ++k) {
    const double phase = 2 * std::numbers::pi * k / Geometry::kWindow;
    split_.push_back(std::cos(phase));
    split_.push_back(std::sin(phase));
  }
}

// Triangles with centres equally spaced on the mel scale, each symmetric in Hz: as wide to both
// sides as its centre is from the one below.
void MelFilterbank::make_filters() {
  const double top = 2595 * std::log10(1 + kMaxFrequencyHz / 700);
  const auto hz = [&](int i) { return 700 * (std::pow(10, top * i / (n_mels_ + 1) / 2595) - 1); };
  for (int m = 0; m < n_mels_; ++m) {
    const double centre = hz(m + 1), band = hz(m + 1) - hz(m);
    first_bin_.push_back(0);
    const size_t first = weights_.size();
    first_weight_.push_back(static_cast<int>(first));
    for (int k = 0; k < Geometry::kBins; ++k) {
      const double frequency = kMaxFrequencyHz * k / (Geometry::kBins - 1);
      const double weight = 1 - std::fabs(frequency - centre) / band;
      if (weight <= 0) continue;
      if (weights_.size() == first) first_bin_.back() = k;
      weights_.push_back(weight / 4);
    }
    // A narrow one may lie between two bins.
    if (weights_.size() == first) weights_.push_back(0);
  }
  first_weight_.push_back(static_cast<int>(weights_.size()));
}

FbankTables MelFilterbank::tables() const {
  return {
      .hop = hop_,
      .window = window_.data(),
      .source = source_.data(),
      .twiddle4 = twiddle4_.data(),
      .twiddle5 = twiddle5_.data(),
      .twiddle5b = twiddle5b_.data(),
      .order = order_.data(),
      .split = split_.data(),
      .n_mels = n_mels_,
      .first_bin = first_bin_.data(),
      .first_weight = first_weight_.data(),
      .weights = weights_.data(),
  };
}

float MelFilterbank::decibels(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
                              float* features) const {
  const FbankTables tables = this->tables();
  const int n_frames = static_cast<int>(frames(waveform.count));
  const int units = (n_frames + Geometry::kLanes - 1) / Geometry::kLanes;
  std::atomic<float> maximum{-std::numeric_limits<float>::infinity()};
  pool.parallel_for(units, [&](int unit, int) {
    const int frame = unit * Geometry::kLanes;
    const float largest =
        kernels.fbank_f32(tables, waveform.samples, waveform.count, frame,
                          std::min(Geometry::kLanes, n_frames - frame),
                          features + static_cast<ptrdiff_t>(frame) * n_mels_, n_mels_);
    float before = maximum.load();
    while (before < largest && !maximum.compare_exchange_weak(before, largest)) {
    }
  });
  return maximum.load();
}

}  // namespace earmark
