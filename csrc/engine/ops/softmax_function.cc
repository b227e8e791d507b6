#include "engine/ops/softmax_function.h"

#include "core/softmax.h"

namespace earmark {

SoftmaxFunction::SoftmaxFunction(const OpArgs& args, DType dtype) {
  const bool integer = dtype == DType::kS8;
  const float low = integer ? 1.0f : kMinMagnitude;
  const float high = integer ? kNumeratorOne : kMaxMagnitude;
  const std::string word = args.word("softmax", "exact");
  if (word == "pwl") {
    kind = Kind::kPwl;
    read_pwl(args, low, high);
  } else if (word == "table") {
    kind = Kind::kTable;
    read_table(args, low, high);
    if (!integer) {
      const AlignedBuffer<float> range = args.floats("range", 2);
      args.check(range[0] < range[1], "range ", range[0], ", ", range[1], " is empty");
      scale_ = static_cast<float>(size_ - 1) / (range[1] - range[0]);
      offset_ = -range[0] * scale_;
    }
  } else {
    args.check(word == "exact", "unknown softmax '", word, "'");
  }
}

void SoftmaxFunction::read_pwl(const OpArgs& args, float low, float high) {
  size_ = args.array_size("slopes");
  args.check(size_ >= 1 && size_ <= 256, size_, " pieces, expected 1 to 256");
  slopes_ = args.floats("slopes", size_);
  intercepts_ = args.floats("intercepts", size_);
  breakpoints_ = args.floats("breakpoints", size_ - 1);
  bounds_ = args.floats("bounds", 2, true);
  args.check(low <= bounds_[0] && bounds_[0] <= bounds_[1] && bounds_[1] <= high, "bounds ",
             bounds_[0], ", ", bounds_[1], " are not within ", low, " to ", high);
  for (int i = 1; i < size_ - 1; ++i) {
    args.check(breakpoints_[i - 1] < breakpoints_[i], "breakpoint ", breakpoints_[i],
               " does not follow ", breakpoints_[i - 1]);
  }
}

void SoftmaxFunction::read_table(const OpArgs& args, float low, float high) {
  size_ = args.array_size("table");
  args.check(size_ >= 2 && size_ <= 1 << 16, size_, " table entries, expected 2 to 65536");
  values_ = args.floats("table", size_, true);
  differences_ = AlignedBuffer<float>(size_);
  for (int i = 0; i < size_; ++i) {
    args.check(low <= values_[i] && values_[i] <= high, "table entry ", values_[i],
               " is not within ", low, " to ", high);
    differences_[i] = i + 1 < size_ ? values_[i + 1] - values_[i] : 0.0f;
  }
}

PiecewiseLinear SoftmaxFunction::pwl() const {
  return {breakpoints_.data(), slopes_.data(), intercepts_.data(),
          size_ - 1,           bounds_[0],     bounds_[1]};
}

LookupTable SoftmaxFunction::table() const {
  return {values_.data(), differences_.data(), size_, scale_, offset_};
}

}  // namespace earmark
