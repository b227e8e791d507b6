// dense_s8 and dense_f32: a layer on a recording's vector, run as a convolution of one row.
#include "engine/ops/conv_driver.h"
#include "engine/ops/ops.h"

namespace earmark {
namespace {

class Dense : public Op {
 public:
  Dense(const OpArgs& args, const OpDesc& desc, DType dtype) : Op(desc) {
    in_ = &args.in(Kind::kVector, dtype);
    out = &args.out(Kind::kVector, DType::kF32);
    vectors_in = {in_};
    shape_.c_in = in_->channels;
    shape_.c_out = out->channels;
    epilogue_ = args.epilogue(shape_.c_out, dtype);
  }

  int64_t weights() const override { return shape_.weights(); }
  int64_t uses_of_weights(const Walk&, Range) const override { return 1; }

 protected:
  // kernel(call, first channel, channels of the unit) on all threads.
  template <class T, class W, class Kernel>
  void run_rows(Walk& walk, const PackedConv<W>& packed, const Kernel& kernel) const {
    constexpr int kPanelsPerUnit = 2;
    const ConvScratch<T, W> layout(packed, 1);
    walk.reserve_scratch(layout.bytes());
    const T* row = walk[*in_].vector<T>();
    walk.pool->parallel_for(
        (packed.panels + kPanelsPerUnit - 1) / kPanelsPerUnit, [&](int i, int thread) {
          const int panel_begin = i * kPanelsPerUnit;
          const int panel_end = std::min(panel_begin + kPanelsPerUnit, packed.panels);
          const ConvCall<T, W> call = conv_call(packed, &row, 1, panel_begin, panel_end,
                                                layout.kernel(walk.scratch(thread)));
          const int channel = panel_begin * packed.packing.panel;
          kernel(call, channel, std::min(panel_end * packed.packing.panel, shape_.c_out) - channel);
        });
  }

  ConvShape shape_;
  const Tensor* in_;
  Epilogue epilogue_;
};

class DenseS8 final : public Dense {
 public:
  DenseS8(const OpArgs& args, const OpDesc& desc, Isa isa) : Dense(args, desc, DType::kS8) {
    const std::vector<int8_t> zero = args.input_zero(*in_);
    packed_ = pack_conv_s8(isa, shape_, args.weights_s8({shape_.c_out, shape_.c_in}), zero.data());
    relu_ = args.flag("relu");
    if (args.has("table")) table_ = args.table_f32();
  }

  void run(Walk& walk, Range) const override {
    auto* to = walk[*out].vector<float>();
    run_rows<uint8_t>(walk, packed_, [&](const ConvCallS8& call, int channel, int channels) {
      int32_t acc[2 * kMaxPanel];
      walk.kernels->conv_acc_s8(call, packed_.initial.data(), acc, 2 * kMaxPanel);
      for (int i = 0; i < channels; ++i) to[channel + i] = finish(channel + i, acc[i]);
    });
  }

 private:
  float finish(int c, int32_t acc) const {
    float v = static_cast<float>(acc) * epilogue_.multiplier[c] + epilogue_.offset[c];
    if (relu_) v = v > 0.0f ? v : 0.0f;
    if (epilogue_.gain.size() != 0) v = v * epilogue_.gain[c] + epilogue_.shift[c];
    return table_.empty() ? v : table_[table_index(v, static_cast<int>(table_.size()))];
  }

  PackedConvS8 packed_;
  bool relu_;
  std::vector<float> table_;
};

class DenseF32 final : public Dense {
 public:
  DenseF32(const OpArgs& args, const OpDesc& desc, Isa isa) : Dense(args, desc, DType::kF32) {
    packed_ = pack_conv_f32(isa, shape_, args.weights_f32({shape_.c_out, shape_.c_in}));
    const std::string activation = args.word("activation", "");
    args.check(activation.empty() || activation == "relu" || activation == "sigmoid",
               "unknown activation '", activation, "'");
    relu_ = activation == "relu";
    sigmoid_ = activation == "sigmoid";
  }

  void run(Walk& walk, Range) const override {
    const EpilogueF32 epilogue = {epilogue_.offset.data(), epilogue_.gain.data(),
                                  epilogue_.shift.data(), relu_};
    auto* to = walk[*out].vector<float>();
    run_rows<float>(walk, packed_, [&](const ConvCallF32& call, int channel, int channels) {
      walk.kernels->conv_f32(call, epilogue, to, 0);
      if (!sigmoid_) return;
      for (int i = channel; i < channel + channels; ++i) to[i] = sigmoid_f32(to[i]);
    });
  }

 private:
  PackedConvF32 packed_;
  bool relu_, sigmoid_;
};

}  // namespace

OpPtr make_dense_s8(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<DenseS8>(args, desc, isa);
}

OpPtr make_dense_f32(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<DenseF32>(args, desc, isa);
}

}  // namespace earmark
