// Kaldi's filterbank with the mean over time taken off: 3D-Speaker's and WeSpeaker's front end
// (docs/arithmetic.md, "Front end").
#pragma once

#include <string>

#include "engine/mel_front_end.h"

namespace earmark {

class KaldiFbank : public MelFrontEnd {
 public:
  // window: "povey" or "hamming"; scale: what samples in [-1, 1] are multiplied by, above 0. Throws
  // std::invalid_argument, naming the value, for another, and for an n_mels that a filterbank
  // cannot have.
  KaldiFbank(int n_mels, const std::string& window, double scale);
};

}  // namespace earmark
