#include "engine/device/program.h"

#include <map>

#include "core/check.h"

namespace earmark::device {
namespace {

constexpr size_t kAlign = 256;

}  // namespace

Program::Program(const Plan& plan, const std::vector<const DeviceOp*>& ops, int input, int output)
    : plan_(&plan), input_(input), output_(output) {
  std::vector<int> current(plan.tensors().size(), -1);  // by base tensor
  const auto touch = [&](int base, int step) {
    if (current[base] < 0) {
      current[base] = static_cast<int>(buffers_.size());
      buffers_.push_back({base, step, step});
    }
    buffers_[current[base]].last = step;
  };
  touch(input, 0);
  for (const DeviceOp* op : ops) {
    const int step = static_cast<int>(steps_.size());
    for (const Tensor* t : op->reads) touch(t->base, step);
    steps_.push_back({op});
    if (op->moves >= 0) {
      steps_.back().moved_to = static_cast<int>(buffers_.size());
      current[op->moves] = steps_.back().moved_to;
      buffers_.push_back({op->moves, step, step});
    }
    for (const Tensor* t : op->writes) touch(t->base, step);
  }
  touch(output, static_cast<int>(steps_.size()) - 1);
}

Batch::Batch(const Program& program, const Scheduler& scheduler, const std::vector<int>& lengths)
    : program_(&program), lengths_(lengths) {
  const Plan& plan = program.plan();
  const size_t n = plan.tensors().size();
  std::map<int, std::vector<int>> known;  // by length of the input
  for (const int length : lengths) {
    auto& of_tensors = known[length];
    if (of_tensors.empty()) of_tensors = scheduler.lengths(length);
  }
  // Tensors whose recordings have the same lengths share their offsets.
  std::map<std::vector<int32_t>, size_t> found;
  first_offset_.resize(n);
  ragged_.resize(n);
  for (const TensorBuffer& buffer : program.buffers()) {
    const Tensor& base = plan.tensor(buffer.base);
    std::vector<int32_t> offsets = {0};
    int64_t rows = 0;
    for (const int length : lengths) {
      rows += base.kind == Kind::kVector ? 1 : known[length][base.id];
      EARMARK_CHECK(rows * base.width < int64_t{1} << 31, "the recordings have more than 2^31 - 1 ",
                    "positions together");
      offsets.push_back(static_cast<int32_t>(rows));
    }
    if (base.id == program.input()) input_rows_ = rows;
    ragged_[base.id] = {nullptr, recordings(), static_cast<int>(rows)};
    const auto [place, is_new] = found.emplace(offsets, offsets_.size());
    first_offset_[base.id] = place->second;
    if (is_new) offsets_.insert(offsets_.end(), offsets.begin(), offsets.end());
  }
  std::vector<Block> blocks;
  for (const TensorBuffer& buffer : program.buffers()) {
    const Tensor& base = plan.tensor(buffer.base);
    const size_t rows = static_cast<size_t>(ragged_[base.id].rows) * base.width;
    const size_t size = size_of(base.dtype) * rows * stride_of(base, base.id == program.input());
    blocks.push_back({(size + kAlign - 1) / kAlign * kAlign, buffer.first, buffer.last});
  }
  arena_bytes_ = place_blocks(blocks);
  for (const Block& block : blocks) at_.push_back(block.offset);
}

void Batch::begin(Walk& walk, char* arena) const {
  const Plan& plan = program_->plan();
  walk.recordings = recordings();
  walk.places.assign(plan.tensors().size(), {});
  std::vector<char*> memory(plan.tensors().size(), nullptr);  // by base tensor: its first buffer's
  for (size_t i = program_->buffers().size(); i-- > 0;) {
    memory[program_->buffers()[i].base] = arena + at_[i];
  }
  const auto* offsets = reinterpret_cast<const int32_t*>(device_offsets_.data());
  for (const Tensor& t : plan.tensors()) {
    if (memory[t.base] == nullptr) continue;
    Place& place = walk.places[t.id];
    place.data = memory[t.base] + t.offset * size_of(t.dtype);
    place.stride = stride_of(plan.base_of(t), t.base == program_->input());
    place.width = t.width;
    place.frames = ragged_[t.base];
    place.frames.offsets = offsets + first_offset_[t.base];
  }
}

size_t Batch::workspace_bytes(Walk& walk, char* arena) const {
  size_t bytes = 0;
  begin(walk, arena);
  for (const Step& step : program_->steps()) {
    walk.moved = step.moved_to < 0 ? nullptr : arena + at_[step.moved_to];
    bytes = std::max(bytes, step.op->workspace_bytes(walk));
    if (walk.moved != nullptr) walk.bind(program_->plan(), step.op->moves, walk.moved);
  }
  return bytes;
}

}  // namespace earmark::device
