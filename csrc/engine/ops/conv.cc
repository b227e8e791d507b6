// conv_s8 and conv_f32: convolution -> ReLU -> affine -> int8, a table, or float32.
#include "engine/ops/conv_driver.h"
#include "engine/ops/ops.h"
#include "engine/ops/windowed.h"

namespace earmark {
namespace {

// What both dtypes share: inputs and per-channel arrays.
class Conv : public Windowed {
 public:
  Conv(const OpArgs& args, const OpDesc& desc, DType dtype) : Windowed(args, desc, dtype) {
    if (!desc.bias.empty()) {
      bias_ = &args.tensor("bias", desc.bias, Kind::kVector, DType::kF32, shape_.c_out);
      vectors_in = {bias_};
    }
    epilogue_ = args.epilogue(shape_.c_out, dtype);
    relu_ = args.flag("relu");
  }

  int64_t weights() const override { return shape_.weights(); }
  int64_t uses_of_weights(const Walk&, Range range) const override {
    return static_cast<int64_t>(range.size()) * out->width;
  }

 protected:
  std::vector<int64_t> weight_shape() const {
    return {shape_.c_out, shape_.time.kernel, shape_.width.kernel, shape_.c_in};
  }
  const float* offset(const Walk& walk) const {
    return bias_ == nullptr ? epilogue_.offset.data() : walk[*bias_].vector<float>();
  }

  const Tensor* bias_ = nullptr;
  Epilogue epilogue_;
  bool relu_;
};

class ConvS8 final : public Conv {
 public:
  ConvS8(const OpArgs& args, const OpDesc& desc, Isa isa) : Conv(args, desc, DType::kS8) {
    const std::vector<int8_t> zero = args.input_zero(*in_);
    packed_ = pack_conv_s8(isa, shape_, args.weights_s8(weight_shape()), zero.data());
    if (args.has("table")) table_ = args.table_s8();
    zero_row_ = AlignedBuffer<uint8_t>(shape_.c_in);
    for (int i = 0; i < shape_.c_in; ++i) zero_row_[i] = static_cast<uint8_t>(zero[i] + 128);
  }

  void run(Walk& walk, Range range) const override {
    const EpilogueS8 epilogue = {packed_.initial.data(), epilogue_.multiplier.data(), offset(walk),
                                 epilogue_.gain.data(),  epilogue_.shift.data(),      relu_,
                                 out->zero_u8()};
    const Place& to = walk[*out];
    const Kernels& k = *walk.kernels;
    run_conv<uint8_t>(walk, packed_, walk[*in_], to.width, range, zero_row_.data(),
                      table_.empty() ? 0 : sizeof(int32_t),
                      [&](const ConvCallS8& call, const ConvUnit& unit, char* extra) {
                        uint8_t* y = to.row<uint8_t>(range.begin) + unit.row_begin * to.stride;
                        if (table_.empty()) {
                          k.conv_s8(call, epilogue, y, to.stride);
                          return;
                        }
                        const int channel = unit.panel_begin * packed_.packing.panel;
                        const int columns =
                            (unit.panel_end - unit.panel_begin) * packed_.packing.panel;
                        auto* acc = reinterpret_cast<int32_t*>(extra);
                        k.conv_acc_s8(call, packed_.initial.data(), acc, columns);
                        EpilogueS8 part = epilogue;
                        part.multiplier += channel;
                        part.offset += channel;
                        if (part.gain != nullptr) {
                          part.gain += channel;
                          part.shift += channel;
                        }
                        k.table_s8(acc, columns, part, table_.data(),
                                   static_cast<int>(table_.size()), y + channel, to.stride,
                                   call.n_rows, std::min(columns, shape_.c_out - channel));
                      });
  }

 private:
  PackedConvS8 packed_;
  std::vector<int8_t> table_;
  AlignedBuffer<uint8_t> zero_row_;
};

class ConvF32 final : public Conv {
 public:
  ConvF32(const OpArgs& args, const OpDesc& desc, Isa isa) : Conv(args, desc, DType::kF32) {
    packed_ = pack_conv_f32(isa, shape_, args.weights_f32(weight_shape()));
    const std::string activation = args.word("activation", "");
    args.check(activation.empty() || activation == "tanh", "unknown activation '", activation, "'");
    tanh_ = activation == "tanh";
    zero_row_ = AlignedBuffer<float>(shape_.c_in);
  }

  void run(Walk& walk, Range range) const override {
    const EpilogueF32 epilogue = {offset(walk), epilogue_.gain.data(), epilogue_.shift.data(),
                                  relu_};
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
  PackedConvF32 packed_;
  bool tanh_;
  AlignedBuffer<float> zero_row_;
};

}  // namespace

OpPtr make_conv_s8(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<ConvS8>(args, desc, isa);
}

OpPtr make_conv_f32(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<ConvF32>(args, desc, isa);
}

}  // namespace earmark
