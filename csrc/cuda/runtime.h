// The CUDA run time's objects, owned: memory, streams, events, graphs. What fails throws
// std::runtime_error.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "cuda/launch.h"

#if defined(EARMARK_CUDA_EMULATED)
#include "emulation/runtime_on_cpu.h"
#endif

namespace earmark::cuda {

// `what` says what was tried.
void check(cudaError_t error, const std::string& what);

// Makes a device the calling thread's own for as long as the object lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int ordinal);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

enum class Memory { kHost, kDevice };

// Memory that the device reads: its own, or pinned on the host, from where copies need no detour.
template <Memory kMemory>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  char* data() const { return data_; }
  size_t size() const { return size_; }
  // At least so many bytes, with a reserve for what comes; what was there is lost. Returns whether
  // the memory is another one now.
  bool grow(size_t bytes);

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};
using DeviceBuffer = Buffer<Memory::kDevice>;
using PinnedBuffer = Buffer<Memory::kHost>;

// Waits for no other stream.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(bool timed = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream);
  // Work that comes later on that stream waits for what was recorded.
  void hold_back(cudaStream_t stream) const;
  void wait() const;
  float milliseconds_since(const Event& earlier) const;

 private:
  cudaEvent_t event_ = nullptr;
};

// Launches recorded once, given to the device at once.
class Graph {
 public:
  using Enqueue = std::function<void(cudaStream_t)>;

  Graph() = default;
  // Records what `enqueue` launches; the addresses it uses then must stay.
  Graph(cudaStream_t stream, const Enqueue& enqueue);
  ~Graph();
  Graph(Graph&& other) noexcept { *this = std::move(other); }
  Graph& operator=(Graph&& other) noexcept {
    std::swap(graph_, other.graph_);
    return *this;
  }

  explicit operator bool() const { return graph_ != nullptr; }
  void launch(cudaStream_t stream) const;

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace earmark::cuda
