#include "engine/speechbrain_fbank.h"

namespace earmark {

SpeechBrainFbank::SpeechBrainFbank(int n_mels)
    : MelFrontEnd({{.hop = 160, .first = -200},
                   cosine_window(0.54, 0.46, 400),
                   symmetric_filters(n_mels, 400),
                   {}},
                  {.top = 80}, {}) {}

}  // namespace earmark
