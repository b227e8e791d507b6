// A front end on a mel filterbank: which filterbank, and what is done with its values.
#pragma once

#include <utility>

#include "engine/mel_filterbank.h"

namespace earmark {

class MelFrontEnd : public FrontEnd {
 public:
  int n_features() const override { return filterbank_.n_mels(); }
  int64_t min_samples() const override { return lengths_.least; }
  int64_t frames(int64_t samples) const override;
  int64_t samples_of_frames(int64_t frames) const override;
  void run(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
           float* features) const override;
  FbankTables tables() const override { return filterbank_.tables(); }
  FbankNormalization normalization() const override { return normalization_; }

 protected:
  // Samples that the first frame takes, each further one taking a hop, and those of the shortest
  // recording.
  struct Lengths {
    int first = 0;
    int least = 1;
  };

  MelFrontEnd(MelFilterbank filterbank, const FbankNormalization& normalization, Lengths lengths)
      : filterbank_(std::move(filterbank)), normalization_(normalization), lengths_(lengths) {}

 private:
  MelFilterbank filterbank_;
  FbankNormalization normalization_;
  Lengths lengths_;
};

}  // namespace earmark
