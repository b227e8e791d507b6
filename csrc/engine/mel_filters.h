// The triangular filters of the toolkits' mel filterbanks (docs/arithmetic.md, "Front end"), over
// the bins of the power spectrum of n_fft samples at 16 kHz.
#pragma once

#include <vector>

namespace earmark {

// Filter m adds weights[first_weight[m] + i] times bin first_bin[m] + i, up to first_weight[m + 1];
// each has at least one weight, which may be 0.
struct MelFilters {
  int n_fft;
  std::vector<int> first_bin, first_weight;
  std::vector<double> weights;

  int count() const { return static_cast<int>(first_bin.size()); }
};

// All throw std::invalid_argument unless 1 <= n_mels <= 400. Frequencies are in Hz.

// SpeechBrain's: 0 to 8000, each as wide to both sides as its centre is from the one below.
MelFilters symmetric_filters(int n_mels, int n_fft);
// Kaldi's: straight on the mel scale, of 1127 ln(1 + f / 700); the power is multiplied by gain.
MelFilters kaldi_filters(int n_mels, int n_fft, double low, double high, double gain);
// HTK's: straight in frequency between the points of 2595 log10(1 + f / 700).
MelFilters htk_filters(int n_mels, int n_fft, double low, double high);
// Slaney's: 0 to 8000, linear up to 1000 Hz and logarithmic above, each of area 1 in Hz.
MelFilters slaney_filters(int n_mels, int n_fft);

}  // namespace earmark
