// The numerators of attentive pooling, as an op's arguments describe them.
#pragma once

#include "engine/op_args.h"

namespace earmark {

class SoftmaxFunction {
 public:
  enum class Kind { kExact, kPwl, kTable };

  // Reads `softmax` and its arrays. Numerators are integers from 1 to 2^24, or any positive float32
  // numbers.
  SoftmaxFunction(const OpArgs& args, bool integer);

  Kind kind = Kind::kExact;
  PiecewiseLinear pwl() const;
  LookupTable table() const;

 private:
  void read_pwl(const OpArgs& args, float low, float high);

  AlignedBuffer<float> breakpoints_, slopes_, intercepts_, bounds_;
  int pieces_ = 0;
  LineTable table_;
  float scale_ = 1.0f, offset_ = 0.0f;
};

}  // namespace earmark
