#include "res2_s8.h"

#include <algorithm>

namespace earmark::trt {
namespace {

std::vector<int> zeros(const Fields& fields, const std::string& name, int size) {
  std::vector<int> values = fields.integers(name, size);
  for (const int value : values) {
    EARMARK_CHECK(-128 <= value && value <= 127, "plugin field '", name, "' holds ", value);
  }
  return values;
}

// Each chunk once.
std::vector<int> chunks(const Fields& fields, const std::string& name, int size) {
  const std::vector<int> values = fields.integers(name, size);
  std::vector<int> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  for (int i = 0; i < size; ++i) {
    EARMARK_CHECK(sorted[i] == i, "plugin field '", name, "' does not name each of ", size,
                  " chunks once");
  }
  return values;
}

}  // namespace

const std::vector<std::string>& Res2S8::fields() {
  static const std::vector<std::string> names = {
      "steps",   "width",    "kernel",   "dilation",   "reflect",
      "relu",    "weight",   "epilogue", "multiplier", "residual_multiplier",
      "in_zero", "sum_zero", "zero",     "in_at",      "out_at"};
  return names;
}

Res2S8::Res2S8(const Fields& fields)
    : steps_(fields.integer("steps", 2, cuda::kMaxRes2Steps)),
      in_at_(chunks(fields, "in_at", steps_ + 1)),
      out_at_(chunks(fields, "out_at", steps_ + 1)),
      in_zero_(zeros(fields, "in_zero", steps_)),
      sum_zero_(zeros(fields, "sum_zero", steps_ - 1)),
      out_zero_(zeros(fields, "zero", steps_)) {
  const int width = fields.integer("width", 1, cuda::kMaxRes2Channels);
  shape_.c_in = shape_.c_out = width;
  shape_.time.kernel = fields.integer("kernel", 1, 15);
  EARMARK_CHECK(shape_.time.kernel % 2 == 1, "a kernel of ", shape_.time.kernel, " is even");
  shape_.time.dilation = fields.integer("dilation", 1, 64, 1);
  shape_.time.padding = shape_.time.reach() / 2;
  shape_.pad_mode = fields.integer("reflect", 0, 1, 0) != 0 ? PadMode::kReflect : PadMode::kZero;
  const std::vector<int8_t> weight = fields.bytes("weight", steps_ * shape_.weights());
  const std::vector<float> rows = factors(fields, "epilogue", -1);
  for (int i = 0; i < steps_; ++i) {
    const auto zero = static_cast<int8_t>(i == 0 ? in_zero_[0] : sum_zero_[i - 1]);
    weights_.emplace_back(shape_, weight.data() + i * shape_.weights(),
                          std::vector<int8_t>(width, zero));
    epilogues_.push_back(epilogue_of(rows, width, steps_, i));
    epilogues_.back().relu = fields.integer("relu", 0, 1, 0) != 0;
    epilogues_.back().out_zero = out_zero_[i];
  }
  multiplier_ = factors(fields, "multiplier", int64_t{steps_ - 1} * width);
  residual_multiplier_ = factors(fields, "residual_multiplier", steps_ - 1);
}

void Res2S8::shape(const DimsExprs* in, DimsExprs* out, ExprBuilder&) const { out[0] = in[0]; }

void Res2S8::check(const TensorDesc* in, const TensorDesc* out) const {
  const Shape shape = Shape::frames(in[0].dims, channels());
  shape_.size_out(shape_.time, shape.time, "frames");
  const Shape same = Shape::frames(out[0].dims, channels());
  EARMARK_CHECK(same.batch == shape.batch && same.time == shape.time,
                "the output's shape is not the input's");
}

Res2S8::Uploaded Res2S8::upload(cuda::Constants& constants) const {
  Uploaded uploaded;
  const int width = shape_.c_in;
  for (int i = 0; i < steps_; ++i) {
    uploaded.weights.push_back(weights_[i].upload(constants));
    uploaded.epilogues.push_back(epilogues_[i].upload(constants, weights_[i].initial()));
    uploaded.multipliers.push_back(i == 0
                                       ? nullptr
                                       : constants.add(multiplier_.data() + int64_t{i - 1} * width,
                                                       width, cuda::padded_channels(width)));
  }
  return uploaded;
}

size_t Res2S8::workspace(const Dims& in) const {
  return Workspace::bytes(static_cast<int>(in.d[0]), 0);
}

cudaError_t Res2S8::enqueue(const Uploaded& uploaded, const TensorDesc* desc, const void* const* in,
                            void* const* out, void* workspace, const cuda::Launch& launch) const {
  const Shape shape = Shape::frames(desc[0].dims, channels());
  const Workspace filled(workspace, shape, 0, launch);
  const auto* from = static_cast<const int8_t*>(in[0]);
  auto* to = static_cast<int8_t*>(out[0]);
  const int width = shape_.c_in;
  cuda::Res2S8 call;
  call.steps = steps_;
  call.shape = shape_;
  call.in_stride = call.out_stride = channels();
  call.copy_in = from + in_at_[0] * width;
  call.copy_out = to + out_at_[0] * width;
  call.frames = filled.frames();
  for (int i = 0; i < steps_; ++i) {
    cuda::Res2Step& step = call.step[i];
    step.in = from + in_at_[i + 1] * width;
    step.out = to + out_at_[i + 1] * width;
    step.weights = uploaded.weights[i];
    step.epilogue = uploaded.epilogues[i];
    step.in_zero = in_zero_[i];
    if (i == 0) continue;
    step.multiplier = uploaded.multipliers[i];
    step.residual_multiplier = residual_multiplier_[i - 1];
    step.previous_zero = out_zero_[i - 1];
    step.sum_zero = sum_zero_[i - 1];
  }
  EARMARK_CHECK(cuda::supports(call, *launch.device), steps_, " steps of ", width,
                " channels do not run on this device");
  return cuda::res2_s8(call, filled.launch());
}

}  // namespace earmark::trt
