#include "engine/taoruijie_fbank.h"

namespace earmark {

// 257: torch reflects the 256 samples that half a transform takes, though the window is shorter.
TaoRuijieFbank::TaoRuijieFbank(int n_mels)
    : MelFrontEnd({{.hop = 160, .first = -200, .reflected = true, .emphasis = 0.97},
                   cosine_window(0.54, 0.46, 400),
                   htk_filters(n_mels, 512, 20, 7600),
                   {.offset = 1e-6, .least = 0, .unit = FbankLog::kNatural}},
                  {}, {.least = 257}) {}

}  // namespace earmark
