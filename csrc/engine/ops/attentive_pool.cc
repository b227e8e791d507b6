// attentive_pool_s8, attentive_pool_s16 and attentive_pool_f32: the attention's last layer, the
// softmax over time and the weighted mean and standard deviation, one slice of channels at a time.
// The logits of at most kBlockRows frames exist at once: where a recording is longer, the exact
// softmax computes them twice, for the maximum and for the sums.
#include <cmath>

#include "engine/ops/conv_driver.h"
#include "engine/ops/layer_s16.h"
#include "engine/ops/ops.h"
#include "engine/ops/softmax_function.h"

namespace earmark {
namespace {

constexpr int kBlockRows = 1024;

// The logits of some rows and panels, from hidden frames of type T by packed weights.
template <class T, class W, class Multiply>
class PackedLogits {
 public:
  // multiply(call, logits, columns, first channel)
  PackedLogits(const PackedConv<W>& packed, const Place& hidden, Multiply multiply)
      : packed_(packed), hidden_(hidden), multiply_(multiply) {}

  const PackedConv<W>& packed() const { return packed_; }
  size_t scratch_bytes(int rows) const { return ConvScratch<T, W>(packed_, rows).bytes(); }

  template <class Logit>
  void compute(int first, int rows, int max_rows, int panel_begin, int panel_end, char* scratch,
               Logit* logits, int columns) const {
    const ConvScratch<T, W> layout(packed_, max_rows);
    const T** pointers = layout.pointers(scratch);
    for (int r = 0; r < rows; ++r) pointers[r] = hidden_.row<T>(first + r);
    multiply_(conv_call(packed_, pointers, rows, panel_begin, panel_end, layout.kernel(scratch)),
              logits, columns, panel_begin * packed_.packing.panel);
  }

 private:
  const PackedConv<W>& packed_;
  const Place& hidden_;
  Multiply multiply_;
};

// Likewise, from hidden frames and weights of up to 16 bits.
class PlaneLogits {
 public:
  PlaneLogits(const Kernels& kernels, const LayerS16& layer, const Place& hidden)
      : kernels_(kernels), layer_(layer), hidden_(hidden) {}

  const PackedConvS8& packed() const { return layer_.packed(); }
  size_t scratch_bytes(int rows) const { return layer_.scratch_bytes(rows); }

  void compute(int first, int rows, int max_rows, int panel_begin, int panel_end, char* scratch,
               float* logits, int columns) const {
    layer_.place_rows(hidden_, 1, first, 0, rows, scratch, max_rows);
    layer_.run(kernels_, scratch, max_rows, rows, panel_begin, panel_end, layer_.offset(), nullptr,
               logits - panel_begin * packed().packing.panel, columns);
  }

 private:
  const Kernels& kernels_;
  const LayerS16& layer_;
  const Place& hidden_;
};

template <class Logit, class Value>
class AttentivePool : public Op {
 public:
  AttentivePool(const OpArgs& args, const OpDesc& desc, DType hidden, DType values,
                bool integer_numerators)
      : Op(desc), softmax_(args, integer_numerators) {
    hidden_ = &args.in(Kind::kFrames, hidden);
    values_ = &args.tensor("values", desc.values, Kind::kFrames, values);
    args.check(hidden_->width == 1 && values_->width == 1, "pooling is over time: width must be 1");
    out = &args.tensor("out", desc.out, Kind::kVector, DType::kF32, 2 * values_->channels);
    frames_in = {hidden_, values_};
    valid = args.valid();
    whole = true;
    shape_.c_in = hidden_->channels;
    shape_.c_out = values_->channels;
    min_variance_ = args.min_variance();
  }

  int64_t weights() const override { return shape_.weights(); }
  int64_t uses_of_weights(const Walk& walk, Range) const override {
    const int64_t rows = walk.counted(*hidden_, valid);
    // Only exp needs the maximum first.
    const bool twice = softmax_.kind == SoftmaxFunction::Kind::kExact && rows > kBlockRows;
    return twice ? 2 * rows : rows;
  }

 protected:
  // Logits of some panels: [rows][columns].
  struct Slice {
    Logit* logits;
    const Value* values;  // row 0, first channel of the slice
    ptrdiff_t values_stride;
    int channel;
    int columns;   // of whole panels
    int channels;  // that there are of them
  };

  // body(slice, blocks) gets for_blocks(each), which calls each(first row, rows) with the logits of
  // those rows in place, which `source` computed.
  template <class Logits, class Body>
  void for_slices(Walk& walk, const Logits& source, const Body& body) const {
    const Place& x = walk[*values_];
    const int rows = walk.counted(*values_, valid);
    const int block = std::min(rows, kBlockRows);
    const int width = source.packed().packing.panel, panels = source.packed().panels;
    const int count = kMaxPanel / width;  // a kernel that copies its rows does so once for them all
    const size_t before_logits = source.scratch_bytes(block);
    walk.reserve_scratch(before_logits + sizeof(Logit) * block * width * count);
    walk.pool->parallel_for((panels + count - 1) / count, [&](int unit, int thread) {
      const int p = unit * count, end = std::min(p + count, panels);
      char* scratch = walk.scratch(thread);
      Slice slice;
      slice.logits = reinterpret_cast<Logit*>(scratch + before_logits);
      slice.channel = p * width;
      slice.columns = (end - p) * width;
      slice.channels = std::min(slice.columns, shape_.c_out - slice.channel);
      slice.values = x.row<Value>(0) + slice.channel;
      slice.values_stride = x.stride;
      int filled = -1;  // first row of the block whose logits are there
      body(slice, [&](const auto& each) {
        for (int first = 0; first < rows; first += block) {
          const int n = std::min(block, rows - first);
          if (filled != first) {
            source.compute(first, n, block, p, end, scratch, slice.logits, slice.columns);
            filled = first;
          }
          each(first, n);
        }
      });
    });
  }

  // Mean and standard deviation of the slice from its sums, times unit(channel); the values' zero
  // point is taken off. `min_variance` is of the values as they were summed.
  template <class Sum, class Unit>
  void finish(Walk& walk, const Slice& slice, const Sum* s0, const Sum* s1, const Sum* s2,
              double zero, double min_variance, const Unit& unit) const {
    auto* y = walk[*out].vector<float>() + slice.channel;
    for (int c = 0; c < slice.channels; ++c) {
      const double mean = static_cast<double>(s1[c]) / static_cast<double>(s0[c]);
      const double variance = static_cast<double>(s2[c]) / static_cast<double>(s0[c]) - mean * mean;
      y[c] = static_cast<float>(mean - zero) * unit(c);
      y[shape_.c_out + c] =
          static_cast<float>(std::sqrt(variance > min_variance ? variance : min_variance)) *
          unit(c);
    }
  }

  const SoftmaxFunction softmax_;
  ConvShape shape_;
  const Tensor* hidden_;
  const Tensor* values_;
  double min_variance_;
};

class AttentivePoolS8 final : public AttentivePool<int32_t, uint8_t> {
 public:
  AttentivePoolS8(const OpArgs& args, const OpDesc& desc, Isa isa)
      : AttentivePool(args, desc, DType::kS8, DType::kS8, true) {
    const std::vector<int8_t> zero = args.input_zero(*hidden_);
    packed_ = pack_conv_s8(isa, shape_, args.weights_s8({shape_.c_out, shape_.c_in}), zero.data());
    multiplier_ = args.floats("multiplier", shape_.c_out, true);
    values_quantization_ = args.found_quantization("values_quantization", desc.values_quantization);
    if (values_quantization_ != nullptr) {
      vectors_in = {values_quantization_};
    } else {
      value_multiplier_ = args.floats("value_multiplier", shape_.c_out);
    }
    if (softmax_.kind != SoftmaxFunction::Kind::kExact) {
      offset_ = args.floats("offset", shape_.c_out);
    }
  }

  void run(Walk& walk, Range) const override {
    const Kernels& k = *walk.kernels;
    double zero = values_->zero_point;
    double min_variance = min_variance_;
    float found_scale = 1.0f;
    if (values_quantization_ != nullptr) {
      const FoundQuantization found = walk.found(*values_quantization_);
      found_scale = found.scale;
      zero = zero_u8(found) - 128;
      min_variance /= static_cast<double>(found.scale) * static_cast<double>(found.scale);
    }
    const auto multiply = [&](const ConvCallS8& call, int32_t* logits, int columns, int) {
      k.conv_acc_s8(call, packed_.initial.data(), logits, columns);
    };
    const PackedLogits<uint8_t, int8_t, decltype(multiply)> source(packed_, walk[*hidden_],
                                                                   multiply);
    for_slices(walk, source, [&](const Slice& slice, const auto& for_blocks) {
      int64_t s0[kMaxPanel] = {}, s1[kMaxPanel] = {}, s2[kMaxPanel] = {};
      const Moments moments = {s0, s1, s2};
      const float* multiplier = multiplier_.data() + slice.channel;
      const auto values = [&](int first) { return slice.values + first * slice.values_stride; };
      const float* offset = offset_.data() + slice.channel;
      switch (softmax_.kind) {
        case SoftmaxFunction::Kind::kPwl:
          for_blocks([&](int first, int rows) {
            k.pwl_moments_s8(slice.logits, rows, slice.columns, multiplier, offset, softmax_.pwl(),
                             values(first), slice.values_stride, slice.channels, moments);
          });
          break;
        case SoftmaxFunction::Kind::kTable:
          for_blocks([&](int first, int rows) {
            k.table_moments_s8(slice.logits, rows, slice.columns, multiplier, offset,
                               softmax_.table(), values(first), slice.values_stride, slice.channels,
                               moments);
          });
          break;
        case SoftmaxFunction::Kind::kExact:
          int32_t maximum[kMaxPanel];
          std::fill(maximum, maximum + kMaxPanel, INT32_MIN);
          for_blocks([&](int, int rows) { k.max_s32(slice.logits, rows, slice.columns, maximum); });
          for_blocks([&](int first, int rows) {
            k.softmax_moments_s8(slice.logits, rows, slice.columns, maximum, multiplier,
                                 values(first), slice.values_stride, slice.channels, moments);
          });
          break;
      }
      // The moments are of u - 128 = q: the zero point is the tensor's own.
      finish(walk, slice, s0, s1, s2, zero, min_variance, [&](int c) {
        return values_quantization_ != nullptr ? found_scale : value_multiplier_[slice.channel + c];
      });
    });
  }

 private:
  PackedConvS8 packed_;
  const Tensor* values_quantization_;
  AlignedBuffer<float> multiplier_, value_multiplier_, offset_;
};

// Of float32 values and logits.
class AttentivePoolReal : public AttentivePool<float, float> {
 protected:
  using AttentivePool::AttentivePool;

  // The moments by each kind of numerators.
  struct MomentKernels {
    decltype(Kernels::softmax_moments_f32) softmax;
    decltype(Kernels::pwl_moments_f32) pwl;
    decltype(Kernels::table_moments_f32) table;
  };

  template <class Logits>
  void pool(Walk& walk, const Logits& source, const MomentKernels& add) const {
    const Kernels& k = *walk.kernels;
    for_slices(walk, source, [&](const Slice& slice, const auto& for_blocks) {
      double s0[kMaxPanel] = {}, s1[kMaxPanel] = {}, s2[kMaxPanel] = {};
      const MomentsF32 moments = {s0, s1, s2};
      const auto values = [&](int first) { return slice.values + first * slice.values_stride; };
      switch (softmax_.kind) {
        case SoftmaxFunction::Kind::kPwl:
          for_blocks([&](int first, int rows) {
            add.pwl(slice.logits, rows, slice.columns, softmax_.pwl(), values(first),
                    slice.values_stride, slice.channels, moments);
          });
          break;
        case SoftmaxFunction::Kind::kTable:
          for_blocks([&](int first, int rows) {
            add.table(slice.logits, rows, slice.columns, softmax_.table(), values(first),
                      slice.values_stride, slice.channels, moments);
          });
          break;
        case SoftmaxFunction::Kind::kExact:
          float maximum[kMaxPanel];
          std::fill(maximum, maximum + kMaxPanel, -INFINITY);
          // Columns behind the last channel are never written; only the slice's channels are looked
          // at.
          for_blocks([&](int, int rows) {
            k.max_f32(slice.logits, rows, slice.columns, slice.channels, maximum);
          });
          for_blocks([&](int first, int rows) {
            add.softmax(slice.logits, rows, slice.columns, maximum, values(first),
                        slice.values_stride, slice.channels, moments);
          });
          break;
      }
      finish(walk, slice, s0, s1, s2, 0.0, min_variance_, [](int) { return 1.0f; });
    });
  }
};

class AttentivePoolS16 final : public AttentivePoolReal {
 public:
  AttentivePoolS16(const OpArgs& args, const OpDesc& desc, Isa isa)
      : AttentivePoolReal(args, desc, args.find("in", desc.in).dtype, DType::kF32, true),
        layer_(args, desc, isa, shape_, *hidden_, {shape_.c_out, shape_.c_in}) {
    args.check(!layer_.has_affine(), "the attention's last layer has no affine");
  }

  int64_t weight_bytes() const override { return layer_.weight_bytes(); }
  int64_t uses_of_weights(const Walk& walk, Range range) const override {
    return layer_.products() * AttentivePool::uses_of_weights(walk, range);
  }

  void run(Walk& walk, Range) const override {
    const Kernels& k = *walk.kernels;
    pool(walk, PlaneLogits(k, layer_, walk[*hidden_]),
         {k.softmax_moments_s16, k.pwl_moments_s16, k.table_moments_s16});
  }

 private:
  const LayerS16 layer_;
};

class AttentivePoolF32 final : public AttentivePoolReal {
 public:
  AttentivePoolF32(const OpArgs& args, const OpDesc& desc, Isa isa)
      : AttentivePoolReal(args, desc, DType::kF32, DType::kF32, false) {
    packed_ = pack_conv_f32(isa, shape_, args.weights_f32({shape_.c_out, shape_.c_in}));
    epilogue_ = args.epilogue(shape_.c_out, DType::kF32);
    args.check(epilogue_.gain.size() == 0, "the attention's last layer has no affine");
  }

  void run(Walk& walk, Range) const override {
    const Kernels& k = *walk.kernels;
    const EpilogueF32 epilogue = {epilogue_.offset.data(), nullptr, nullptr, false};
    const auto multiply = [&](const ConvCallF32& call, float* logits, int columns, int channel) {
      k.conv_f32(call, epilogue, logits - channel, columns);
    };
    const PackedLogits<float, float, decltype(multiply)> source(packed_, walk[*hidden_], multiply);
    pool(walk, source, {k.softmax_moments_f32, k.pwl_moments_f32, k.table_moments_f32});
  }

 private:
  PackedConvF32 packed_;
  Epilogue epilogue_;
};

}  // namespace

OpPtr make_attentive_pool_s8(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<AttentivePoolS8>(args, desc, isa);
}

OpPtr make_attentive_pool_s16(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<AttentivePoolS16>(args, desc, isa);
}

OpPtr make_attentive_pool_f32(const OpArgs& args, const OpDesc& desc, Isa isa) {
  return std::make_unique<AttentivePoolF32>(args, desc, isa);
}

}  // namespace earmark
