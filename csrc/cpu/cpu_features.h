// Which instruction sets this binary has kernels for, which this processor has, and which one is
// used.
#pragma once

#include <string>
#include <vector>

namespace earmark {

enum class Isa {
  kScalar,
  kAvx2,
  kAvxVnni,
  kAvx512Vnni,
  kNeonDotprod,
  kNeonI8mm,
  kAvxVnniEmulated,
  kAvx512VnniEmulated,
};

const char* isa_name(Isa isa);

// Built into this binary and present on this processor, best last.
std::vector<Isa> available_isas();

// The ISA called `name`; an empty name chooses the best. An error says whether the name is unknown,
// not built, or not on this processor.
Isa find_isa(const std::string& name);

// find_isa of the environment variable EARMARK_ISA, read once.
Isa default_isa();

}  // namespace earmark
