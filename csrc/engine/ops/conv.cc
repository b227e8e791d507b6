// conv_s8, conv_s16 and conv_f32: convolution -> ReLU -> affine -> int8, a table, or float32.
#include "engine/ops/conv_driver.h"
#include "engine/ops/layer_s16.h"
#include "engine/ops/layer_s8.h"
#include "engine/ops/ops.h"
#include "engine/ops/windowed.h"

namespace earmark {
namespace {

// What all dtypes share: inputs.
class Conv : public Windowed {
 public:
  Conv(const OpArgs& args, const OpDesc& desc, DType from, DType to)
      : Windowed(args, desc, from, to) {
    if (!desc.bias.empty()) {
      bias_ = &args.tensor("bias", desc.bias, Kind::kVector, DType::kF32, shape_.c_out);
      vectors_in = {bias_};
    }
  }

  int64_t weights() const override { return shape_.weights(); }
  int64_t uses_of_weights(const Walk&, Range range) const override {
    return static_cast<int64_t>(range.size()) * out->width;
  }

 protected:
  std::vector<int64_t> weight_shape() const {
    return {shape_.c_out, shape_.time.kernel, shape_.width.kernel, shape_.c_in};
  }
  // The recording's own offsets, or else those of the file.
  const float* offset(const Walk& walk, const float* stored) const {
    return bias_ == nullptr ? stored : walk[*bias_].vector<float>();
  }

  const Tensor* bias_ = nullptr;
};

class ConvS8 final : public Conv {
 public:
  ConvS8(const OpArgs& args, const OpDesc& desc, Isa isa)
      : Conv(args, desc, DType::kS8, args.find("out", desc.out).dtype),
        layer_(args, desc, isa, shape_, *in_, weight_shape()) {
    if (layer_.quantization() != nullptr) vectors_in.push_back(layer_.quantization());
    if (args.has("table")) {
      args.check(out->dtype == DType::kS8, "a table makes s8, and out '", out->name, "' is f32");
      table_ = args.table_s8();
    }
  }

  size_t state_bytes() const override { return layer_.state_bytes(); }

  void run(Walk& walk, Range range) const override {
    const LayerS8::Constants constants = layer_.constants(
        walk, walk.states[index].data(), offset(walk, layer_.offset()), out->zero_u8());
    const EpilogueS8& epilogue = constants.epilogue;
    const Kernels& k = *walk.kernels;
    const Place& to = walk[*out];
    if (out->dtype == DType::kF32) {
      for_units(walk, range, constants, 0,
                [&](const ConvCallS8& call, const ConvUnit& unit, char*) {
                  k.conv_s8_f32(call, epilogue,
                                to.row<float>(range.begin) + unit.row_begin * to.stride, to.stride);
                });
      return;
    }
    const auto output = [&](const ConvUnit& unit) {
      return to.row<uint8_t>(range.begin) + unit.row_begin * to.stride;
    };
    if (table_.empty()) {
      for_units(walk, range, constants, 0,
                [&](const ConvCallS8& call, const ConvUnit& unit, char*) {
                  k.conv_s8(call, epilogue, output(unit), to.stride);
                });
      return;
    }
    for_units(walk, range, constants, sizeof(int32_t),
              [&](const ConvCallS8& call, const ConvUnit& unit, char* extra) {
                const int width = layer_.packed().packing.panel;
                const int channel = unit.panel_begin * width;
                const int columns = (unit.panel_end - unit.panel_begin) * width;
                auto* acc = reinterpret_cast<int32_t*>(extra);
                k.conv_acc_s8(call, epilogue.initial, acc, columns);
                k.table_s8(acc, columns, at_channel(epilogue, channel), table_.data(),
                           static_cast<int>(table_.size()), output(unit) + channel, to.stride,
                           call.n_rows, std::min(columns, shape_.c_out - channel));
              });
  }

 private:
  // kernel(call, unit, extra) for every unit of the range.
  template <class Kernel>
  void for_units(Walk& walk, Range range, const LayerS8::Constants& constants,
                 size_t extra_per_output, const Kernel& kernel) const {
    run_conv<uint8_t>(walk, layer_.packed(), walk[*in_], out->width, range, constants.zero_row,
                      extra_per_output, kernel);
  }

  const LayerS8 layer_;
  std::vector<int8_t> table_;
};

class ConvS16 final : public Conv {
 public:
  ConvS16(const OpArgs& args, const OpDesc& desc, Isa isa)
      : Conv(args, desc, args.find("in", desc.in).dtype, DType::kF32),
        layer_(args, desc, isa, shape_, *in_, weight_shape()) {
    if (args.has("table")) table_ = args.line_table();
  }

  int64_t weight_bytes() const override { return layer_.weight_bytes(); }
  int64_t uses_of_weights(const Walk& walk, Range range) const override {
    return layer_.products() * Conv::uses_of_weights(walk, range);
  }

  void run(Walk& walk, Range range) const override {
    const Place& to = walk[*out];
    const ConvGrid grid(layer_.packed(), range.size() * to.width, walk.pool->threads());
    const float* offsets = offset(walk, layer_.offset());
    const LookupTable table = table_.view();
    walk.reserve_scratch(layer_.scratch_bytes(grid.max_rows()));
    walk.pool->parallel_for(grid.units(), [&](int i, int thread) {
      const ConvUnit unit = grid.unit(i);
      char* scratch = walk.scratch(thread);
      layer_.place_rows(walk[*in_], to.width, range.begin, unit.row_begin, unit.row_end, scratch,
                        grid.max_rows());
      layer_.run(*walk.kernels, scratch, grid.max_rows(), unit.row_end - unit.row_begin,
                 unit.panel_begin, unit.panel_end, offsets, table.entries == 0 ? nullptr : &table,
                 to.row<float>(range.begin) + unit.row_begin * to.stride, to.stride);
    });
  }

 private:
  const LayerS16 layer_;
  LineTable table_;
};

class ConvF32 final : public Conv {
 public:
  ConvF32(const OpArgs& args, const OpDesc& desc, Isa isa)
      : Conv(args, desc, DType::kF32, DType::kF32),
        epilogue_(args.epilogue(shape_.c_out, DType::kF32)),
        relu_(args.flag("relu")) {
    packed_ = pack_conv_f32(isa, shape_, args.weights_f32(weight_shape()));
    const std::string activation = args.word("activation", "");
    args.check(activation.empty() || activation == "tanh", "unknown activation '", activation, "'");
    tanh_ = activation == "tanh";
    zero_row_ = AlignedBuffer<float>(shape_.c_in);
  }

  void run(Walk& walk, Range range) const override {
    const EpilogueF32 epilogue = {offset(walk, epilogue_.offset.data()), epilogue_.gain.data(),
                                  epilogue_.shift.data(), relu_};
    const Place& to = walk[*out];
    const Kernels& k = *walk.kernels;
    run_conv<float>(walk, packed_, walk[*in_], to.width, range, zero_row_.data(), 0,
                    [&](const ConvCallF32& call, const ConvUnit& unit, char*) {
                      float* y = to.row<float>(range.begin) + unit.row_begin * to.stride;
                      k.conv_f32(call, epilogue, y, to.stride);
                      if (!tanh_) return;
                      const int channel = unit.panel_begin * packed_.packing.panel;
                      const int end =
                          std::min(unit.panel_end * packed_.packing.panel, shape_.c_out);
                      k.tanh_f32(y + channel, to.stride, call.n_rows, end - channel);
                    });
  }

 private:
  Epilogue epilogue_;
  bool relu_;
  PackedConvF32 packed_;
  bool tanh_;
  AlignedBuffer<float> zero_row_;
};

}  // namespace

OpPtr make_conv_s8(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<ConvS8>(args, desc, isa);
}

OpPtr make_conv_s16(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<ConvS16>(args, desc, isa);
}

OpPtr make_conv_f32(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<ConvF32>(args, desc, isa);
}

}  // namespace earmark
