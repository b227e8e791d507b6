#include "engine/op_args.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

namespace earmark {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

bool storable(float v) {
  const float magnitude = std::fabs(v);
  return v == 0.0f || (magnitude >= kMinMagnitude && magnitude <= kMaxMagnitude);
}

}  // namespace

const Tensor& OpArgs::tensor(const char* role, const std::string& name, Kind kind,
                             DType dtype) const {
  const Tensor& t = plan_.find(desc_, role, name);
  check(t.kind == kind, role, " '", name, "' must be ",
        kind == Kind::kFrames ? "frames" : "a vector");
  check(t.dtype == dtype, role, " '", name, "' must be ", name_of(dtype));
  return t;
}

const Tensor& OpArgs::tensor(const char* role, const std::string& name, Kind kind, DType dtype,
                             int channels) const {
  const Tensor& t = tensor(role, name, kind, dtype);
  check(t.channels == channels, role, " '", name, "' has ", t.channels, " channels, expected ",
        channels);
  return t;
}

const ArrayView& OpArgs::array(const char* role, DType dtype) const {
  const auto found = desc_.arrays.find(role);
  check(found != desc_.arrays.end(), "array '", role, "' is missing");
  check(found->second.dtype == dtype, "array '", role, "' must be ",
        dtype == DType::kS8    ? "int8"
        : dtype == DType::kS16 ? "int16"
                               : "float32");
  return found->second;
}

const ArrayView& OpArgs::array(const char* role, DType dtype,
                               const std::vector<int64_t>& shape) const {
  const ArrayView& a = array(role, dtype);
  check(a.shape == shape, "array '", role, "' has shape ", shape_text(a.shape), ", expected ",
        shape_text(shape));
  return a;
}

int OpArgs::array_size(const char* role) const {
  const auto found = desc_.arrays.find(role);
  check(found != desc_.arrays.end(), "array '", role, "' is missing");
  check(found->second.shape.size() == 1 && found->second.shape[0] <= 1 << 20, "array '", role,
        "' must have one dimension, not ", shape_text(found->second.shape));
  return static_cast<int>(found->second.shape[0]);
}

AlignedBuffer<float> OpArgs::row(const char* role, const float* data, int stored, int size,
                                 bool positive) const {
  AlignedBuffer<float> copy((size + kMaxPanel - 1) / kMaxPanel * kMaxPanel);
  for (int i = 0; i < size; ++i) {
    const float value = data[stored == 1 ? 0 : i];
    check(storable(value) && (!positive || value > 0.0f), "array '", role, "'[", i, "] is ", value);
    copy[i] = value;
  }
  return copy;
}

AlignedBuffer<float> OpArgs::floats(const char* role, int size, bool positive) const {
  const ArrayView& a = array(role, DType::kF32);
  check(a.shape.size() == 1 && (a.shape[0] == size || a.shape[0] == 1), "array '", role,
        "' has shape ", shape_text(a.shape), ", expected (", size, ") or (1)");
  return row(role, static_cast<const float*>(a.data), static_cast<int>(a.shape[0]), size, positive);
}

Epilogue OpArgs::epilogue(int channels, DType dtype) const {
  const ArrayView& a = array("epilogue", DType::kF32);
  const int64_t rows = dtype == DType::kF32 ? 1 : 2;
  check(a.shape.size() == 2 && (a.shape[0] == rows || a.shape[0] == rows + 2) &&
            a.shape[1] == channels,
        "array 'epilogue' has shape ", shape_text(a.shape), ", expected (", rows, " or ", rows + 2,
        ", ", channels, ")");
  const auto* data = static_cast<const float*>(a.data);
  const auto next = [&] {
    const float* values = data;
    data += channels;
    return row("epilogue", values, channels, channels, false);
  };
  Epilogue e;
  if (dtype != DType::kF32) e.multiplier = next();
  e.offset = next();
  if (a.shape[0] == rows + 2) {
    e.gain = next();
    e.shift = next();
  }
  return e;
}

const float* OpArgs::weights_f32(const std::vector<int64_t>& shape) const {
  const ArrayView& a = array("weight", DType::kF32, shape);
  size_t size = 1;
  for (const int64_t n : shape) size *= n;
  const auto* data = static_cast<const float*>(a.data);
  for (size_t i = 0; i < size; ++i) {
    check(std::fabs(data[i]) <= kMaxMagnitude, "array 'weight'[", i, "] is ", data[i]);
  }
  return data;
}

const int8_t* OpArgs::weights_s8(const std::vector<int64_t>& shape) const {
  const ArrayView& a = array("weight", DType::kS8, shape);
  size_t size = 1;
  for (const int64_t n : shape) size *= n;
  const auto* data = static_cast<const int8_t*>(a.data);
  const auto* found =
      size == 0 ? nullptr : static_cast<const int8_t*>(std::memchr(data, 0x80, size));
  if (found != nullptr) check(false, "array 'weight'[", found - data, "] is -128");
  return data;
}

std::vector<std::vector<int8_t>> OpArgs::weight_planes(const std::vector<int64_t>& shape) const {
  size_t size = 1;
  for (const int64_t n : shape) size *= n;
  if (!has("weight", DType::kS16)) {
    const int8_t* data = weights_s8(shape);
    return {{data, data + size}};
  }
  const auto* data = static_cast<const int16_t*>(array("weight", DType::kS16, shape).data);
  std::vector<std::vector<int8_t>> planes(2, std::vector<int8_t>(size));
  for (size_t i = 0; i < size; ++i) {
    check(std::abs(data[i]) <= kMaxWeightS16, "array 'weight'[", i, "] is ", data[i],
          ", beyond the largest, ", kMaxWeightS16);
    const int high = (data[i] + kMaxWeightS16) / kWeightBase - 127;
    planes[0][i] = static_cast<int8_t>(high);
    planes[1][i] = static_cast<int8_t>(data[i] - kWeightBase * high);
  }
  return planes;
}

std::vector<int8_t> OpArgs::table_s8() const {
  const int size = array_size("table");
  check(size >= 2 && size % 2 == 0, "a table needs an even number of entries, not ", size);
  const auto* data = static_cast<const int8_t*>(array("table", DType::kS8).data);
  return {data, data + size};
}

std::vector<float> OpArgs::table_f32() const {
  const int size = array_size("table");
  check(size >= 2 && size % 2 == 0, "a table needs an even number of entries, not ", size);
  const AlignedBuffer<float> data = floats("table", size);
  return {data.data(), data.data() + size};
}

LineTable OpArgs::line_table(bool positive) const {
  LineTable table;
  table.entries = array_size("table");
  check(table.entries >= 2 && table.entries <= 1 << 16, table.entries,
        " table entries, expected 2 to 65536");
  table.values = floats("table", table.entries, positive);
  table.differences = AlignedBuffer<float>(table.entries);
  for (int i = 0; i + 1 < table.entries; ++i) {
    table.differences[i] = table.values[i + 1] - table.values[i];
  }
  return table;
}

const Tensor* OpArgs::found_quantization(const char* role, const std::string& name) const {
  return name.empty() ? nullptr : &tensor(role, name, Kind::kVector, DType::kF32, kFoundSize);
}

const Tensor* OpArgs::valid() const {
  if (desc_.valid.empty()) return nullptr;
  const Tensor& t = find("valid", desc_.valid);
  check(t.kind == Kind::kFrames, "valid '", t.name, "' must be frames");
  return &t;
}

std::vector<int8_t> OpArgs::input_zero(const Tensor& in) const {
  if (!has("input_zero")) {
    return std::vector<int8_t>(in.channels, static_cast<int8_t>(in.zero_point));
  }
  const auto* data =
      static_cast<const int8_t*>(array("input_zero", DType::kS8, {in.channels}).data);
  return {data, data + in.channels};
}

std::vector<std::vector<int8_t>> OpArgs::input_zero_planes(const Tensor& in) const {
  if (in.dtype != DType::kS16) return {input_zero(in)};
  check(!has("input_zero"), "'input_zero' is of s8 inputs");
  const auto plane = [&](int byte) {
    return std::vector<int8_t>(in.channels, static_cast<int8_t>(byte - 128));
  };
  return {plane(in.zero_u16() >> 8), plane(in.zero_u16() & 255)};
}

int OpArgs::integer(const char* name, size_t axis, int fallback, int low, int high) const {
  const auto found = desc_.integers.find(name);
  if (found == desc_.integers.end()) return fallback;
  check(axis < found->second.size(), "'", name, "' needs ", axis + 1, " values");
  const int value = found->second[axis];
  check(value >= low && value <= high, "'", name, "' is ", value, ", expected ", low, " to ", high);
  return value;
}

bool OpArgs::flag(const char* name) const { return integer(name, 0, 0, 0, 1) != 0; }

std::string OpArgs::word(const char* name, const std::string& fallback) const {
  const auto found = desc_.words.find(name);
  return found == desc_.words.end() ? fallback : found->second;
}

double OpArgs::variance_number(const char* name) const {
  const double value = desc_.numbers.at(name);
  // Written so that NaN is refused too.
  check(value >= 0.0 && value <= 1e30, "'", name, "' is ", value);
  return value;
}

double OpArgs::min_variance() const {
  check(desc_.numbers.count("min_variance") != 0, "'min_variance' is missing");
  return variance_number("min_variance");
}

Variance OpArgs::variance() const {
  Variance v;
  v.unbiased = flag("unbiased");
  v.least = min_variance();
  if (desc_.numbers.count("added_variance") != 0) v.added = variance_number("added_variance");
  return v;
}

ConvShape OpArgs::conv_shape(const Tensor& in, const Tensor& out) const {
  constexpr int kLimit = 1 << 12;
  ConvShape shape;
  Axis* axes[] = {&shape.time, &shape.width};
  for (size_t i = 0; i < 2; ++i) {
    axes[i]->kernel = integer("kernel", i, 1, 1, kLimit);
    axes[i]->stride = integer("stride", i, 1, 1, kLimit);
    axes[i]->dilation = integer("dilation", i, 1, 1, kLimit);
    axes[i]->padding = integer("padding", i, 0, 0, axes[i]->reach());
  }
  const std::string mode = word("pad_mode", "zero");
  check(mode == "zero" || mode == "reflect", "unknown pad_mode '", mode, "'");
  shape.pad_mode = mode == "reflect" ? PadMode::kReflect : PadMode::kZero;
  shape.time.pad_to = integer("pad_to", 0, 0, 1, kLimit);
  check(shape.time.pad_to == 0 || mode == "zero", "'pad_to' needs zero padding");
  shape.c_in = in.channels;
  shape.c_out = out.channels;
  check(shape.size_out(shape.width, in.width, "positions") == out.width, "output width is ",
        out.width, ", expected ", shape.size_out(shape.width, in.width, "positions"));
  return shape;
}

}  // namespace earmark
