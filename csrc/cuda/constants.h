// Weights and other constants of a network in device memory, copied there once.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/runtime.h"

namespace earmark::cuda {

class Constants {
 public:
  // chunk: bytes that are asked of the device at once.
  explicit Constants(size_t chunk = size_t{8} << 20) : chunk_(chunk) {}

  // The values, filled up with zeros to `padded`; aligned to 256 bytes.
  template <class T>
  const T* add(const T* values, size_t count, size_t padded = 0) {
    std::vector<T> copy(values, values + count);
    copy.resize(std::max(count, padded));
    return static_cast<const T*>(add_bytes(copy.data(), copy.size() * sizeof(T)));
  }
  template <class T>
  const T* add(const std::vector<T>& values) {
    return add(values.data(), values.size());
  }

  // Before the first use.
  void finish() const { check(cudaStreamSynchronize(nullptr), "copying the weights"); }
  size_t bytes() const { return bytes_; }

 private:
  const void* add_bytes(const void* values, size_t bytes) {
    constexpr size_t kAlign = 256;
    const size_t room = (std::max<size_t>(bytes, 1) + kAlign - 1) / kAlign * kAlign;
    if (chunks_.empty() || used_ + room > chunks_.back().size()) {
      chunks_.emplace_back(std::max(room, chunk_));
      bytes_ += chunks_.back().size();
      used_ = 0;
    }
    char* to = chunks_.back().data() + used_;
    used_ += room;
    // From memory that is not pinned: the values have been read when the call returns.
    check(cudaMemcpyAsync(to, values, bytes, cudaMemcpyHostToDevice, nullptr),
          "copying the weights");
    return to;
  }

  size_t chunk_;
  std::vector<DeviceBuffer> chunks_;
  size_t used_ = 0, bytes_ = 0;
};

}  // namespace earmark::cuda
