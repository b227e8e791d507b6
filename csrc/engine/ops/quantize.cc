// quantize_s8, quantize_s16 and dequantize_f32, on frames and on vectors; affine_f32, on vectors.
#include "engine/ops/elementwise.h"
#include "engine/ops/ops.h"

namespace earmark {
namespace {

// Frames to frames or vector to vector of the same size.
class Convert : public Op {
 public:
  Convert(const OpArgs& args, const OpDesc& desc, DType from, DType to) : Op(desc) {
    kind_ = args.find("in", desc.in).kind;
    in_ = &args.in(kind_, from);
    out = &args.tensor("out", desc.out, kind_, to, in_->channels);
    args.check(in_->width == out->width, "widths ", in_->width, " and ", out->width, " differ");
    (kind_ == Kind::kFrames ? frames_in : vectors_in) = {in_};
  }

 protected:
  // body(input row, stride, output row, stride, rows) over the range; a vector is one row.
  template <class From, class To, class Body>
  void for_rows(Walk& walk, Range range, const Body& body) const {
    const Place& from = walk[*in_];
    const Place& to = walk[*out];
    if (kind_ == Kind::kVector) {
      body(from.vector<From>(), 0, to.vector<To>(), 0, 1);
      return;
    }
    for_row_blocks(walk, range, to.width, in_->channels, [&](int row, int rows) {
      body(from.row<From>(range.begin) + row * from.stride, from.stride,
           to.row<To>(range.begin) + row * to.stride, to.stride, rows);
    });
  }

  Kind kind_;
  const Tensor* in_;
};

class QuantizeS8 final : public Convert {
 public:
  QuantizeS8(const OpArgs& args, const OpDesc& desc)
      : Convert(args, desc, DType::kF32, DType::kS8),
        quantization_(args.found_quantization("quantization", desc.quantization)) {
    if (quantization_ != nullptr) {
      vectors_in.push_back(quantization_);
      offset_ = AlignedBuffer<float>(in_->channels);
    } else {
      multiplier_ = args.floats("multiplier", in_->channels);
      offset_ = args.floats("offset", in_->channels);
    }
  }

  size_t state_bytes() const override {
    return quantization_ == nullptr ? 0 : sizeof(float) * in_->channels;
  }

  void run(Walk& walk, Range range) const override {
    const float* multiplier = multiplier_.data();
    int zero = out->zero_u8();
    if (quantization_ != nullptr) {
      const FoundQuantization found = walk.found(*quantization_);
      auto* inverse = reinterpret_cast<float*>(walk.states[index].data());
      std::fill_n(inverse, in_->channels, found.inverse);
      multiplier = inverse;
      zero = zero_u8(found);
    }
    for_rows<float, uint8_t>(
        walk, range,
        [&](const float* x, ptrdiff_t x_stride, uint8_t* q, ptrdiff_t q_stride, int rows) {
          walk.kernels->quantize_s8(x, x_stride, q, q_stride, rows, in_->channels, multiplier,
                                    offset_.data(), zero);
        });
  }

 private:
  const Tensor* quantization_;
  AlignedBuffer<float> multiplier_, offset_;
};

class QuantizeS16 final : public Convert {
 public:
  QuantizeS16(const OpArgs& args, const OpDesc& desc)
      : Convert(args, desc, DType::kF32, DType::kS16),
        multiplier_(args.floats("multiplier", in_->channels)),
        offset_(args.floats("offset", in_->channels)) {}

  void run(Walk& walk, Range range) const override {
    for_rows<float, uint16_t>(
        walk, range,
        [&](const float* x, ptrdiff_t x_stride, uint16_t* q, ptrdiff_t q_stride, int rows) {
          walk.kernels->quantize_s16(x, x_stride, reinterpret_cast<uint8_t*>(q), 2 * q_stride, rows,
                                     in_->channels, multiplier_.data(), offset_.data(),
                                     out->zero_u16());
        });
  }

 private:
  AlignedBuffer<float> multiplier_, offset_;
};

class DequantizeF32 final : public Convert {
 public:
  DequantizeF32(const OpArgs& args, const OpDesc& desc)
      : Convert(args, desc, DType::kS8, DType::kF32),
        multiplier_(args.floats("multiplier", in_->channels)) {}

  void run(Walk& walk, Range range) const override {
    for_rows<uint8_t, float>(
        walk, range,
        [&](const uint8_t* q, ptrdiff_t q_stride, float* x, ptrdiff_t x_stride, int rows) {
          walk.kernels->dequantize_f32(q, q_stride, x, x_stride, rows, in_->channels,
                                       multiplier_.data(), in_->zero_u8());
        });
  }

 private:
  AlignedBuffer<float> multiplier_;
};

class AffineF32 final : public Op {
 public:
  AffineF32(const OpArgs& args, const OpDesc& desc)
      : Op(desc), in_(&args.in(Kind::kVector, DType::kF32)) {
    out = &args.tensor("out", desc.out, Kind::kVector, DType::kF32, in_->channels);
    args.check(out != in_, "'", out->name, "' would overwrite itself");
    vectors_in = {in_};
    multiplier_ = args.floats("multiplier", in_->channels);
    offset_ = args.floats("offset", in_->channels);
  }

  void run(Walk& walk, Range) const override {
    walk.kernels->affine_f32(walk[*in_].vector<float>(), in_->channels, multiplier_.data(),
                             offset_.data(), walk[*out].vector<float>());
  }

 private:
  const Tensor* in_;
  AlignedBuffer<float> multiplier_, offset_;
};

}  // namespace

OpPtr make_affine_f32(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<AffineF32>(args, desc);
}

OpPtr make_quantize_s8(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<QuantizeS8>(args, desc);
}

OpPtr make_quantize_s16(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<QuantizeS16>(args, desc);
}

OpPtr make_dequantize_f32(const OpArgs& args, const OpDesc& desc, Isa) {
  return std::make_unique<DequantizeF32>(args, desc);
}

}  // namespace earmark
