// The front end of sound-event networks (docs/arithmetic.md, "Front end").
#pragma once

#include "engine/mel_front_end.h"

namespace earmark {

class LogMel : public MelFrontEnd {
 public:
  // Throws std::invalid_argument for an n_mels that a filterbank cannot have.
  explicit LogMel(int n_mels);
};

}  // namespace earmark
