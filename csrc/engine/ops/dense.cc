// dense_s8, dense_s16 and dense_f32: a layer on a recording's vector, run as a convolution of one
// row.
#include "engine/ops/conv_driver.h"
#include "engine/ops/layer_s16.h"
#include "engine/ops/layer_s8.h"
#include "engine/ops/ops.h"

namespace earmark {
namespace {

class Dense : public Op {
 public:
  Dense(const OpArgs& args, const OpDesc& desc, DType from, DType to) : Op(desc) {
    in_ = &args.in(Kind::kVector, from);
    out = &args.out(Kind::kVector, to);
    vectors_in = {in_};
    shape_.c_in = in_->channels;
    shape_.c_out = out->channels;
  }

  int64_t weights() const override { return shape_.weights(); }
  int64_t uses_of_weights(const Walk&, Range) const override { return 1; }

 protected:
  static constexpr int kPanelsPerUnit = 2;

  // kernel(call, first channel, channels of the unit) on all threads.
  template <class T, class W, class Kernel>
  void run_rows(Walk& walk, const PackedConv<W>& packed, const Kernel& kernel) const {
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
};

class DenseS8 final : public Dense {
 public:
  DenseS8(const OpArgs& args, const OpDesc& desc, Isa isa)
      : Dense(args, desc, DType::kS8, args.find("out", desc.out).dtype),
        layer_(args, desc, isa, shape_, *in_, {shape_.c_out, shape_.c_in}) {
    if (layer_.quantization() != nullptr) vectors_in.push_back(layer_.quantization());
    if (args.has("table")) {
      args.check(out->dtype == DType::kF32, "a table makes f32, and out '", out->name, "' is s8");
      table_ = args.table_f32();
    }
  }

  size_t state_bytes() const override { return layer_.state_bytes(); }

  void run(Walk& walk, Range) const override {
    const EpilogueS8 e =
        layer_.constants(walk, walk.states[index].data(), layer_.offset(), out->zero_u8()).epilogue;
    const Place& to = walk[*out];
    run_rows<uint8_t>(
        walk, layer_.packed(), [&](const ConvCallS8& call, int channel, int channels) {
          int32_t acc[2 * kMaxPanel];
          walk.kernels->conv_acc_s8(call, e.initial, acc, 2 * kMaxPanel);
          for (int i = 0; i < channels; ++i) {
            const int c = channel + i;
            const float v = real_value(e, c, static_cast<float>(acc[i]));
            if (out->dtype == DType::kS8) {
              to.vector<uint8_t>()[c] = requantize_u8(v, e.zero_u8);
            } else {
              to.vector<float>()[c] =
                  table_.empty() ? v : table_[table_index(v, static_cast<int>(table_.size()))];
            }
          }
        });
  }

 private:
  const LayerS8 layer_;
  std::vector<float> table_;
};

class DenseS16 final : public Dense {
 public:
  DenseS16(const OpArgs& args, const OpDesc& desc, Isa isa)
      : Dense(args, desc, args.find("in", desc.in).dtype, DType::kF32),
        layer_(args, desc, isa, shape_, *in_, {shape_.c_out, shape_.c_in}) {
    if (args.has("table")) table_ = args.line_table();
  }

  int64_t weight_bytes() const override { return layer_.weight_bytes(); }
  int64_t uses_of_weights(const Walk&, Range) const override { return layer_.products(); }

  void run(Walk& walk, Range) const override {
    const LookupTable table = table_.view();
    auto* to = walk[*out].vector<float>();
    walk.reserve_scratch(layer_.scratch_bytes(1));
    const int panels = layer_.packed().panels;
    walk.pool->parallel_for((panels + kPanelsPerUnit - 1) / kPanelsPerUnit, [&](int i, int thread) {
      char* scratch = walk.scratch(thread);
      layer_.place_vector(walk[*in_], scratch);
      const int panel = i * kPanelsPerUnit;
      layer_.run(*walk.kernels, scratch, 1, 1, panel, std::min(panel + kPanelsPerUnit, panels),
                 layer_.offset(), table.entries == 0 ? nullptr : &table, to, 0);
    });
  }

 private:
  const LayerS16 layer_;
  LineTable table_;
};

class DenseF32 final : public Dense {
 public:
  DenseF32(const OpArgs& args, const OpDesc& desc, Isa isa)
      : Dense(args, desc, DType::kF32, DType::kF32),
        epilogue_(args.epilogue(shape_.c_out, DType::kF32)) {
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
  Epilogue epilogue_;
  PackedConvF32 packed_;
  bool relu_, sigmoid_;
};

}  // namespace

OpPtr make_dense_s8(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<DenseS8>(args, desc, isa);
}

OpPtr make_dense_s16(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<DenseS16>(args, desc, isa);
}

OpPtr make_dense_f32(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<DenseF32>(args, desc, isa);
}

}  // namespace earmark
