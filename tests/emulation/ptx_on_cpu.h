// The PTX instructions that the kernels use, by the definition in the PTX ISA: what
// csrc/cuda/async_copy.cuh and mma_s8.cuh wrap.
#pragma once

#include "emulation/cuda_on_cpu.h"

namespace earmark::cuda {

inline void copy_async_16(void* to, const void* from, int bytes) {
  using namespace emulation;
  if (!machine.in_shared(to, 16) || reinterpret_cast<uintptr_t>(to) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes < 0 || bytes > 16) {
    machine.fail("cp.async of " + std::to_string(bytes) + " bytes that are not aligned");
    return;
  }
  std::memset(to, kGarbage, 16);
  machine.current->copies.back().push_back({to, from, bytes, 16});
}

inline void commit_copies() { emulation::machine.current->copies.emplace_back(); }

template <int kPending>
void wait_copies() {
  auto& groups = emulation::machine.current->copies;
  for (; groups.size() > kPending + 1; groups.pop_front()) emulation::complete(groups.front());
}

inline void load_matrices(uint32_t (&r)[4], const void* row) {
  using namespace emulation;
  if (!machine.in_shared(row, 16) || reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    machine.fail("ldmatrix of a row that is not aligned in shared memory");
    return;
  }
  const int lane = machine.current->lane;
  exchange("ldmatrix", row, [&](const auto& of) {
    unsigned banks = 0;  // of the 8 rows of matrix lane % 4
    for (int i = 0; i < 8; ++i) {
      banks |= 1u << reinterpret_cast<uintptr_t>(of(lane % 4 * 8 + i)) / 16 % 8;
    }
    if (lane < 4 && banks != 0xff) ++machine.bank_conflicts;
    for (int m = 0; m < 4; ++m) {
      const void* from = of(m * 8 + lane / 4);
      std::memcpy(&r[m], static_cast<const char*>(from) + lane % 4 * 4, 4);
    }
    return 0;
  });
}

inline void multiply_add_s8(int32_t (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  const int lane = emulation::machine.current->lane;
  emulation::exchange("mma", Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](const auto& of) {
    // Lane 4 g + j holds of rows g and g + 8 of a, and of column g of b, the bytes 4 j .. 4 j + 3
    // and those 16 further on; of the sums, columns 2 j and 2 j + 1 of the two rows.
    const int row = lane / 4, column = lane % 4 * 2;
    for (int j = 0; j < 4; ++j) {
      const Operands x = of(row * 4 + j);
      for (int c = 0; c < 2; ++c) {
        const Operands y = of((column + c) * 4 + j);
        for (int half = 0; half < 2; ++half) {
          acc[c] = __dp4a(x.a[2 * half], y.b[half], acc[c]);
          acc[2 + c] = __dp4a(x.a[2 * half + 1], y.b[half], acc[2 + c]);
        }
      }
    }
    return 0;
  });
}

}  // namespace earmark::cuda
