#include "cpu/kernels.h"

#include "core/check.h"

namespace earmark {

thread_local const char* last_kernel = "";

// One row for each ISA that is built; the build lists them.
#define EARMARK_ROW(row) extern const Kernels row;
EARMARK_ROWS
#undef EARMARK_ROW

const Kernels* find_kernels(Isa isa) {
#define EARMARK_ROW(row) \
  if (row.isa == isa) return &row;
  EARMARK_ROWS
#undef EARMARK_ROW
  return nullptr;
}

const Kernels& kernels(Isa isa) {
  const Kernels* row = find_kernels(isa);
  EARMARK_CHECK(row != nullptr, "ISA '", isa_name(isa), "' is not built into this binary");
  return *row;
}

}  // namespace earmark
