#include "cpu/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

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
// Read here and not by __builtin_cpu_supports, whose tables some compilers' run-time libraries
// lack.
struct CpuId {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  CpuId(unsigned leaf, unsigned subleaf) {
    __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx);
  }
};

constexpr unsigned kYmmState = 0x6, kZmmState = 0xe6;

// Whether the operating system saves these registers (XCR0).
bool os_saves(unsigned state) {
  if (!(CpuId(1, 0).ecx & bit_OSXSAVE)) return false;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & state) == state;
}

bool has_avx2() {
  return os_saves(kYmmState) && (CpuId(1, 0).ecx & bit_FMA) && (CpuId(7, 0).ebx & bit_AVX2);
}
bool has_avx_vnni() { return has_avx2() && (CpuId(7, 1).eax & 1u << 4); }
bool has_avx512_vnni() {
  constexpr unsigned kAvx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  const CpuId features(7, 0);
  return os_saves(kZmmState) && (features.ebx & kAvx512) == kAvx512 &&
         (features.ecx & bit_AVX512VNNI);
}
#else
bool has_avx2() { return false; }
bool has_avx_vnni() { return false; }
bool has_avx512_vnni() { return false; }
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

std::string names_of_automatic() {
  std::string names;
  for (const IsaInfo& info : kIsas) {
    if (info.automatic) names += (names.empty() ? "" : ", ") + std::string(info.name);
  }
  return names;
}

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
  EARMARK_CHECK(name.empty(), "unknown ISA '", name, "': known are ", names_of_automatic());
  return best;
}

Isa default_isa() {
  const char* name = std::getenv("EARMARK_ISA");
  static const Isa isa = find_isa(name == nullptr ? "" : name);
  return isa;
}

}  // namespace earmark
