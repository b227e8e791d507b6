// The front end of SpeechBrain's speaker models (docs/arithmetic.md, "Front end").
#pragma once

#include "engine/mel_filterbank.h"

namespace earmark {

class SpeechBrainFbank : public FrontEnd {
 public:
  // Throws std::invalid_argument for an n_mels that a filterbank cannot have.
  explicit SpeechBrainFbank(int n_mels) : filterbank_(n_mels, kHop) {}

  int n_features() const override { return filterbank_.n_mels(); }
  int64_t frames(int64_t samples) const override { return filterbank_.frames(samples); }
  void run(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
           float* features) const override;
  FbankTables tables() const override { return filterbank_.tables(); }
  FbankNormalization normalization() const override { return {}; }

 private:
  static constexpr int kHop = 160;

  MelFilterbank filterbank_;
};

}  // namespace earmark
