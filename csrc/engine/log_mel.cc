#include "engine/log_mel.h"

namespace earmark {
namespace {

// What rounding to 16 bits leaves of silence lies below.
constexpr float kMinDb = -60;
// About the mean and the standard deviation of environmental sounds, in dB.
constexpr float kOffset = 20, kScale = 0.04f;

}  // namespace

LogMel::LogMel(int n_mels)
    : MelFrontEnd({{.hop = 320, .first = -200},
                   cosine_window(0.54, 0.46, 400),
                   symmetric_filters(n_mels, 400),
                   {}},
                  {.kind = FbankNormalization::Kind::kScale,
                   .top = 80,
                   .floor = kMinDb,
                   .offset = kOffset,
                   .scale = kScale},
                  {}) {}

}  // namespace earmark
