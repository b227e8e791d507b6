// The numerators of attentive pooling, as an op's arguments describe them.
#pragma once

#include "engine/op_args.h"

namespace earmark {

class SoftmaxFunction {
 public:
  enum class Kind { kExact, kPwl, kTable };

  // Reads `softmax` and its arrays. int8: numerators are integers from 1 to 2^24; float32: any
  // positive numbers.
  SoftmaxFunction(const OpArgs& args, DType dtype);

  Kind kind = Kind::kExact;
  PiecewiseLinear pwl() const;
  LookupTable table() const;

 private:
  void read_pwl(const OpArgs& args, float low, float high);
  void read_table(const OpArgs& args, float low, float high);

  AlignedBuffer<float> breakpoints_, slopes_, intercepts_, bounds_;
  AlignedBuffer<float> values_, differences_;
  int size_ = 0;  // pieces or entries
  float scale_ = 1.0f, offset_ = 0.0f;
};

}  // namespace earmark
