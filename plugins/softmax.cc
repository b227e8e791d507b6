#include "softmax.h"

namespace earmark::trt {

const std::vector<std::string>& Softmax::fields() {
  static const std::vector<std::string> names = {"axis",       "softmax", "breakpoints", "slopes",
                                                 "intercepts", "bounds",  "table",       "range"};
  return names;
}

Softmax::Softmax(const Fields& fields)
    : axis_(fields.integer("axis", -kMaxDims, kMaxDims - 1, -1)), softmax_(fields) {}

void Softmax::shape(const DimsExprs* in, DimsExprs* out, ExprBuilder&) const { out[0] = in[0]; }

void Softmax::check(const TensorDesc* in, const TensorDesc* out) const {
  const Dims& dims = in[0].dims;
  EARMARK_CHECK(-dims.count <= axis_ && axis_ < dims.count, "there is no axis ", axis_, " of ",
                dims.count);
  EARMARK_CHECK(out[0].dims.count == dims.count && out[0].type == in[0].type,
                "the output is not like the input");
}

Softmax::Uploaded Softmax::upload(cuda::Constants& constants) const {
  return {softmax_.upload(constants)};
}

size_t Softmax::workspace(const Dims&) const { return 0; }

cudaError_t Softmax::enqueue(const Uploaded& uploaded, const TensorDesc* desc,
                             const void* const* in, void* const* out, void*,
                             const cuda::Launch& launch) const {
  const Dims& dims = desc[0].dims;
  const int axis = axis_ < 0 ? axis_ + dims.count : axis_;
  cuda::Softmax call;
  call.function = uploaded.function;
  call.type = desc[0].type == DataType::kHalf       ? cuda::FloatType::kF16
              : desc[0].type == DataType::kBFloat16 ? cuda::FloatType::kBF16
                                                    : cuda::FloatType::kF32;
  call.x = in[0];
  call.out = out[0];
  call.outer = call.n = call.inner = 1;
  for (int i = 0; i < dims.count; ++i) {
    (i < axis ? call.outer : i == axis ? call.n : call.inner) *= dims.d[i];
  }
  return cuda::softmax(call, launch);
}

}  // namespace earmark::trt
