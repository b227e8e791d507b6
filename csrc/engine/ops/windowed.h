// Frame ops whose output positions each see a window over the input's time and width: convolutions
// and pooling.
#pragma once

#include <algorithm>

#include "engine/op_args.h"

namespace earmark {

class Windowed : public Op {
 public:
  Windowed(const OpArgs& args, const OpDesc& desc, DType from, DType to) : Op(desc) {
    in_ = &args.in(Kind::kFrames, from);
    out = &args.out(Kind::kFrames, to);
    frames_in = {in_};
    args.check(!in_->overlaps(*out), "'", out->name,
               "' would overwrite what is still to be read of '", in_->name, "'");
    shape_ = args.conv_shape(*in_, *out);
  }

  int length_out(int length_in) const override {
    return shape_.size_out(shape_.time, length_in, "frames");
  }

  Range reads(Range range, int length_in) const override {
    const Axis& axis = shape_.time;
    int begin = range.begin * axis.stride - axis.padding;
    int end = (range.end - 1) * axis.stride + axis.reach() - axis.padding + 1;
    if (shape_.pad_mode == PadMode::kReflect) {
      const int first = begin;
      if (end > length_in) begin = std::min(begin, 2 * (length_in - 1) - (end - 1));
      if (first < 0) end = std::max(end, 1 - first);
    }
    return {std::max(begin, 0), std::min(end, length_in)};
  }

 protected:
  ConvShape shape_;
  const Tensor* in_;
};

}  // namespace earmark
