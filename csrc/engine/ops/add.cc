// add_s8 and add_f32: a residual added to frames, these scaled by constants or by a gate of the
// recording; then a ReLU, if asked for.
#include "engine/ops/elementwise.h"
#include "engine/ops/ops.h"

namespace earmark {
namespace {

class Add : public Op {
 public:
  Add(const OpArgs& args, const OpDesc& desc, DType dtype) : Op(desc) {
    in_ = &args.in(Kind::kFrames, dtype);
    residual_ = &args.tensor("residual", desc.residual, Kind::kFrames, dtype, in_->channels);
    out = &args.tensor("out", desc.out, Kind::kFrames, dtype, in_->channels);
    args.check(in_->width == out->width && residual_->width == out->width, "widths ", in_->width,
               ", ", residual_->width, " and ", out->width, " differ");
    frames_in = {in_, residual_};
    for (const Tensor* t : frames_in) {
      args.check(!t->overlaps(*out) || t->offset == out->offset, "'", out->name,
                 "' would overwrite what is still to be read of '", t->name, "'");
    }
    if (!desc.gate.empty()) {
      gate_ = &args.tensor("gate", desc.gate, Kind::kVector, DType::kF32, in_->channels);
      vectors_in = {gate_};
    }
    relu_ = args.flag("relu");
  }

 protected:
  const float* gate(const Walk& walk) const {
    return gate_ == nullptr ? nullptr : walk[*gate_].vector<float>();
  }

  // body(x, r, out) with the first row of each block and its count.
  template <class T, class Body>
  void for_rows(Walk& walk, Range range, const Body& body) const {
    const Place& x = walk[*in_];
    const Place& r = walk[*residual_];
    const Place& y = walk[*out];
    for_row_blocks(walk, range, y.width, in_->channels, [&](int row, int rows) {
      body(x.row<T>(range.begin) + row * x.stride, x.stride, r.row<T>(range.begin) + row * r.stride,
           r.stride, y.row<T>(range.begin) + row * y.stride, y.stride, rows);
    });
  }

  const Tensor* in_;
  const Tensor* residual_;
  const Tensor* gate_ = nullptr;
  bool relu_;
};

class AddS8 final : public Add {
 public:
  AddS8(const OpArgs& args, const OpDesc& desc)
      : Add(args, desc, DType::kS8),
        multiplier_(args.floats("multiplier", in_->channels)),
        residual_multiplier_(args.floats("residual_multiplier", 1)) {}

  size_t state_bytes() const override { return sizeof(float) * in_->channels; }

  void run(Walk& walk, Range range) const override {
    const float* multiplier = multiplier_.data();
    if (const float* gate_values = gate(walk)) {
      auto* gated = reinterpret_cast<float*>(walk.states[index].data());
      for (int c = 0; c < in_->channels; ++c) gated[c] = multiplier[c] * gate_values[c];
      multiplier = gated;
    }
    const Kernels::AddS8 params = {multiplier,           residual_multiplier_[0], in_->zero_u8(),
                                   residual_->zero_u8(), out->zero_u8(),          relu_};
    for_rows<uint8_t>(walk, range,
                      [&](const uint8_t* x, ptrdiff_t x_stride, const uint8_t* r,
                          ptrdiff_t r_stride, uint8_t* y, ptrdiff_t y_stride, int rows) {
                        walk.kernels->add_s8(params, x, x_stride, r, r_stride, y, y_stride, rows,
                                             in_->channels);
                      });
  }

 private:
  AlignedBuffer<float> multiplier_, residual_multiplier_;
};

class AddF32 final : public Add {
 public:
  AddF32(const OpArgs& args, const OpDesc& desc) : Add(args, desc, DType::kF32) {}

  void run(Walk& walk, Range range) const override {
    const float* gate_values = gate(walk);
    for_rows<float>(walk, range,
                    [&](const float* x, ptrdiff_t x_stride, const float* r, ptrdiff_t r_stride,
                        float* y, ptrdiff_t y_stride, int rows) {
                      walk.kernels->add_f32(x, x_stride, gate_values, r, r_stride, relu_, y,
                                            y_stride, rows, in_->channels);
                    });
  }
};

}  // namespace

OpPtr make_add_s8(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<AddS8>(args, desc);
}

OpPtr make_add_f32(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<AddF32>(args, desc);
}

}  // namespace earmark
