#include "engine/ops/layer_s8.h"

namespace earmark {

LayerS8::LayerS8(const OpArgs& args, const OpDesc& desc, Isa isa, const ConvShape& shape,
                 const Tensor& in, const std::vector<int64_t>& weight_shape)
    : quantization_(args.found_quantization("quantization", desc.quantization)),
      epilogue_(args.epilogue(shape.c_out, DType::kS8)),
      relu_(args.flag("relu")) {
  args.check(quantization_ == nullptr || !args.has("input_zero"),
             "'input_zero' beside a zero point that is found at run time");
  const std::vector<int8_t> zero =
      quantization_ == nullptr ? args.input_zero(in) : std::vector<int8_t>(in.channels, -127);
  packed_ = pack_conv_s8(isa, shape, args.weights_s8(weight_shape), zero.data());
  zero_row_ = AlignedBuffer<uint8_t>(shape.c_in);
  for (int i = 0; i < shape.c_in; ++i) zero_row_[i] = static_cast<uint8_t>(zero[i] + 128);
}

size_t LayerS8::state_bytes() const {
  if (quantization_ == nullptr) return 0;
  return (sizeof(int32_t) + sizeof(float)) * padded_outputs() + zero_row_.size();
}

LayerS8::Constants LayerS8::constants(const Walk& walk, char* state, const float* offset,
                                      int out_zero_u8) const {
  Constants c = {{packed_.initial.data(), epilogue_.multiplier.data(), offset,
                  epilogue_.gain.data(), epilogue_.shift.data(), relu_, out_zero_u8},
                 zero_row_.data()};
  if (quantization_ == nullptr) return c;
  const FoundQuantization found = walk.found(*quantization_);
  const int zero = zero_u8(found);
  auto* initial = reinterpret_cast<int32_t*>(state);
  auto* multiplier = reinterpret_cast<float*>(initial + padded_outputs());
  auto* zero_row = reinterpret_cast<uint8_t*>(multiplier + padded_outputs());
  for (size_t o = 0; o < padded_outputs(); ++o) {
    initial[o] = zero * packed_.initial[o];
    multiplier[o] = epilogue_.multiplier[o] * found.scale;
  }
  std::fill_n(zero_row, zero_row_.size(), static_cast<uint8_t>(zero));
  c.epilogue.initial = initial;
  c.epilogue.multiplier = multiplier;
  c.zero_row = zero_row;
  return c;
}

}  // namespace earmark
