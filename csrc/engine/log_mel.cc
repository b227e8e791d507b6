#include "engine/log_mel.h"

#include <algorithm>

#include "engine/float_environment.h"

namespace earmark {
namespace {

// What rounding to 16 bits leaves of silence lies below.
constexpr float kMinDb = -60;
// About the mean and the standard deviation of environmental sounds, in dB.
constexpr float kOffset = 20, kScale = 0.04f;

}  // namespace

FbankNormalization LogMel::normalization() const {
  return {.floor = kMinDb, .center = false, .offset = kOffset, .scale = kScale};
}

void LogMel::run(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
                 float* features) const {
  const FloatEnvironment defaults;
  const int n_mels = n_features(), n_frames = static_cast<int>(frames(waveform.count));
  const float largest = filterbank_.decibels(kernels, pool, waveform, features);
  const float floor = std::max(largest - FbankNormalization::kTopDb, kMinDb);
  constexpr int kFrames = 64;
  pool.parallel_for((n_frames + kFrames - 1) / kFrames, [&](int unit, int) {
    const int frame = unit * kFrames;
    kernels.scale_f32(features + static_cast<ptrdiff_t>(frame) * n_mels, n_mels,
                      std::min(kFrames, n_frames - frame), n_mels, floor, kOffset, kScale);
  });
}

}  // namespace earmark
