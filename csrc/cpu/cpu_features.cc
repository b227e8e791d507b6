#include "cpu/cpu_features.h"

#include <array>
#include <cstdlib>

#include "core/check.h"

namespace earmark {
namespace {

struct IsaInfo {
  Isa isa;
  const char* name;
  bool built;
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
constexpr bool kX86 = true;
#else
bool has_avx2() { return false; }
bool has_avx512_vnni() { return false; }
constexpr bool kX86 = false;
#endif

#if defined(EARMARK_EMULATED_ISA)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

const std::array<IsaInfo, 4> kIsas = {{
    {Isa::kScalar, "scalar", true, always, true},
    {Isa::kAvx512VnniEmulated, "avx512_vnni_emulated", kEmulated, always, false},
    {Isa::kAvx2, "avx2", kX86, has_avx2, true},
    {Isa::kAvx512Vnni, "avx512_vnni", kX86, has_avx512_vnni, true},
}};

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
    if (info.built && info.present()) isas.push_back(info.isa);
  }
  return isas;
}

Isa find_isa(const std::string& name) {
  Isa best = Isa::kScalar;
  for (const IsaInfo& info : kIsas) {
    if (name == info.name) {
      EARMARK_CHECK(info.built, "ISA '", name, "' is not built into this binary");
      EARMARK_CHECK(info.present(), "ISA '", name, "' is not supported by this processor");
      return info.isa;
    }
    if (info.built && info.automatic && info.present()) best = info.isa;
  }
  EARMARK_CHECK(name.empty(), "unknown ISA '", name, "': known are scalar, avx2, avx512_vnni");
  return best;
}

Isa default_isa() {
  const char* name = std::getenv("EARMARK_ISA");
  static const Isa isa = find_isa(name == nullptr ? "" : name);
  return isa;
}

}  // namespace earmark
