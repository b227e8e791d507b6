#include "engine/speechbrain_fbank.h"

#include <algorithm>

#include "engine/float_environment.h"

namespace earmark {

void SpeechBrainFbank::run(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
                           float* features) const {
  const FloatEnvironment defaults;
  const int n_mels = n_features(), n_frames = static_cast<int>(frames(waveform.count));
  const float floor =
      filterbank_.decibels(kernels, pool, waveform, features) - FbankNormalization::kTopDb;
  // Threads share the columns, not the frames, so that each mean is one sum over time in order.
  constexpr int kColumns = 16;
  pool.parallel_for((n_mels + kColumns - 1) / kColumns, [&](int unit, int) {
    const int column = unit * kColumns;
    kernels.center_f32(features + column, n_mels, n_frames, std::min(kColumns, n_mels - column),
                       floor);
  });
}

}  // namespace earmark
