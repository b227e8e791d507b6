#include "engine/device/context.h"

#include <algorithm>

namespace earmark::device {
namespace {

// Lengths of speech are many; a graph is some hundred kilobytes.
constexpr size_t kMaxKnown = 32;

}  // namespace

Context::Known& Context::prepare(const Program& program, const Scheduler& scheduler,
                                 const std::vector<int>& lengths, Ends ends, size_t extra,
                                 cudaStream_t stream) {
  done_.hold_back(stream);
  const auto found = std::find_if(known_.begin(), known_.end(), [&](const Known& known) {
    return known.ends == ends && known.batch.lengths() == lengths;
  });
  if (found != known_.end()) {
    known_.splice(known_.begin(), known_, found);
    ++known_.front().runs;
    return known_.front();
  }
  known_.push_front({Batch(program, scheduler, lengths), ends, 1, Graph()});
  Batch& batch = known_.front().batch;
  try {
    bool moved = arena_.grow(batch.arena_bytes() + extra);
    const std::vector<int32_t>& offsets = batch.offsets();
    const size_t bytes = offsets.size() * sizeof offsets[0];
    DeviceBuffer memory(bytes);
    check(cudaMemcpyAsync(memory.data(), offsets.data(), bytes, cudaMemcpyHostToDevice, stream),
          "copying lengths");
    batch.set_offsets(std::move(memory));
    Walk walk = this->walk(stream);
    const size_t workspace = batch.workspace_bytes(walk, arena_.data());
    if (workspace_.grow(workspace)) {
      moved = true;
      check(cudaMemsetAsync(workspace_.data(), 0, workspace_.size(), stream), "clearing memory");
    }
    // They hold the old addresses.
    if (moved) {
      for (Known& known : known_) known.graph = Graph();
    }
    if (known_.size() > kMaxKnown) known_.pop_back();
  } catch (...) {
    known_.pop_front();
    throw;
  }
  return known_.front();
}

}  // namespace earmark::device
