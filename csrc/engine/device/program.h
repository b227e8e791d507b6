// The steps of a walk on the device, the memory they need, and both for one batch of recordings.
#pragma once

#include <memory>

#include "engine/device/device_op.h"
#include "engine/schedule.h"

namespace earmark::device {

struct Step {
  const DeviceOp* op;
  int moved_to = -1;  // the buffer of the base tensor that it moves
};

// Memory of a base tensor from step `first` to step `last`; one that is moved has several.
struct TensorBuffer {
  int base;
  int first, last;
};

// Which buffers the steps work on. Unlike on the CPU, tensors are whole and one that may lie over
// another does not: threads read what others would have overwritten.
class Program {
 public:
  Program(const Plan& plan, const std::vector<const DeviceOp*>& ops, int input, int output);

  const Plan& plan() const { return *plan_; }
  const std::vector<Step>& steps() const { return steps_; }
  const std::vector<TensorBuffer>& buffers() const { return buffers_; }
  int input() const { return input_; }
  int output() const { return output_; }

 private:
  const Plan* plan_;
  int input_, output_;
  std::vector<Step> steps_;
  std::vector<TensorBuffer> buffers_;
};

// A program for recordings of given lengths.
class Batch {
 public:
  // Throws std::invalid_argument where a recording cannot be run or all together are too many.
  Batch(const Program& program, const Scheduler& scheduler, const std::vector<int>& lengths);

  const std::vector<int>& lengths() const { return lengths_; }
  int recordings() const { return static_cast<int>(lengths_.size()); }
  int64_t input_rows() const { return input_rows_; }
  size_t arena_bytes() const { return arena_bytes_; }

  // Numbers that have to be in device memory, and where they are.
  const std::vector<int32_t>& offsets() const { return offsets_; }
  void set_offsets(DeviceBuffer memory) { device_offsets_ = std::move(memory); }
  const cuda::Ragged& frames_of(const Tensor& t) const { return ragged_[t.base]; }

  // The places that the first step finds.
  void begin(Walk& walk, char* arena) const;
  // Steps one by one, each launched `times` times; `after(step)` follows.
  template <class After>
  void take_steps(Walk& walk, char* arena, const After& after, int times = 1) const {
    for (const Step& step : program_->steps()) {
      walk.moved = step.moved_to < 0 ? nullptr : arena + at_[step.moved_to];
      for (int i = 0; i < times; ++i) {
        check(step.op->launch(walk), step.op->name + " (" + step.op->kind + ")");
      }
      if (walk.moved != nullptr) walk.bind(program_->plan(), step.op->moves, walk.moved);
      after(*step.op);
    }
  }
  // Of the largest workspace that a step needs.
  size_t workspace_bytes(Walk& walk, char* arena) const;

 private:
  const Program* program_;
  std::vector<int> lengths_;
  int64_t input_rows_ = 0;
  std::vector<int32_t> offsets_;
  DeviceBuffer device_offsets_;
  std::vector<size_t> first_offset_;  // by base tensor, in offsets_
  std::vector<cuda::Ragged> ragged_;  // by base tensor
  std::vector<size_t> at_;            // by buffer
  size_t arena_bytes_ = 0;
};

}  // namespace earmark::device
