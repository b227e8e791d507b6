// The front end of SpeechBrain's speaker models (docs/arithmetic.md, "Front end").
#pragma once

#include <vector>

#include "engine/front_end.h"

namespace earmark {

class SpeechBrainFbank : public FrontEnd {
 public:
  // Throws std::invalid_argument unless 1 <= n_mels <= kMaxMels.
  explicit SpeechBrainFbank(int n_mels);

  int n_features() const override { return n_mels_; }
  int64_t frames(int64_t samples) const override { return samples / FbankGeometry::kHop + 1; }
  void run(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
           float* features) const override;

 private:
  // More filters than the spectrum can tell apart make no sense.
  static constexpr int kMaxMels = 400;

  void make_transform();
  void make_filters();

  int n_mels_;
  std::vector<double> window_, twiddle4_, twiddle5_, twiddle5b_, split_, weights_;
  std::vector<int> source_, order_, first_bin_, first_weight_;
};

}  // namespace earmark
