// What int8 layers have in common: packed weights and the constants behind the sums. The input's
// quantization is fixed in the plan, or found anew in each recording.
#pragma once

#include "cpu/pack_conv.h"
#include "engine/op_args.h"

namespace earmark {

class LayerS8 {
 public:
  // Reads `weight`, of that shape, `epilogue`, `relu`, `input_zero` and `quantization`.
  LayerS8(const OpArgs& args, const OpDesc& desc, Isa isa, const ConvShape& shape, const Tensor& in,
          const std::vector<int64_t>& weight_shape);

  const PackedConvS8& packed() const { return packed_; }
  const Tensor* quantization() const { return quantization_; }
  const float* offset() const { return epilogue_.offset.data(); }

  // The constants of one recording.
  struct Constants {
    EpilogueS8 epilogue;
    const uint8_t* zero_row;  // what padding reads
  };
  size_t state_bytes() const;
  // In `state` where they depend on the recording.
  Constants constants(const Walk& walk, char* state, const float* offset, int out_zero_u8) const;

 private:
  size_t padded_outputs() const { return packed_.initial.size(); }

  const Tensor* quantization_;
  PackedConvS8 packed_;  // for a zero point of u = 1 where it is found at run time
  Epilogue epilogue_;
  bool relu_;
  AlignedBuffer<uint8_t> zero_row_;
};

}  // namespace earmark
