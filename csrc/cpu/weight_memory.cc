#include "cpu/weight_memory.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>

#include "cpu/kernels.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace earmark {
namespace {

constexpr size_t kAlign = 64;
constexpr std::align_val_t kLargePage{size_t{2} << 20};
// Of address space: pages count once they are written.
constexpr size_t kBlock = size_t{32} << 20;

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

std::shared_ptr<std::byte> make_block(size_t size) {
  auto* memory = static_cast<std::byte*>(::operator new(size, kLargePage));
#if defined(__linux__)
  madvise(memory, size, MADV_HUGEPAGE);  // no more than advice: without it, small pages
#endif
  return {memory, [](std::byte* p) { ::operator delete(p, kLargePage); }};
}

}  // namespace

std::shared_ptr<std::byte> take_weight_memory(size_t bytes) {
  static std::mutex mutex;
  static std::weak_ptr<std::byte> current;
  static size_t used = 0;
  const size_t size = round_up(bytes + kReadSlack, kAlign);
  std::shared_ptr<std::byte> block;
  std::byte* piece = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    block = current.lock();
    if (!block || used + size > kBlock) {
      block = make_block(std::max(size, kBlock));
      current = block;
      used = 0;
    }
    piece = block.get() + used;
    used += size;
  }
  // Which takes as long as the system needs to find the pages.
  std::memset(piece, 0, size);
  return {std::move(block), piece};
}

}  // namespace earmark
