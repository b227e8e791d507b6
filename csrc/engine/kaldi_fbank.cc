#include "engine/kaldi_fbank.h"

#include <cmath>

#include "core/check.h"
#include "engine/float_environment.h"

namespace earmark {
namespace {

std::vector<double> window_of(const std::string& name) {
  if (name == "hamming") return cosine_window(0.54, 0.46, 399);
  EARMARK_CHECK(name == "povey", "window is '", name, "', expected povey or hamming");
  const FloatEnvironment defaults;
  std::vector<double> window = cosine_window(0.5, 0.5, 399);
  for (double& value : window) value = std::pow(value, 0.85);
  return window;
}

double checked(double scale) {
  EARMARK_CHECK(scale > 0 && scale <= 32768, "scale is ", scale, ", expected above 0, up to 32768");
  return scale;
}

}  // namespace

// The samples' scale is in the filters, which multiply the power.
KaldiFbank::KaldiFbank(int n_mels, const std::string& window, double scale)
    : MelFrontEnd({{.hop = 160, .first = 0, .emphasis = 0.97, .each_by_itself = true},
                   window_of(window),
                   kaldi_filters(n_mels, 512, 20, 8000, checked(scale) * scale),
                   {.least = 0x1p-23, .unit = FbankLog::kNatural}},
                  {}, {.first = 400, .least = 400}) {}

}  // namespace earmark
