// Mel filterbank energies in dB, which front ends begin with (docs/arithmetic.md, "Front end").
#pragma once

#include <vector>

#include "engine/front_end.h"

namespace earmark {

class MelFilterbank {
 public:
  // hop: samples from one frame to the next. Throws std::invalid_argument unless 1 <= n_mels <=
  // kMaxMels.
  MelFilterbank(int n_mels, int hop);

  int n_mels() const { return n_mels_; }
  int64_t frames(int64_t samples) const { return samples / hop_ + 1; }
  FbankTables tables() const;
  // features: frames(waveform.count) x n_mels(). Returns the largest. The caller sets the float
  // environment.
  float decibels(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform,
                 float* features) const;

 private:
  // More filters than the spectrum can tell apart make no sense.
  static constexpr int kMaxMels = 400;

  void make_transform();
  void make_filters();

  int n_mels_, hop_;
  std::vector<double> window_, twiddle4_, twiddle5_, twiddle5b_, split_, weights_;
  std::vector<int> source_, order_, first_bin_, first_weight_;
};

}  // namespace earmark
