#include "engine/ops/softmax_function.h"

#include "core/softmax.h"

namespace earmark {

SoftmaxFunction::SoftmaxFunction(const OpArgs& args, bool integer) {
  const float low = integer ? 1.0f : kMinMagnitude;
  const float high = integer ? kNumeratorOne : kMaxMagnitude;
  const std::string word = args.word("softmax", "exact");
  if (word == "pwl") {
    kind = Kind::kPwl;
    read_pwl(args, low, high);
  } else if (word == "table") {
    kind = Kind::kTable;
    table_ = args.line_table(true);
    for (int i = 0; i < table_.entries; ++i) {
      args.check(low <= table_.values[i] && table_.values[i] <= high, "table entry ",
                 table_.values[i], " is not within ", low, " to ", high);
    }
    if (!integer) {
      const AlignedBuffer<float> range = args.floats("range", 2);
      args.check(range[0] < range[1], "range ", range[0], ", ", range[1], " is empty");
      scale_ = static_cast<float>(table_.entries - 1) / (range[1] - range[0]);
      offset_ = -range[0] * scale_;
    }
  } else {
    args.check(word == "exact", "unknown softmax '", word, "'");
  }
}

void SoftmaxFunction::read_pwl(const OpArgs& args, float low, float high) {
  pieces_ = args.array_size("slopes");
  args.check(pieces_ >= 1 && pieces_ <= 256, pieces_, " pieces, expected 1 to 256");
  slopes_ = args.floats("slopes", pieces_);
  intercepts_ = args.floats("intercepts", pieces_);
  breakpoints_ = args.floats("breakpoints", pieces_ - 1);
  bounds_ = args.floats("bounds", 2, true);
  args.check(low <= bounds_[0] && bounds_[0] <= bounds_[1] && bounds_[1] <= high, "bounds ",
             bounds_[0], ", ", bounds_[1], " are not within ", low, " to ", high);
  for (int i = 1; i < pieces_ - 1; ++i) {
    args.check(breakpoints_[i - 1] < breakpoints_[i], "breakpoint ", breakpoints_[i],
               " does not follow ", breakpoints_[i - 1]);
  }
}

PiecewiseLinear SoftmaxFunction::pwl() const {
  return {breakpoints_.data(), slopes_.data(), intercepts_.data(),
          pieces_ - 1,         bounds_[0],     bounds_[1]};
}

LookupTable SoftmaxFunction::table() const { return table_.view(scale_, offset_); }

}  // namespace earmark
