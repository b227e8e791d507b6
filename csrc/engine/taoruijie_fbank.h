// The front end of TaoRuijie/ECAPA-TDNN (docs/arithmetic.md, "Front end").
#pragma once

#include "engine/mel_front_end.h"

namespace earmark {

class TaoRuijieFbank : public MelFrontEnd {
 public:
  // Throws std::invalid_argument for an n_mels that a filterbank cannot have.
  explicit TaoRuijieFbank(int n_mels);
};

}  // namespace earmark
