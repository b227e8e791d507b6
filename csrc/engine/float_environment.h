// The arithmetic assumes round-to-nearest-even with subnormals; a host program or another library
// may have set the thread otherwise.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace earmark {

// Default floating-point modes for as long as the object lives.
class FloatEnvironment {
 public:
  FloatEnvironment() : saved_(modes()) { set_modes(kDefault); }
  ~FloatEnvironment() { set_modes(saved_); }
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
#if defined(__x86_64__)
  using Modes = unsigned;
  // All exceptions masked, nearest even, no FTZ, no DAZ.
  static constexpr Modes kDefault = 0x1f80;
  static Modes modes() { return _mm_getcsr(); }
  static void set_modes(Modes modes) { _mm_setcsr(modes); }
#elif defined(__aarch64__)
  using Modes = uint64_t;
  static constexpr Modes kDefault = 0;
  static Modes modes() {
    Modes modes;
    asm volatile("mrs %0, fpcr" : "=r"(modes));
    return modes;
  }
  static void set_modes(Modes modes) { asm volatile("msr fpcr, %0" : : "r"(modes)); }
#else
  using Modes = unsigned;
  static constexpr Modes kDefault = 0;
  static Modes modes() { return kDefault; }
  static void set_modes(Modes) {}
#endif

  Modes saved_;
};

}  // namespace earmark
