#include "engine/mel_front_end.h"

#include <algorithm>

#include "engine/float_environment.h"

namespace earmark {

int64_t MelFrontEnd::frames(int64_t samples) const {
  return samples < lengths_.least ? 0 : (samples - lengths_.first) / filterbank_.hop() + 1;
}

int64_t MelFrontEnd::samples_of_frames(int64_t frames) const {
  return std::max<int64_t>(lengths_.least, (frames - 1) * filterbank_.hop() + lengths_.first);
}

void MelFrontEnd::run(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
                      float* features) const {
  const FloatEnvironment defaults;
  const FbankNormalization& how = normalization_;
  const int n_mels = n_features(), n_frames = static_cast<int>(frames(waveform.count));
  const float largest = filterbank_.energies(kernels, pool, waveform, n_frames, features);
  const float floor = std::max(largest - how.top, how.floor);
  if (how.kind == FbankNormalization::Kind::kScale) {
    constexpr int kFrames = 64;
    pool.parallel_for((n_frames + kFrames - 1) / kFrames, [&](int unit, int) {
      const int frame = unit * kFrames;
      kernels.scale_f32(features + static_cast<ptrdiff_t>(frame) * n_mels, n_mels,
                        std::min(kFrames, n_frames - frame), n_mels, floor, how.offset, how.scale);
    });
    return;
  }
  // Threads share the columns, not the frames, so that each mean is one sum over time in order.
  constexpr int kColumns = 16;
  pool.parallel_for((n_mels + kColumns - 1) / kColumns, [&](int unit, int) {
    const int column = unit * kColumns, n = std::min(kColumns, n_mels - column);
    if (how.kind == FbankNormalization::Kind::kCenter) {
      kernels.center_f32(features + column, n_mels, n_frames, n, floor);
    } else {
      kernels.standardize_f32(features + column, n_mels, n_frames, n, how.min_deviation);
    }
  });
}

}  // namespace earmark
