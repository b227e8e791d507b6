#include "conv_s8.h"

#include <algorithm>

namespace earmark::trt {
namespace {

// Blocks share a tile only where there are fewer tiles than multiprocessors; no device has more.
constexpr int kMostMultiprocessors = 256;
constexpr size_t kShared = size_t{kMostMultiprocessors} * (64 * 64 + 1) * sizeof(int) + 256;
size_t bias_bytes(int batch, int channels) {
  return (sizeof(float) * batch * cuda::padded_channels(channels) + 255) / 256 * 256;
}

constexpr int kMostKernel = 64, kMostReach = 1 << 12;

}  // namespace

const std::vector<std::string>& ConvS8::fields() {
  static const std::vector<std::string> names = {
      "channels",   "kernel",   "dilation", "padding", "reflect", "relu", "weight",
      "input_zero", "epilogue", "zero",     "table",   "bias",    "parts"};
  return names;
}

ConvS8::ConvS8(const Fields& fields) {
  shape_.c_out = fields.integer("channels", 1, kMostChannels);
  shape_.time.kernel = fields.integer("kernel", 1, kMostKernel, 1);
  shape_.time.dilation = fields.integer("dilation", 1, kMostReach, 1);
  shape_.time.padding = fields.integer("padding", 0, kMostReach, 0);
  shape_.pad_mode = fields.integer("reflect", 0, 1, 0) != 0 ? PadMode::kReflect : PadMode::kZero;
  EARMARK_CHECK(2 * shape_.time.padding == shape_.time.reach(), "a padding of ",
                shape_.time.padding, " does not keep the length of a kernel of ",
                shape_.time.kernel, ", dilation ", shape_.time.dilation);
  const std::vector<int8_t> weight = fields.bytes("weight");
  const int64_t each = int64_t{shape_.c_out} * shape_.time.kernel;
  const auto size = static_cast<int64_t>(weight.size());
  EARMARK_CHECK(size > 0 && size % each == 0 && size / each <= kMostChannels, "plugin field ",
                "'weight' has ", size, " values for ", shape_.c_out, " x ", shape_.time.kernel);
  shape_.c_in = static_cast<int>(size / each);
  parts_ = fields.has("parts") ? fields.integers("parts", -1) : std::vector<int>{shape_.c_in};
  int64_t channels = 0;
  for (const int part : parts_) channels += part > 0 ? part : kMostChannels;
  EARMARK_CHECK(!parts_.empty() && channels == shape_.c_in, "plugin field 'parts' holds ",
                parts_.size(), " parts of ", channels, " channels, expected ", shape_.c_in);
  weights_ = Weights(shape_, weight.data(), fields.bytes("input_zero", shape_.c_in));
  epilogue_ = epilogue_of(factors(fields, "epilogue", -1), shape_.c_out, 1, 0);
  epilogue_.relu = fields.integer("relu", 0, 1, 0) != 0;
  epilogue_.out_zero = fields.integer("zero", -128, 127);
  if (fields.has("table")) {
    table_ = fields.bytes("table");
    EARMARK_CHECK(table_.size() >= 2 && table_.size() % 2 == 0, "plugin field 'table' has ",
                  table_.size(), " values");
  }
  has_bias_ = fields.integer("bias", 0, 1, 0) != 0;
}

void ConvS8::shape(const DimsExprs* in, DimsExprs* out, ExprBuilder& builder) const {
  out[0] = in[0];
  out[0].d[2] = builder.constant(shape_.c_out);
}

void ConvS8::check(const TensorDesc* in, const TensorDesc* out) const {
  const Shape shape = Shape::frames(in[0].dims, parts_[0]);
  for (int i = 1; i < parts(); ++i) {
    const Shape same = Shape::frames(in[i].dims, parts_[i]);
    EARMARK_CHECK(same.batch == shape.batch && same.time == shape.time,
                  "inputs of different shapes");
  }
  shape_.size_out(shape_.time, shape.time, "frames");
  const Shape result = Shape::frames(out[0].dims, shape_.c_out);
  EARMARK_CHECK(result.batch == shape.batch && result.time == shape.time,
                "the output's shape is not the input's");
  if (has_bias_) {
    EARMARK_CHECK(Shape::vector(in[parts()].dims, shape_.c_out).batch == shape.batch,
                  "the bias is of another batch");
  }
}

ConvS8::Uploaded ConvS8::upload(cuda::Constants& constants) const {
  Uploaded uploaded;
  uploaded.layer.weights = weights_.upload(constants);
  uploaded.layer.epilogue = epilogue_.upload(constants, weights_.initial());
  if (!table_.empty()) uploaded.table = constants.add(table_);
  return uploaded;
}

size_t ConvS8::workspace(const Dims& in) const {
  const int batch = static_cast<int>(in.d[0]);
  size_t bytes = Workspace::bytes(batch, kShared);
  if (has_bias_) bytes += bias_bytes(batch, shape_.c_out);
  if (parts() > 1) bytes += size_t{1} * batch * in.d[1] * shape_.c_in;
  return bytes;
}

cudaError_t ConvS8::enqueue(const Uploaded& uploaded, const TensorDesc* desc, const void* const* in,
                            void* const* out, void* workspace, const cuda::Launch& launch) const {
  const Shape shape = Shape::frames(desc[0].dims, parts_[0]);
  char* more = static_cast<char*>(workspace) + Workspace::bytes(shape.batch, kShared);
  cuda::ConvS8 call;
  call.shape = shape_;
  call.layer = uploaded.layer;
  call.table = uploaded.table;
  call.table_size = static_cast<int>(table_.size());
  call.in = {static_cast<const int8_t*>(in[0]), shape_.c_in, 1};
  call.out = {static_cast<int8_t*>(out[0]), shape_.c_out, 1};
  if (has_bias_) {
    // Kernels read vectors by whole panels.
    const size_t row = sizeof(float) * shape_.c_out, padded = cuda::padded_channels(shape_.c_out);
    const cudaError_t error =
        cudaMemcpy2DAsync(more, sizeof(float) * padded, in[parts()], row, row, shape.batch,
                          cudaMemcpyDeviceToDevice, launch.stream);
    if (error != cudaSuccess) return error;
    call.layer.bias = {reinterpret_cast<float*>(more), static_cast<int64_t>(padded)};
    more += bias_bytes(shape.batch, shape_.c_out);
  }
  if (parts() > 1) {
    call.in.data = reinterpret_cast<int8_t*>(more);
    for (int i = 0; i < parts(); ++i) {
      const cudaError_t error = cudaMemcpy2DAsync(more, shape_.c_in, in[i], parts_[i], parts_[i],
                                                  size_t{1} * shape.batch * shape.time,
                                                  cudaMemcpyDeviceToDevice, launch.stream);
      if (error != cudaSuccess) return error;
      more += parts_[i];
    }
  }
  // Known from the shape alone.
  call.in_frames = call.out_frames = {nullptr, shape.batch, shape.batch * shape.time};
  const size_t shared = cuda::workspace_bytes(call, *launch.device);
  cuda::Device narrow = *launch.device;
  if (shared > kShared) narrow.multiprocessors = 1;
  cuda::Launch with = launch;
  with.device = &narrow;
  const Workspace filled(workspace, shape, std::min(shared, kShared), with);
  call.in_frames = call.out_frames = filled.frames();
  return cuda::conv_s8(call, filled.launch());
}

}  // namespace earmark::trt
