// Reads the arguments of an op from its description, each with its check.
#pragma once

#include "core/check.h"
#include "core/conv_shape.h"
#include "core/variance.h"
#include "engine/op.h"

namespace earmark {

// Per-channel arrays behind a multiplication (docs/arithmetic.md, conv_s8); gain and shift are
// empty where no affine follows.
struct Epilogue {
  AlignedBuffer<float> multiplier, offset, gain, shift;
};

// A function in equal steps with lines between: LookupTable with its memory. No entries: none.
struct LineTable {
  AlignedBuffer<float> values, differences;
  int entries = 0;

  LookupTable view(float scale = 1.0f, float offset = 0.0f) const {
    return {values.data(), differences.data(), entries, scale, offset};
  }
};

class OpArgs {
 public:
  OpArgs(const Plan& plan, const OpDesc& desc) : plan_(plan), desc_(desc) {}

  template <class... Parts>
  void check(bool condition, const Parts&... parts) const {
    EARMARK_CHECK(condition, "op '", desc_.name, "' (", desc_.op, "): ", parts...);
  }

  const Tensor& tensor(const char* role, const std::string& name, Kind kind, DType dtype) const;
  const Tensor& tensor(const char* role, const std::string& name, Kind kind, DType dtype,
                       int channels) const;
  // `in` and `out` are always there.
  const Tensor& in(Kind kind, DType dtype) const { return tensor("in", desc_.in, kind, dtype); }
  const Tensor& out(Kind kind, DType dtype) const { return tensor("out", desc_.out, kind, dtype); }
  const Tensor& find(const char* role, const std::string& name) const {
    return plan_.find(desc_, role, name);
  }

  bool has(const char* array) const { return desc_.arrays.count(array) != 0; }
  bool has(const char* array, DType dtype) const {
    return has(array) && desc_.arrays.at(array).dtype == dtype;
  }
  // A float32 array of one value for each channel, or of one value for all; every value within the
  // stored range. Padded to kMaxPanel.
  AlignedBuffer<float> floats(const char* role, int size, bool positive = false) const;
  // The rows of `epilogue`: multiplier (integer ops only), offset, and perhaps gain and shift.
  Epilogue epilogue(int channels, DType dtype) const;
  const float* weights_f32(const std::vector<int64_t>& shape) const;
  // int8 weights, none of them -128.
  const int8_t* weights_s8(const std::vector<int64_t>& shape) const;
  // Weights of 8 or 16 bits, none beyond kMaxWeightS16, as the planes of bytes that kernels
  // multiply: digits to the base kWeightBase, high and low, from -127 to 127; or one plane.
  std::vector<std::vector<int8_t>> weight_planes(const std::vector<int64_t>& shape) const;
  std::vector<int8_t> table_s8() const;
  std::vector<float> table_f32() const;
  // `table`, of any number of entries from 2 to 65536.
  LineTable line_table(bool positive = false) const;
  // The vector of a quantization found at run time, by `range_f32`; null where none is named.
  const Tensor* found_quantization(const char* role, const std::string& name) const;
  // The tensor whose time positions alone count; null where all do.
  const Tensor* valid() const;
  // Zero point of each channel of `in`: the array `input_zero`, or the tensor's own.
  std::vector<int8_t> input_zero(const Tensor& in) const;
  // The same of an input of 8 or 16 bits, by plane of bytes, high and low; each as q, not q + 128.
  std::vector<std::vector<int8_t>> input_zero_planes(const Tensor& in) const;
  int array_size(const char* role) const;

  bool flag(const char* name) const;
  std::string word(const char* name, const std::string& fallback) const;
  double min_variance() const;
  Variance variance() const;
  ConvShape conv_shape(const Tensor& in, const Tensor& out) const;

 private:
  const ArrayView& array(const char* role, DType dtype) const;
  const ArrayView& array(const char* role, DType dtype, const std::vector<int64_t>& shape) const;
  AlignedBuffer<float> row(const char* role, const float* data, int stored, int size,
                           bool positive) const;
  int integer(const char* name, size_t axis, int fallback, int low, int high) const;
  double variance_number(const char* name) const;

  const Plan& plan_;
  const OpDesc& desc_;
};

}  // namespace earmark
