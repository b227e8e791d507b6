// Which softmax, from plugin fields: `softmax` "exact", "pwl" or "table", and its arrays as a plan
// has them.
#pragma once

#include "cuda/constants.h"
#include "cuda/softmax_function.h"
#include "fields.h"

namespace earmark::trt {

class SoftmaxFields {
 public:
  explicit SoftmaxFields(const Fields& fields);

  bool is_exact() const { return kind_ == cuda::SoftmaxFunction::Kind::kExact; }
  cuda::SoftmaxFunction upload(cuda::Constants& constants) const;

 private:
  cuda::SoftmaxFunction::Kind kind_ = cuda::SoftmaxFunction::Kind::kExact;
  std::vector<float> breakpoints_, slopes_, intercepts_, bounds_, table_, range_;
};

}  // namespace earmark::trt
