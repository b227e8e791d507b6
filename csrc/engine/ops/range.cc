// range_f32: the quantization whose 256 steps cover all values of a recording's frames or vector.
#include "engine/ops/ops.h"

namespace earmark {
namespace {

// The order of values does not matter, so any units may be merged: few enough for a small state,
// enough for all threads.
constexpr int kUnits = 64;
constexpr int kValuesPerUnit = 1 << 14;

class RangeF32 final : public Op {
 public:
  RangeF32(const OpArgs& args, const OpDesc& desc)
      : Op(desc), kind_(args.find("in", desc.in).kind), in_(&args.in(kind_, DType::kF32)) {
    out = &args.tensor("out", desc.out, Kind::kVector, DType::kF32, kFoundSize);
    (kind_ == Kind::kFrames ? frames_in : vectors_in) = {in_};
  }

  size_t state_bytes() const override { return sizeof(Extremes) * kUnits; }

  void begin(Walk& walk) const override { std::fill_n(extremes(walk), kUnits, Extremes{}); }

  void run(Walk& walk, Range range) const override {
    if (kind_ == Kind::kVector) {
      begin(walk);
      extremes(walk)->cover(*walk.kernels, walk[*in_].vector<float>(), 0, 1, in_->channels);
      end(walk);
      return;
    }
    const Place& x = walk[*in_];
    const int rows = range.size() * x.width;
    const int least = std::max(1, kValuesPerUnit / in_->channels);
    const int step = std::max((rows + kUnits - 1) / kUnits, least);
    walk.pool->parallel_for((rows + step - 1) / step, [&](int unit, int) {
      const int first = unit * step;
      const float* from = x.row<float>(range.begin) + first * x.stride;
      extremes(walk)[unit].cover(*walk.kernels, from, x.stride, std::min(step, rows - first),
                                 in_->channels);
    });
  }

  void end(Walk& walk) const override {
    const Extremes* parts = extremes(walk);
    Extremes all;
    for (int i = 0; i < kUnits; ++i) {
      all.low = std::min(all.low, parts[i].low);
      all.high = std::max(all.high, parts[i].high);
    }
    const FoundQuantization found = find_quantization(all.low, all.high);
    auto* y = walk[*out].vector<float>();
    y[0] = found.scale;
    y[1] = found.inverse;
    y[2] = found.zero;
  }

 private:
  // Both contain 0, so that it is exact in int8.
  struct Extremes {
    float low = 0.0f;
    float high = 0.0f;

    void cover(const Kernels& k, const float* x, ptrdiff_t stride, int rows, int channels) {
      k.range_f32(x, stride, rows, channels, &low, &high);
    }
  };

  Extremes* extremes(Walk& walk) const {
    return reinterpret_cast<Extremes*>(walk.states[index].data());
  }

  Kind kind_;
  const Tensor* in_;
};

}  // namespace

OpPtr make_range_f32(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<RangeF32>(args, desc);
}

}  // namespace earmark
