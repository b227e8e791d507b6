#include "engine/schedule.h"

#include <functional>

#include "core/check.h"

namespace earmark {
namespace {

// 20 s of speech: the context of a Res2 chain (28 frames a side at dilation 4) is then 3 % of a
// chunk.
constexpr int kChunkFrames = 2048;
constexpr size_t kAlign = 64;

bool is_frame_op(const Op& op) { return op.out->kind == Kind::kFrames; }
bool is_reduction(const Op& op) { return !is_frame_op(op) && !op.frames_in.empty() && !op.whole; }

}  // namespace

Scheduler::Scheduler(const Plan& plan, const std::vector<std::unique_ptr<Op>>& ops, int input,
                     int output)
    : plan_(plan), ops_(ops), input_(input) {
  assign_stages();
  EARMARK_CHECK(first_[input] >= 0, "no op reads the input '", plan.tensor(input).name, "'");
  EARMARK_CHECK(first_[output] >= 0, "no op writes the output '", plan.tensor(output).name, "'");
  last_[output] = static_cast<int>(ops.size()) - 1;
  check_overlays();
}

// Stages never fall along the list, so running them in turn keeps the list's order wherever memory
// is shared.
void Scheduler::assign_stages() {
  outlives_.assign(plan_.tensors().size(), false);
  // Which tensors are kept follows from the stages, and the stages from which tensors are kept.
  for (std::vector<bool> before; before != outlives_;) {
    before = outlives_;
    assign_stages_once();
  }
}

// Whether an op before `op` in that stage reads channels that `op` writes.
bool Scheduler::overwrites_what_is_read(int op, int stage) const {
  for (int i = op; i-- > 0 && stage_[i] == stage;) {
    for (const Tensor* t : ops_[i]->frames_in) {
      if (t->overlaps(*ops_[op]->out)) return true;
    }
  }
  return false;
}

void Scheduler::assign_stages_once() {
  const size_t n = plan_.tensors().size();
  std::vector<int> available(n, -1);  // by base: the stage from which the tensor can be read
  std::vector<int> written(n, -1);    // by base: the last stage that writes it
  available[input_] = written[input_] = 0;
  std::vector<std::vector<bool>> filled(n);  // by base: the channels that hold something
  filled[input_].assign(plan_.tensor(input_).channels, true);
  stage_.clear();
  first_.assign(n, -1);
  last_.assign(n, -1);
  int stage = 0;
  for (size_t i = 0; i < ops_.size(); ++i) {
    const Op& op = *ops_[i];
    const auto touch = [&](int base) {
      if (first_[base] < 0) first_[base] = static_cast<int>(i);
      last_[base] = static_cast<int>(i);
    };
    for (const auto* list : {&op.frames_in, &op.vectors_in}) {
      for (const Tensor* t : *list) {
        const std::vector<bool>& channels = filled[t->base];
        const auto begin = channels.begin() + (channels.empty() ? 0 : t->offset);
        EARMARK_CHECK(!channels.empty() && std::all_of(begin, begin + t->channels, std::identity()),
                      "op '", op.name, "' reads '", t->name, "', which no op before it wrote");
        const bool complete = op.whole && t->kind == Kind::kFrames;
        stage = std::max(stage, complete ? written[t->base] + 1 : available[t->base]);
        touch(t->base);
      }
    }
    if (is_frame_op(op) && outlives_[op.out->base] &&
        overwrites_what_is_read(static_cast<int>(i), stage)) {
      ++stage;
    }
    for (const Tensor* t : op.frames_in) {
      if (op.whole || written[t->base] < stage) outlives_[t->base] = true;
    }
    stage_.push_back(stage);
    const int base = op.out->base;
    EARMARK_CHECK(base != input_, "op '", op.name, "' writes the input");
    touch(base);
    filled[base].resize(plan_.tensor(base).channels);
    std::fill_n(filled[base].begin() + op.out->offset, op.out->channels, true);
    if (is_frame_op(op) && written[base] >= 0 && written[base] < stage) outlives_[base] = true;
    written[base] = stage;
    const int ready = stage + (is_reduction(op) ? 1 : 0);
    if (available[base] < 0 || op.out->kind == Kind::kVector) available[base] = ready;
  }
  outlives_[input_] = true;
  for (const Tensor& t : plan_.tensors()) {
    if (t.overlay >= 0) outlives_[t.id] = outlives_[t.overlay] = true;
  }
}

void Scheduler::check_overlays() const {
  for (size_t i = 0; i < ops_.size(); ++i) {
    const Tensor& out = *ops_[i]->out;
    if (out.overlay < 0) continue;
    const Op& op = *ops_[i];
    const Range range = op.reads({5, 7}, 1 << 20);
    EARMARK_CHECK(
        op.frames_in.size() == 1 && op.frames_in[0]->base == out.overlay && range.begin == 5 &&
            range.end == 7 && op.length_out(1 << 20) == 1 << 20 && out.overlay != input_,
        "op '", op.name, "' does not make '", out.name, "' frame by frame from '", out.over, "'");
    EARMARK_CHECK(
        last_[out.overlay] == static_cast<int>(i) && first_[out.id] == static_cast<int>(i), "'",
        out.over, "' is used after '", out.name, "' has taken its memory");
  }
}

std::vector<int> Scheduler::lengths(int length_in) const {
  std::vector<int> lengths(plan_.tensors().size(), -1);
  lengths[input_] = length_in;
  for (const auto& op : ops_) {
    if (op->frames_in.empty()) continue;
    const int length = lengths[op->frames_in[0]->base];
    for (const Tensor* t : op->frames_in) {
      EARMARK_CHECK(lengths[t->base] == length, "op '", op->name, "' reads tensors of ", length,
                    " and ", lengths[t->base], " frames");
    }
    const int counted = op->valid == nullptr ? length : lengths[op->valid->base];
    EARMARK_CHECK(counted >= 0, "op '", op->name, "' counts frames of '", op->valid->name,
                  "', which no op before it wrote");
    EARMARK_CHECK(counted <= length, "op '", op->name, "' counts ", counted, " of ", length,
                  " frames");
    const int length_out = op->length_out(counted);
    if (!is_frame_op(*op)) continue;
    int& out = lengths[op->out->base];
    EARMARK_CHECK(length_out <= kMaxFrames, "op '", op->name, "' makes ", length_out,
                  " frames, which are too many");
    EARMARK_CHECK(out < 0 || out == length_out, "op '", op->name, "' writes ", length_out,
                  " frames into a tensor of ", out);
    out = length_out;
  }
  for (const Tensor& t : plan_.tensors()) {
    const int64_t positions = static_cast<int64_t>(lengths[t.base]) * t.width;
    EARMARK_CHECK(positions <= kMaxFrames, "a recording of ", length_in, " frames is too long");
  }
  return lengths;
}

std::string Scheduler::why_not(int length_in) const {
  if (length_in < 1) return concat("a recording needs at least one frame, got ", length_in);
  if (length_in > kMaxFrames) return concat("a recording of ", length_in, " frames is too long");
  try {
    lengths(length_in);
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

Schedule Scheduler::make(int length_in, bool keep_all) const {
  const std::string reason = why_not(length_in);
  EARMARK_CHECK(reason.empty(), reason);
  const size_t n = plan_.tensors().size();
  Schedule schedule;
  schedule.length_in = length_in;
  schedule.lengths = lengths(length_in);
  const int chunks = keep_all ? 1 : (length_in + kChunkFrames - 1) / kChunkFrames;
  std::vector<bool> kept(n);
  for (size_t t = 0; t < n; ++t) kept[t] = keep_all || outlives_[t];

  std::vector<int> rows(n, 0);  // time positions of memory, by base
  std::vector<int> lag(n, 0);   // positions by which an overlay lies before its tensor
  for (size_t t = 0; t < n; ++t) {
    if (kept[t]) rows[t] = schedule.lengths[t];
    const Tensor& tensor = plan_.tensor(static_cast<int>(t));
    if (tensor.overlay >= 0)
      lag[tensor.overlay] = (schedule.lengths[tensor.overlay] + chunks - 1) / chunks;
  }

  std::vector<int> done(ops_.size(), 0);  // frames of a kept output that are there already
  std::vector<Range> ranges(ops_.size());
  for (size_t begin = 0; begin < ops_.size();) {
    size_t end = begin;
    while (end < ops_.size() && stage_[end] == stage_[begin]) ++end;
    bool has_frames = false;
    for (size_t i = begin; i < end; ++i) {
      const Op& op = *ops_[i];
      if (is_frame_op(op) || is_reduction(op)) {
        has_frames = true;
        if (is_reduction(op))
          schedule.steps.push_back({Step::Type::kBegin, static_cast<int>(i), {}});
      } else {
        schedule.steps.push_back({Step::Type::kRun, static_cast<int>(i), {}});
      }
    }
    for (int c = 0; has_frames && c < chunks; ++c) {
      const auto nominal = [&](int base) {
        const int64_t length = schedule.lengths[base];
        return Range{static_cast<int>(length * c / chunks),
                     static_cast<int>(length * (c + 1) / chunks)};
      };
      // Backwards: what each tensor must hold for the ops behind it.
      std::vector<Range> need(n);
      for (size_t i = end; i-- > begin;) {
        const Op& op = *ops_[i];
        ranges[i] = {};
        if (is_reduction(op)) {
          ranges[i] = nominal(op.frames_in[0]->base);
        } else if (is_frame_op(op)) {
          ranges[i] = need[op.out->base];
          if (kept[op.out->base]) {
            ranges[i].cover(nominal(op.out->base));
            ranges[i].begin = std::max(ranges[i].begin, done[i]);
            done[i] = std::max(done[i], ranges[i].end);
          }
        }
        if (ranges[i].empty()) continue;
        for (const Tensor* t : op.frames_in) {
          need[t->base].cover(op.reads(ranges[i], schedule.lengths[t->base]));
        }
      }
      for (size_t t = 0; t < n; ++t) {
        if (kept[t] || need[t].empty()) continue;
        schedule.steps.push_back({Step::Type::kPlace, static_cast<int>(t), need[t]});
        rows[t] = std::max(rows[t], need[t].size());
      }
      for (size_t i = begin; i < end; ++i) {
        if (ranges[i].empty()) continue;
        // An overlay moves over its tensor at most `lag` positions at a time, always behind what is
        // still to be read.
        const int overlay = ops_[i]->out->overlay;
        const int step = overlay >= 0 ? std::max(lag[overlay], 1) : ranges[i].size();
        for (int t = ranges[i].begin; t < ranges[i].end; t += step) {
          schedule.steps.push_back(
              {Step::Type::kRun, static_cast<int>(i), {t, std::min(t + step, ranges[i].end)}});
        }
      }
    }
    for (size_t i = begin; i < end; ++i) {
      if (is_reduction(*ops_[i]))
        schedule.steps.push_back({Step::Type::kEnd, static_cast<int>(i), {}});
    }
    begin = end;
  }
  lay_out(schedule, rows, lag, kept);
  return schedule;
}

size_t Scheduler::row_bytes(const Tensor& base) const {
  return size_of(base.dtype) * base.channels * base.width;
}

size_t place_blocks(std::vector<Block>& blocks) {
  std::vector<Block*> order;
  for (Block& block : blocks) order.push_back(&block);
  std::stable_sort(order.begin(), order.end(),
                   [](const Block* a, const Block* b) { return a->bytes > b->bytes; });
  const auto below = [](const Block* a, const Block* b) { return a->offset < b->offset; };
  std::vector<const Block*> placed;  // by offset
  size_t total = 0;
  for (Block* block : order) {
    size_t offset = 0;
    for (const Block* other : placed) {
      const bool together = block->first <= other->last && other->first <= block->last;
      if (!together || other->offset + other->bytes <= offset) continue;
      if (other->offset >= offset + block->bytes) break;
      offset = other->offset + other->bytes;
    }
    block->offset = offset;
    placed.insert(std::upper_bound(placed.begin(), placed.end(), block, below), block);
    total = std::max(total, offset + block->bytes);
  }
  return total;
}

// Over the spans of ops in which each tensor's memory is in use.
void Scheduler::lay_out(Schedule& schedule, const std::vector<int>& rows,
                        const std::vector<int>& lag, const std::vector<bool>& kept) const {
  const size_t n = plan_.tensors().size();
  const auto stage_begin = [&](int op) {
    while (op > 0 && stage_[op - 1] == stage_[op]) --op;
    return op;
  };
  const auto stage_end = [&](int op) {
    while (op + 1 < static_cast<int>(ops_.size()) && stage_[op + 1] == stage_[op]) ++op;
    return op;
  };
  std::vector<int> last = last_;
  for (const Tensor& t : plan_.tensors()) {
    if (t.overlay >= 0 && first_[t.id] >= 0)
      last[t.overlay] = std::max(last[t.overlay], last[t.id]);
  }
  std::vector<Block> blocks;
  std::vector<int> tensors;  // of the blocks
  for (const Tensor& t : plan_.tensors()) {
    const bool on_loan = t.id == input_ && t.dtype == DType::kF32;  // the caller's own memory
    if (t.base != t.id || t.overlay >= 0 || first_[t.id] < 0 || on_loan) continue;
    // Vectors are padded: a kernel reads them by whole panels.
    const size_t size = t.kind == Kind::kVector ? size_of(t.dtype) * (t.channels + kMaxPanel)
                                                : row_bytes(t) * (rows[t.id] + lag[t.id]);
    const bool spans = kept[t.id] || t.kind == Kind::kVector;
    tensors.push_back(t.id);
    blocks.push_back({(size + kReadSlack + kAlign - 1) / kAlign * kAlign,
                      t.id == input_ ? 0 : (spans ? stage_begin(first_[t.id]) : first_[t.id]),
                      spans ? stage_end(last[t.id]) : last[t.id]});
  }
  schedule.arena_bytes = place_blocks(blocks);
  schedule.offsets.assign(n, 0);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const int t = tensors[i];
    schedule.offsets[t] = blocks[i].offset + lag[t] * row_bytes(plan_.tensor(t));
  }
  for (const Tensor& t : plan_.tensors()) {
    if (t.overlay < 0) continue;
    schedule.offsets[t.id] = schedule.offsets[t.overlay] - lag[t.overlay] * row_bytes(t);
  }
}

}  // namespace earmark
