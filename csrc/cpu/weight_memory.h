// Memory for packed weights. A network's weights are read from end to end in each call, and on
// pages of 4 KiB a processor looks up addresses as often as it waits for the memory: all weights
// lie side by side in few large blocks, for which Linux is asked for large pages.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>

namespace earmark {

// Zero-filled, 64-byte aligned, with kReadSlack readable bytes behind its end. Thread-safe. A block
// is freed with the last piece of it.
std::shared_ptr<std::byte> take_weight_memory(size_t bytes);

template <class T>
class WeightBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  WeightBuffer() = default;
  explicit WeightBuffer(size_t size) : memory_(take_weight_memory(size * sizeof(T))) {}

  T* data() { return reinterpret_cast<T*>(memory_.get()); }
  const T* data() const { return reinterpret_cast<const T*>(memory_.get()); }

 private:
  std::shared_ptr<std::byte> memory_;
};

}  // namespace earmark
