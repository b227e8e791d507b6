#include "engine/ops/layer_s16.h"

#include "core/planes.h"
#include "engine/ops/conv_driver.h"

namespace earmark {

LayerS16::LayerS16(const OpArgs& args, const OpDesc& desc, Isa isa, const ConvShape& shape,
                   const Tensor& in, const std::vector<int64_t>& weight_shape)
    : planes_in_(in.dtype == DType::kS16 ? 2 : 1),
      channels_in_(shape.c_in),
      epilogue_(args.epilogue(shape.c_out, DType::kS16)),
      relu_(args.flag("relu")) {
  args.check(in.dtype != DType::kF32, "in '", in.name, "' must be s8 or s16");
  args.check(desc.quantization.empty(), "a zero point that is found at run time is of int8 layers");
  const std::vector<std::vector<int8_t>> planes = args.weight_planes(weight_shape);
  const std::vector<std::vector<int8_t>> zeros = args.input_zero_planes(in);
  zero_row_ = AlignedBuffer<uint8_t>(static_cast<size_t>(planes_in_) * shape.c_in);
  for (int plane = 0; plane < planes_in_; ++plane) {
    const std::vector<int8_t>& zero = zeros[plane];
    uint8_t* row = zero_row_.data() + static_cast<size_t>(plane) * shape.c_in;
    for (int i = 0; i < shape.c_in; ++i) row[i] = static_cast<uint8_t>(zero[i] + 128);
    for (size_t i = 0; i < planes.size(); ++i) {
      if (plane == 0) packed_.push_back(pack_conv_s8(isa, shape, planes[i].data(), zero.data()));
      initials_.push_back(initial_sums(shape, planes[i].data(), zero.data()));
    }
  }
}

int64_t LayerS16::weight_bytes() const {
  return packed_[0].shape.weights() * static_cast<int64_t>(packed_.size());
}

LayerS16::Layout LayerS16::layout(int max_rows) const {
  Layout layout = {};
  size_t kernel = 0;
  for (const PackedConvS8& packed : packed_) {
    layout.gathered_stride = std::max(layout.gathered_stride, packed.c_in_padded);
    kernel = std::max(kernel, kernel_scratch_bytes(packed, max_rows));
  }
  const size_t rows = static_cast<size_t>(planes_in_) * max_rows;
  layout.gathered = to_cache_lines(sizeof(const uint8_t*) * rows * packed().seen.taps());
  layout.kernel = layout.gathered;
  if (packed().gathers()) {
    layout.kernel += to_cache_lines(rows * layout.gathered_stride + kReadSlack);
  }
  layout.sums = layout.kernel + kernel;
  layout.bytes = layout.sums + sizeof(int32_t) * products() * max_rows * kMaxPanel;
  return layout;
}

void LayerS16::place_rows(const Place& in, int width_out, int first, int row_begin, int row_end,
                          char* scratch, int max_rows) const {
  const Layout at = layout(max_rows);
  const int rows = row_end - row_begin;
  auto* gathered = reinterpret_cast<uint8_t*>(scratch + at.gathered);
  auto** pointers = reinterpret_cast<const uint8_t**>(scratch);
  for (int plane = 0; plane < planes_in_; ++plane) {
    Place place = in;  // as if it were an int8 tensor
    place.data += plane * in.stride;
    place.stride *= planes_in_;
    earmark::place_rows(packed(), place, width_out, first, row_begin, row_end,
                        zero_row_.data() + plane * channels_in_, at.gathered_stride, gathered,
                        pointers);
    gathered += static_cast<ptrdiff_t>(rows) * at.gathered_stride;
    pointers += static_cast<ptrdiff_t>(rows) * packed().seen.taps();
  }
}

void LayerS16::place_vector(const Place& in, char* scratch) const {
  for (int plane = 0; plane < planes_in_; ++plane) {
    reinterpret_cast<const uint8_t**>(scratch)[plane] = in.vector<uint8_t>() + plane * channels_in_;
  }
}

void LayerS16::run(const Kernels& k, char* scratch, int max_rows, int n_rows, int panel_begin,
                   int panel_end, const float* offset, const LookupTable* table, float* out,
                   ptrdiff_t out_stride) const {
  const Layout at = layout(max_rows);
  const ptrdiff_t plane_rows = static_cast<ptrdiff_t>(n_rows) * packed().seen.taps();
  const auto* rows = reinterpret_cast<const uint8_t* const*>(scratch);
  auto* sums = reinterpret_cast<int32_t*>(scratch + at.sums);
  const EpilogueS8 epilogue = {packed().initial.data(),
                               epilogue_.multiplier.data(),
                               offset,
                               epilogue_.gain.data(),
                               epilogue_.shift.data(),
                               relu_,
                               0};
  const int width = packed().packing.panel;
  const int step = kMaxPanel / width;  // a kernel that copies its rows does so once for them all
  for (int panel = panel_begin; panel < panel_end; panel += step) {
    const int end = std::min(panel + step, panel_end);
    PlaneSums planes = {0, {}, {}, static_cast<ptrdiff_t>(end - panel) * width};
    for (int in = 0; in < planes_in_; ++in) {
      for (size_t w = 0; w < packed_.size(); ++w) {
        int32_t* to = sums + static_cast<ptrdiff_t>(planes.count) * n_rows * planes.stride;
        const ConvCallS8 call =
            conv_call(packed_[w], rows + in * plane_rows, n_rows, panel, end, scratch + at.kernel);
        k.conv_acc_s8(call, initials_[planes.count].data(), to, planes.stride);
        planes.sums[planes.count] = to;
        planes.factor[planes.count++] =
            plane_factor(planes_in_, in, static_cast<int>(packed_.size()), static_cast<int>(w));
      }
    }
    const int channel = panel * width;
    k.combine_s16(planes, at_channel(epilogue, channel), table, out + channel, out_stride, n_rows,
                  std::min(end * width, packed().shape.c_out) - channel);
  }
}

}  // namespace earmark
