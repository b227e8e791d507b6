// The arithmetic assumes round-to-nearest-even with subnormals; a host program or another library
// may have set the thread otherwise.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace earmark {

// Default floating-point modes for as long as the object lives.
class FloatEnvironment {
 public:
#if defined(__x86_64__)
  FloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(kDefaultMxcsr); }
  ~FloatEnvironment() { _mm_setcsr(saved_); }
#else
  FloatEnvironment() = default;
#endif
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

#if defined(__x86_64__)
 private:
  static constexpr unsigned kDefaultMxcsr =
      0x1f80;  // all exceptions masked, nearest even, no FTZ, no DAZ
  unsigned saved_;
#endif
};

}  // namespace earmark
