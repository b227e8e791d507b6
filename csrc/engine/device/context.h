// What one walk at a time needs on the device: memory, a stream, and the batches it has seen.
#pragma once

#include <list>
#include <vector>

#include "engine/device/program.h"

namespace earmark::device {

// Of the caller's numbers: whether an int8 network is given and asked for float32.
struct Ends {
  bool float_in = true;
  bool float_out = true;
  bool operator==(const Ends&) const = default;
};

class Context {
 public:
  struct Known {
    Batch batch;
    Ends ends;
    int runs = 0;
    Graph graph;  // of a batch that came again
  };

  explicit Context(const cuda::Device& device) : device_(device) {}

  const cuda::Device& device() const { return device_; }
  cudaStream_t own_stream() const { return stream_; }

  // The batch of those lengths, its memory ready for `extra` bytes behind the arena too; work on
  // `stream` waits for what this context was last used for. Batches that were not asked for in the
  // last calls are forgotten.
  Known& prepare(const Program& program, const Scheduler& scheduler,
                 const std::vector<int>& lengths, Ends ends, size_t extra, cudaStream_t stream);
  // After the last work on it.
  void used(cudaStream_t stream) { done_.record(stream); }
  // Until the device has done all of it.
  void wait() const { done_.wait(); }

  char* arena() const { return arena_.data(); }
  Walk walk(cudaStream_t stream) const {
    Walk walk;
    walk.launch = {&device_, stream, workspace_.data()};
    return walk;
  }

  PinnedBuffer in, out;  // the caller's numbers on their way
  DeviceBuffer samples;  // waveforms, and where each begins

 private:
  cuda::Device device_;
  Stream stream_;
  Event done_;
  DeviceBuffer arena_, workspace_;
  std::list<Known> known_;  // the last one used first
};

}  // namespace earmark::device
