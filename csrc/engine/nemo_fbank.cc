#include "engine/nemo_fbank.h"

namespace earmark {

// Frames whose second half lies beyond the end are not among the valid ones; one frame alone has no
// standard deviation.
NemoFbank::NemoFbank(int n_mels)
    : MelFrontEnd({{.hop = 160, .first = -200, .emphasis = 0.97},
                   cosine_window(0.5, 0.5, 399),
                   slaney_filters(n_mels, 512),
                   {.offset = 0x1p-24, .least = 0, .unit = FbankLog::kNatural}},
                  {.kind = FbankNormalization::Kind::kStandardize, .min_deviation = 1e-5},
                  {.first = 160, .least = 320}) {}

}  // namespace earmark
