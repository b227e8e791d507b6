#include "cpu/peak.h"

#include <algorithm>
#include <chrono>

#include "cpu/kernels.h"

namespace earmark {
namespace {

constexpr double kTrySeconds = 5e-3;  // within one time slice, most likely
constexpr int kTries = 10;

double seconds(const PeakLoop& loop, int64_t rounds) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  loop.run(rounds);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

std::map<std::string, double> measure_peaks(Isa isa) {
  std::map<std::string, double> peaks;
  for (const PeakLoop& loop : kernels(isa).peaks) {
    int64_t rounds = 1 << 10;
    while (seconds(loop, rounds) < kTrySeconds) rounds *= 2;
    double best = seconds(loop, rounds);
    for (int i = 1; i < kTries; ++i) best = std::min(best, seconds(loop, rounds));
    peaks[loop.name] = 1e-9 * static_cast<double>(rounds) * loop.macs / best;
  }
  return peaks;
}

}  // namespace earmark
