// The front end of NeMo's speaker models (docs/arithmetic.md, "Front end").
#pragma once

#include "engine/mel_front_end.h"

namespace earmark {

class NemoFbank : public MelFrontEnd {
 public:
  // Throws std::invalid_argument for an n_mels that a filterbank cannot have.
  explicit NemoFbank(int n_mels);
};

}  // namespace earmark
