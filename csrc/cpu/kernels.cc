#include "cpu/kernels.h"

#include "core/check.h"

namespace earmark {

thread_local const char* last_kernel = "";

// One row per ISA, each defined in its own kernel_row_<isa>.cc.
extern const Kernels kKernelsScalar;
#if defined(__x86_64__)
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512Vnni;
#endif
#if defined(EARMARK_EMULATED_ISA)
extern const Kernels kKernelsAvx512VnniEmulated;
#endif

const Kernels& kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return kKernelsScalar;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return kKernelsAvx2;
    case Isa::kAvx512Vnni:
      return kKernelsAvx512Vnni;
#endif
#if defined(EARMARK_EMULATED_ISA)
    case Isa::kAvx512VnniEmulated:
      return kKernelsAvx512VnniEmulated;
#endif
    default:
      break;
  }
  EARMARK_CHECK(false, "ISA '", isa_name(isa), "' is not built into this binary");
  throw std::logic_error("unreachable");
}

}  // namespace earmark
