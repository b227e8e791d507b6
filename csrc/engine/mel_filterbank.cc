#include "engine/mel_filterbank.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>

#include "core/check.h"
#include "engine/float_environment.h"

namespace earmark {
namespace {

using Geometry = FbankGeometry;

// exp(-2 pi i j p / length) for j = 0 .. length / radix - 1 and p = 1 .. radix - 1.
std::vector<double> twiddles(int length, int radix) {
  std::vector<double> table;
  for (int j = 0; j < length / radix; ++j) {
    for (int p = 1; p < radix; ++p) {
      const double phase = -2 * std::numbers::pi * (j * p) / length;
      table.push_back(std::cos(phase));
      table.push_back(std::sin(phase));
    }
  }
  return table;
}

// The factors of the complex length: 4 and then kLaterStages more.
std::vector<int> radices(int n_fft) {
  EARMARK_CHECK(n_fft == 400 || n_fft == 512, "n_fft is ", n_fft, ", expected 400 or 512");
  return n_fft == 400 ? std::vector{4, 5, 5, 2} : std::vector{4, 4, 4, 4};
}

}  // namespace

std::vector<double> cosine_window(double a, double b, int period) {
  const FloatEnvironment defaults;
  std::vector<double> window;
  for (int n = 0; n < Geometry::kWindow; ++n) {
    window.push_back(a - b * std::cos(2 * std::numbers::pi * n / period));
  }
  return window;
}

MelFilterbank::MelFilterbank(const FbankFrames& frames, const std::vector<double>& window,
                             MelFilters filters, const FbankLog& log)
    : frames_(frames), log_(log), filters_(std::move(filters)), window_(window) {
  const FloatEnvironment defaults;
  window_.resize(filters_.n_fft);
  for (double& weight : filters_.weights) weight /= 4;  // FbankTables::weights
  make_transform();
}

void MelFilterbank::make_transform() {
  for (int n = 0; n < Geometry::kWindow; ++n) {
    source_.push_back(n % hop() * Geometry::rows(hop()) + n / hop());
  }
  const int fft = filters_.n_fft / 2;
  int length = fft;
  for (const int radix : radices(filters_.n_fft)) {
    stages_.push_back({radix, length, twiddles(length, radix)});
    length /= radix;
  }
  for (int k = 0; k < fft; ++k) {
    int place = 0, rest = k;
    for (const Stage& stage : stages_) {
      place += stage.length / stage.radix * (rest % stage.radix);
      rest /= stage.radix;
    }
    order_.push_back(place);
  }
  for (int k = 0; k < fft / 2; ++k) {
    const double phase = 2 * std::numbers::pi * k / filters_.n_fft;
    split_.push_back(std::cos(phase));
    split_.push_back(std::sin(phase));
  }
}

FbankTables MelFilterbank::tables() const {
  const auto later = [&](int i) {
    const Stage& stage = stages_[1 + i];
    return FbankStage{stage.radix, stage.length, stage.twiddle.data()};
  };
  return {
      .frames = frames_,
      .log = log_,
      .fft = filters_.n_fft / 2,
      .window = window_.data(),
      .source = source_.data(),
      .twiddle = stages_[0].twiddle.data(),
      .stages = {later(0), later(1), later(2)},
      .order = order_.data(),
      .split = split_.data(),
      .n_mels = n_mels(),
      .first_bin = filters_.first_bin.data(),
      .first_weight = filters_.first_weight.data(),
      .weights = filters_.weights.data(),
  };
}

float MelFilterbank::energies(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
                              int n_frames, float* features) const {
  const FbankTables tables = this->tables();
  const int units = (n_frames + Geometry::kLanes - 1) / Geometry::kLanes;
  std::atomic<float> maximum{-std::numeric_limits<float>::infinity()};
  pool.parallel_for(units, [&](int unit, int) {
    const int frame = unit * Geometry::kLanes;
    const float largest =
        kernels.fbank_f32(tables, waveform.samples, waveform.count, frame,
                          std::min(Geometry::kLanes, n_frames - frame),
                          features + static_cast<ptrdiff_t>(frame) * n_mels(), n_mels());
    float before = maximum.load();
    while (before < largest && !maximum.compare_exchange_weak(before, largest)) {
    }
  });
  return maximum.load();
}

}  // namespace earmark
