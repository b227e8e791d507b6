#include "engine/front_end.h"

#include <algorithm>
#include <bit>

#include "core/check.h"
#include "core/quant.h"

namespace earmark {
namespace {

bool is_finite(float value) {
  return (std::bit_cast<uint32_t>(value) & 0x7f800000u) != 0x7f800000u;
}

// In blocks, so that the loop inside has no exit and is vectorised.
bool all_finite(const Waveform& waveform) {
  constexpr int64_t kBlock = 4096;
  for (int64_t begin = 0; begin < waveform.count; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, waveform.count);
    int bad = 0;
    for (int64_t i = begin; i < end; ++i) bad |= !is_finite(waveform.samples[i]);
    if (bad != 0) return false;
  }
  return true;
}

}  // namespace

int FrontEnd::checked_frames(const Waveform& waveform, bool samples_are_here) const {
  EARMARK_CHECK(waveform.count > 0, "waveform is empty");
  EARMARK_CHECK(waveform.count >= min_samples(), "waveform has ", waveform.count,
                " samples, the front end takes ", min_samples(), " and more");
  const int64_t n = frames(waveform.count);
  EARMARK_CHECK(n <= kMaxFrames, n, " frames are too many");
  if (samples_are_here && !all_finite(waveform)) {
    const float* bad =
        std::find_if_not(waveform.samples, waveform.samples + waveform.count, is_finite);
    EARMARK_CHECK(false, "sample ", bad - waveform.samples, " is ", *bad, ", not a finite number");
  }
  return static_cast<int>(n);
}

}  // namespace earmark
