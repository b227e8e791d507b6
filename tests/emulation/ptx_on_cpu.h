// The PTX instructions that the kernels use, by the definition in the PTX ISA: what
// csrc/cuda/async_copy.cuh, mma_s8.cuh and wgmma_s8.cuh wrap.
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

// As on the device: counted from where shared memory begins.
inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) -
                               emulation::machine.shared.get());
}

inline void show_to_wgmma() {
  using namespace emulation;
  const unsigned mine = machine.linear(machine.current->index) + 1;
  for (unsigned& owner : machine.unseen) owner = owner == mine ? 0 : owner;
}

// The four warps of a group run the same instructions; each lane computes its own sums.
inline void begin_wgmma() {
  emulation::exchange("wgmma.fence", 0, [](const auto&) { return 0; });
}

inline void commit_wgmma() { emulation::machine.current->products.emplace_back(); }

template <int kPending>
void wait_wgmma() {
  auto& groups = emulation::machine.current->products;
  for (; groups.size() > kPending + 1; groups.pop_front()) {
    for (const auto& product : groups.front()) product();
  }
}

inline void pin_sums(int32_t (&)[32][4]) {}

// An operand of wgmma in shared memory, K-major, as its descriptor says.
class WgmmaOperand {
 public:
  explicit WgmmaOperand(uint64_t descriptor)
      : start_(field(descriptor, 0, 14) << 4), stride_(field(descriptor, 32, 14) << 4) {
    const bool swizzle_128 = field(descriptor, 62, 2) == 1 && field(descriptor, 49, 3) == 0;
    if (!swizzle_128 || stride_ != 1024 || start_ % 1024 >= 128) {
      emulation::machine.fail("wgmma: another layout than rows of 128 bytes, swizzled");
    }
  }

  // Bytes 4 * word .. 4 * word + 3 of the 32 of a row. Bits 7 to 9 of an address are added, without
  // carry, to bits 4 to 6.
  uint32_t word(int row, int word) const {
    using emulation::machine;
    const size_t linear = start_ + row / 8 * stride_ + row % 8 * 128 + 4 * word;
    const unsigned char* from = machine.shared.get() + (linear ^ (linear >> 7 & 7) << 4);
    uint32_t value = 0;
    if (!machine.in_shared(from, 4)) {
      machine.fail("wgmma reads beyond shared memory");
    } else if (machine.unseen_by_wgmma(from) != 0) {
      machine.fail("wgmma reads what no fence.proxy.async has shown it");
    } else {
      std::memcpy(&value, from, 4);
    }
    return value;
  }

 private:
  static size_t field(uint64_t descriptor, int bit, int bits) {
    return descriptor >> bit & ((uint64_t{1} << bits) - 1);
  }

  size_t start_, stride_;
};

// The product happens at once or when it is waited for: by chance, but in order. The sums are
// spoilt until then.
inline void multiply_add_wgmma(int32_t (&d)[32][4], uint64_t a, uint64_t b) {
  using namespace emulation;
  struct Operands {
    uint64_t a, b;
  };
  exchange("wgmma", Operands{a, b}, [&](const auto& of) {
    if (of(0).a != a || of(0).b != b) machine.fail("wgmma with other operands in a lane");
    return 0;
  });
  Thread* const thread = machine.current;
  const int row =
      static_cast<int>(machine.linear(thread->index)) % 128 / 32 * 16 + thread->lane / 4;
  const int column = thread->lane % 4 * 2;
  const auto product = [&d, row, column, x = WgmmaOperand(a), y = WgmmaOperand(b)] {
    for (int t = 0; t < 32; ++t) {
      for (int k = 0; k < 4; ++k) {
        for (int word = 0; word < 8; ++word) {
          d[t][k] =
              __dp4a(x.word(row + k / 2 * 8, word), y.word(8 * t + column + k % 2, word), d[t][k]);
        }
      }
    }
  };
  auto& groups = thread->products;
  bool earlier = false;
  for (const auto& group : groups) earlier |= !group.empty();
  if (!earlier && machine.random() % 2 == 0) {
    product();
    return;
  }
  if (!earlier) {
    for (auto& sums : d) {
      for (int32_t& sum : sums) sum = ~sum;
    }
    groups.back().push_back([&d] {
      for (auto& sums : d) {
        for (int32_t& sum : sums) sum = ~sum;
      }
    });
  }
  groups.back().push_back(product);
}

}  // namespace earmark::cuda
