#include "cpu/cpu_features.h"

#include <array>
#include <cstdlib>

#include "core/check.h"
#include "cpu/kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace earmark {
namespace {

struct IsaInfo {
  Isa isa;
  const char* name;
  bool (*present)();
  bool automatic;  // chosen without being asked for
};

bool always() { return true; }

#if defined(__x86_64__)
// The compiler's helpers read CPUID and, for AVX and AVX-512, the register state the OS saves
// (XGETBV).
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512_vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#else
bool has_avx2() { return false; }
bool has_avx512_vnni() { return false; }
#endif

// Compilers that cannot build these kernels do not know the name either.
#if defined(EARMARK_AVX_VNNI)
bool has_avx_vnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }
#else
bool has_avx_vnni() { return false; }
#endif

#if defined(__aarch64__) && defined(__linux__)
bool has_neon_dotprod() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
bool has_neon_i8mm() { return has_neon_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0; }
#else
bool has_neon_dotprod() { return false; }
bool has_neon_i8mm() { return false; }
#endif

// The best one last.
constexpr std::array<IsaInfo, 8> kIsas = {{
    {Isa::kScalar, "scalar", always, true},
    {Isa::kAvx512VnniEmulated, "avx512_vnni_emulated", always, false},
    {Isa::kAvxVnniEmulated, "avx_vnni_emulated", has_avx2, false},
    {Isa::kAvx2, "avx2", has_avx2, true},
    {Isa::kAvxVnni, "avx_vnni", has_avx_vnni, true},
    {Isa::kAvx512Vnni, "avx512_vnni", has_avx512_vnni, true},
    {Isa::kNeonDotprod, "neon_dotprod", has_neon_dotprod, true},
    {Isa::kNeonI8mm, "neon_i8mm", has_neon_i8mm, true},
}};

bool is_built(const IsaInfo& info) { return find_kernels(info.isa) != nullptr; }

}  // namespace

const char* isa_name(Isa isa) {
  for (const IsaInfo& info : kIsas) {
    if (info.isa == isa) return info.name;
  }
  return "?";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const IsaInfo& info : kIsas) {
    if (is_built(info) && info.present()) isas.push_back(info.isa);
  }
  return isas;
}

Isa find_isa(const std::string& name) {
  Isa best = Isa::kScalar;
  for (const IsaInfo& info : kIsas) {
    if (name == info.name) {
      EARMARK_CHECK(is_built(info), "ISA '", name, "' is not built into this binary");
      EARMARK_CHECK(info.present(), "ISA '", name, "' is not supported by this processor");
      return info.isa;
    }
    if (is_built(info) && info.automatic && info.present()) best = info.isa;
  }
  EARMARK_CHECK(name.empty(), "unknown ISA '", name,
                "': known are scalar, avx2, avx_vnni, avx512_vnni, neon_dotprod, neon_i8mm");
  return best;
}

Isa default_isa() {
  const char* name = std::getenv("EARMARK_ISA");
  static const Isa isa = find_isa(name == nullptr ? "" : name);
  return isa;
}

}  // namespace earmark
