#include "frames.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"

namespace earmark::trt {
namespace {

constexpr size_t kAlign = 256;

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

int size_of(int64_t n, const char* what) {
  EARMARK_CHECK(1 <= n && n <= std::numeric_limits<int32_t>::max(), "a tensor has ", n, " ", what);
  return static_cast<int>(n);
}

}  // namespace

Shape Shape::frames(const Dims& dims, int channels) {
  EARMARK_CHECK(dims.count == 3 && dims.d[2] == channels, "frames (batch, time, ", channels,
                ") are expected");
  const Shape shape = {size_of(dims.d[0], "recordings"), size_of(dims.d[1], "frames"), channels};
  EARMARK_CHECK(int64_t{shape.batch} * shape.time < int64_t{1} << 31, "a tensor has ", shape.batch,
                " x ", shape.time, " frames");
  return shape;
}

Shape Shape::vector(const Dims& dims, int channels) {
  EARMARK_CHECK(dims.count == 2 && dims.d[1] == channels, "a vector (batch, ", channels,
                ") is expected");
  return {size_of(dims.d[0], "recordings"), 1, channels};
}

size_t Workspace::bytes(int batch, size_t shared) {
  return aligned(sizeof(int32_t) * (size_t{1} + batch)) + aligned(shared);
}

Workspace::Workspace(void* memory, const Shape& shape, size_t shared, const cuda::Launch& launch)
    : launch_(launch) {
  auto* offsets = static_cast<int32_t*>(memory);
  launch_.workspace = static_cast<char*>(memory) + bytes(shape.batch, 0);
  cuda::check(count_offsets(offsets, shape.batch, shape.time, launch), "filling the workspace");
  if (shared != 0) {
    cuda::check(cudaMemsetAsync(launch_.workspace, 0, shared, launch.stream),
                "filling the workspace");
  }
  frames_ = {offsets, shape.batch, shape.batch * shape.time};
}

EpilogueS8 Epilogue::upload(cuda::Constants& constants, const std::vector<int32_t>& initial) const {
  const size_t padded = cuda::padded_channels(channels);
  const auto row = [&](size_t i) -> const float* {
    if (rows.size() <= i * channels) return nullptr;
    return constants.add(rows.data() + i * channels, channels, padded);
  };
  return {.initial = constants.add(initial),
          .multiplier = row(0),
          .offset = row(1),
          .gain = row(2),
          .shift = row(3),
          .relu = relu,
          .zero_u8 = out_zero + 128};
}

Epilogue epilogue_of(const std::vector<float>& values, int channels, int layers, int row) {
  const size_t each = values.size() / layers;
  EARMARK_CHECK(each * layers == values.size() &&
                    (each == size_t{2} * channels || each == size_t{4} * channels),
                "an epilogue of ", values.size(), " values for ", layers, " x ", channels,
                " channels");
  Epilogue epilogue;
  epilogue.channels = channels;
  epilogue.rows.assign(values.begin() + row * each, values.begin() + (row + 1) * each);
  return epilogue;
}

std::vector<float> factors(const Fields& fields, const std::string& name, int64_t size) {
  std::vector<float> values = fields.floats(name, size);
  for (const float value : values) {
    const float magnitude = std::fabs(value);
    EARMARK_CHECK(value == 0 || (magnitude >= kMinMagnitude && magnitude <= kMaxMagnitude),
                  "plugin field '", name, "' holds ", value);
  }
  return values;
}

Weights::Weights(const ConvShape& shape, const int8_t* weight, const std::vector<int8_t>& zero) {
  const int8_t* end = weight + shape.weights();
  EARMARK_CHECK(std::find(weight, end, -128) == end, "a weight is -128");
  packed_ = cuda::pack_conv_s8(shape, weight, zero.data());
}

cuda::WeightsS8 Weights::upload(cuda::Constants& constants) const {
  return {constants.add(packed_.weight), packed_.depth, constants.add(packed_.input_zero)};
}

}  // namespace earmark::trt
