// A 64-byte aligned array, zero-filled, with kReadSlack readable bytes behind its end.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

#include "cpu/kernels.h"

namespace earmark {

template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size)
      : data_(static_cast<T*>(::operator new(bytes(size), std::align_val_t{64}))), size_(size) {
    std::memset(data_.get(), 0, bytes(size));
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  static size_t bytes(size_t size) { return size * sizeof(T) + kReadSlack; }

  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace earmark
