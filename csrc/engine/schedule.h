// How one recording of a given length walks through the plan.
//
// A plan falls into stages: an op that needs a statistic over the whole recording can only run once
// the frames behind it are all there. Within a stage, the frame ops run chunk by chunk over time,
// so that tensors that live inside a stage hold one chunk and its context only; context frames of
// such tensors are computed again at chunk borders. Tensors that outlive their stage are kept
// whole, and each of their frames is computed once. Channels of such a tensor are overwritten in a
// later stage than they are read: a chunk may read them beyond its own frames. Short recordings are
// one chunk.
#pragma once

#include <memory>
#include <vector>

#include "engine/op.h"

namespace earmark {

struct Step {
  enum class Type {
    kPlace,  // tensor `index` now holds time positions from range.begin on
    kBegin,  // op `index`
    kRun,
    kEnd,
  };
  Type type;
  int index;
  Range range;
};

struct Schedule {
  int length_in = -1;
  std::vector<int> lengths;     // time positions, by base tensor
  std::vector<size_t> offsets;  // in the arena, by base tensor
  size_t arena_bytes = 0;
  std::vector<Step> steps;
};

// Memory that is in use from step `first` to step `last`.
struct Block {
  size_t bytes = 0;
  int first = 0, last = 0;
  size_t offset = 0;
};

// Chooses offsets such that blocks in use at the same time do not overlap: first fit, largest
// first. Returns the bytes of them all. `bytes` should be multiples of what offsets are to be.
size_t place_blocks(std::vector<Block>& blocks);

class Scheduler {
 public:
  // Throws std::invalid_argument where an op reads what no op before it wrote, or memory is shared
  // that may not be.
  Scheduler(const Plan& plan, const std::vector<std::unique_ptr<Op>>& ops, int input, int output);

  // `keep_all`: every tensor is kept whole, in one chunk. Throws where the recording is too short
  // or too long.
  Schedule make(int length_in, bool keep_all) const;

  // Whether a recording of that length can be walked; the reason if not.
  std::string why_not(int length_in) const;
  // Time positions of each tensor, by id; -1 for vectors. Throws as `make` does.
  std::vector<int> lengths(int length_in) const;

 private:
  void assign_stages();
  void assign_stages_once();
  bool overwrites_what_is_read(int op, int stage) const;
  void check_overlays() const;
  void lay_out(Schedule& schedule, const std::vector<int>& rows, const std::vector<int>& lag,
               const std::vector<bool>& kept) const;
  size_t row_bytes(const Tensor& base) const;

  const Plan& plan_;
  const std::vector<std::unique_ptr<Op>>& ops_;
  int input_;
  std::vector<int> stage_;         // by op
  std::vector<bool> outlives_;     // by base tensor: read in a later stage than written, or whole
  std::vector<int> first_, last_;  // by base tensor: first and last op that touches it, -1 if none
};

}  // namespace earmark
