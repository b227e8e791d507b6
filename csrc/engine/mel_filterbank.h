// Logarithms of mel filterbank energies, which front ends begin with (docs/arithmetic.md, "Front
// end").
#pragma once

#include <vector>

#include "engine/front_end.h"
#include "engine/mel_filters.h"

namespace earmark {

// a - b cos(2 pi n / period) for the samples n of a frame: Hamming's and Hann's windows, periodic
// where the period is FbankGeometry::kWindow, symmetric where it is one less.
std::vector<double> cosine_window(double a, double b, int period);

class MelFilterbank {
 public:
  // filters: of a spectrum of 400 or 512 samples; window: FbankGeometry::kWindow of them.
  MelFilterbank(const FbankFrames& frames, const std::vector<double>& window, MelFilters filters,
                const FbankLog& log);

  int n_mels() const { return filters_.count(); }
  int hop() const { return frames_.hop; }
  FbankTables tables() const;
  // features: n_frames x n_mels(). Returns the largest. The caller sets the float environment.
  float energies(const Kernels& kernels, ThreadPool& pool, const Waveform& waveform, int n_frames,
                 float* features) const;

 private:
  struct Stage {
    int radix, length;
    std::vector<double> twiddle;
  };

  void make_transform();

  FbankFrames frames_;
  FbankLog log_;
  MelFilters filters_;
  std::vector<double> window_, split_;
  std::vector<Stage> stages_;
  std::vector<int> source_, order_;
};

}  // namespace earmark
