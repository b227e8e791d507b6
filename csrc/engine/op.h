// What the engine asks of an op, and what it gives an op to run with.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/kernels.h"
#include "engine/plan.h"
#include "engine/thread_pool.h"

namespace earmark {

// Half-open range of time positions.
struct Range {
  int begin = 0;
  int end = 0;

  int size() const { return end - begin; }
  bool empty() const { return end <= begin; }
  void cover(const Range& other) {
    if (other.empty()) return;
    *this = empty() ? other : Range{std::min(begin, other.begin), std::max(end, other.end)};
  }
};

// Where a frames tensor lies now: channel c of row (t, w) is at data + ((t - first) * width + w) *
// stride + c elements. A vector is data alone.
struct Place {
  char* data = nullptr;
  ptrdiff_t stride = 0;  // elements between rows
  int width = 1;
  int first = 0;   // time position of the first row in memory
  int length = 0;  // time positions of the whole tensor

  template <class T>
  T* row(int t) const {
    return reinterpret_cast<T*>(data) + static_cast<ptrdiff_t>(t - first) * width * stride;
  }
  template <class T>
  T* vector() const {
    return reinterpret_cast<T*>(data);
  }
};

// One recording's walk through the plan. Owned by one caller at a time.
struct Walk {
  const Kernels* kernels;
  ThreadPool* pool;
  std::vector<Place> places;                        // by tensor id
  std::vector<AlignedBuffer<char>> states;          // by op index: sums of reductions
  std::vector<AlignedBuffer<char>> thread_scratch;  // by thread, grown to what the ops asked for

  const Place& operator[](const Tensor& t) const { return places[t.id]; }
  // Time positions of `t` that count.
  int counted(const Tensor& t, const Tensor* valid) const {
    return places[valid == nullptr ? t.id : valid->id].length;
  }
  FoundQuantization found(const Tensor& t) const {
    const float* v = places[t.id].vector<float>();
    return {v[0], v[1], v[2]};
  }

  // Before a parallel loop: at least that much for every thread (bodies must not throw).
  void reserve_scratch(size_t bytes) {
    if (thread_scratch.size() < static_cast<size_t>(pool->threads())) {
      thread_scratch.resize(pool->threads());
    }
    for (AlignedBuffer<char>& buffer : thread_scratch) {
      if (buffer.size() < bytes) buffer = AlignedBuffer<char>(bytes);
    }
  }
  char* scratch(int thread) { return thread_scratch[thread].data(); }
};

class Op {
 public:
  explicit Op(const OpDesc& desc) : name(desc.name), kind(desc.op) {}
  virtual ~Op() = default;
  Op(const Op&) = delete;
  Op& operator=(const Op&) = delete;

  std::string name;
  std::string kind;
  std::vector<const Tensor*> frames_in;
  std::vector<const Tensor*> vectors_in;
  const Tensor* out = nullptr;
  // Reads all frames of its inputs at once (attentive pooling), instead of range by range (stats,
  // frame ops).
  bool whole = false;

  // Of an op that takes sums over time: as many of the first time positions count as this tensor
  // has; null where all do.
  const Tensor* valid = nullptr;

  // Time positions of an output of frames for an input of that many; throws if the input, of any op
  // that reads frames, is too short.
  virtual int length_out(int length_in) const { return length_in; }
  // Input positions that the output positions depend on.
  virtual Range reads(Range out_range, int /*length_in*/) const { return out_range; }

  // For profiles. Weights, their bytes where they are not of the input's dtype, and how often one
  // run multiplies with all of them: once a position and row, more often where sums are computed
  // again.
  virtual int64_t weights() const { return 0; }
  virtual int64_t weight_bytes() const {
    const Tensor* in = frames_in.empty() ? vectors_in[0] : frames_in[0];
    return weights() * static_cast<int64_t>(size_of(in->dtype));
  }
  virtual int64_t uses_of_weights(const Walk&, Range) const { return 0; }

  // Bytes that the op keeps between begin and end, at walk.states[index].
  virtual size_t state_bytes() const { return 0; }
  int index = 0;

  // Before the first range of a recording (resets sums).
  virtual void begin(Walk&) const {}
  // Frame ops: compute that range of the output. Reductions: take in that range. Vector ops:
  // compute.
  virtual void run(Walk&, Range range) const = 0;
  // Reductions: after the last range.
  virtual void end(Walk&) const {}
};

// Builds the op that `desc` names, its weights packed for `isa`. Throws std::invalid_argument.
std::unique_ptr<Op> make_op(const Plan& plan, const OpDesc& desc, Isa isa);

}  // namespace earmark
