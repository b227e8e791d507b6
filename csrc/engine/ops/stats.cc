// stats_s8 and stats_f32: mean, or mean and standard deviation, over all positions of a recording.
#include "engine/ops/ops.h"

namespace earmark {
namespace {

constexpr int kChannelsPerUnit = 64;

// Sum is int64_t for int8 frames, double for float32 ones.
template <class T, class Sum>
class Stats : public Op {
 public:
  Stats(const OpArgs& args, const OpDesc& desc, DType dtype) : Op(desc) {
    in_ = &args.in(Kind::kFrames, dtype);
    std_ = args.flag("std");
    out = &args.tensor("out", desc.out, Kind::kVector, DType::kF32, in_->channels * (std_ ? 2 : 1));
    frames_in = {in_};
    valid = args.valid();
    if (std_) variance_ = args.variance();
    args.check(std_ || !args.flag("unbiased"), "'unbiased' is of the standard deviation");
  }

  int length_out(int length_in) const override {
    EARMARK_CHECK(!variance_.unbiased || static_cast<int64_t>(length_in) * in_->width > 1, "op '",
                  name, "': an unbiased variance needs at least 2 positions");
    return length_in;
  }

  size_t state_bytes() const override { return 2 * sizeof(Sum) * in_->channels; }

  void begin(Walk& walk) const override {
    Sum* s1 = sums(walk);
    std::fill(s1, s1 + 2 * in_->channels, Sum{0});
  }

  void run(Walk& walk, Range range) const override {
    const Place& x = walk[*in_];
    const int channels = in_->channels;
    Sum* s1 = sums(walk);
    const int rows = (std::min(range.end, walk.counted(*in_, valid)) - range.begin) * x.width;
    if (rows <= 0) return;
    walk.pool->parallel_for((channels + kChannelsPerUnit - 1) / kChannelsPerUnit,
                            [&](int unit, int) {
                              const int c = unit * kChannelsPerUnit;
                              accumulate(*walk.kernels, x.row<T>(range.begin) + c, x.stride, rows,
                                         std::min(kChannelsPerUnit, channels - c), s1 + c,
                                         std_ ? s1 + channels + c : nullptr);
                            });
  }

  void end(Walk& walk) const override {
    const int64_t count = static_cast<int64_t>(walk.counted(*in_, valid)) * in_->width;
    const Sum* s1 = sums(walk);
    const Sum* s2 = s1 + in_->channels;
    auto* y = walk[*out].vector<float>();
    for (int c = 0; c < in_->channels; ++c) {
      const float unit = multiplier(c);
      y[c] = static_cast<float>(static_cast<double>(s1[c]) / static_cast<double>(count) - zero()) *
             unit;
      if (std_) {
        y[in_->channels + c] =
            static_cast<float>(variance_.deviation(scaled_variance(count, s1[c], s2[c]), count)) *
            unit;
      }
    }
  }

 protected:
  virtual void accumulate(const Kernels&, const T* x, ptrdiff_t stride, int rows, int channels,
                          Sum* s1, Sum* s2) const = 0;
  // T^2 * variance, as float64.
  virtual double scaled_variance(int64_t count, Sum s1, Sum s2) const = 0;
  virtual double zero() const { return 0.0; }
  virtual float multiplier(int /*channel*/) const { return 1.0f; }

  const Tensor* in_;

 private:
  Sum* sums(Walk& walk) const { return reinterpret_cast<Sum*>(walk.states[index].data()); }

  bool std_;
  Variance variance_;
};

class StatsS8 final : public Stats<uint8_t, int64_t> {
 public:
  StatsS8(const OpArgs& args, const OpDesc& desc)
      : Stats(args, desc, DType::kS8), multiplier_(args.floats("multiplier", in_->channels)) {}

 protected:
  void accumulate(const Kernels& k, const uint8_t* x, ptrdiff_t stride, int rows, int channels,
                  int64_t* s1, int64_t* s2) const override {
    k.stats_s8(x, stride, rows, channels, s1, s2);
  }
  double scaled_variance(int64_t count, int64_t s1, int64_t s2) const override {
    return static_cast<double>(count * s2 - s1 * s1);
  }
  double zero() const override { return in_->zero_point; }
  float multiplier(int channel) const override { return multiplier_[channel]; }

 private:
  AlignedBuffer<float> multiplier_;
};

class StatsF32 final : public Stats<float, double> {
 public:
  StatsF32(const OpArgs& args, const OpDesc& desc) : Stats(args, desc, DType::kF32) {}

 protected:
  void accumulate(const Kernels& k, const float* x, ptrdiff_t stride, int rows, int channels,
                  double* s1, double* s2) const override {
    k.stats_f32(x, stride, rows, channels, s1, s2);
  }
  double scaled_variance(int64_t count, double s1, double s2) const override {
    return static_cast<double>(count) * s2 - s1 * s1;
  }
};

}  // namespace

OpPtr make_stats_s8(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<StatsS8>(args, desc);
}

OpPtr make_stats_f32(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<StatsF32>(args, desc);
}

}  // namespace earmark
