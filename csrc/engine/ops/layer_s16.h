// What layers with 16-bit inputs or weights have in common. Both are taken apart into planes of
// bytes, which the int8 kernels multiply; the sums of the planes make one float32 number.
#pragma once

#include <vector>

#include "cpu/pack_conv.h"
#include "engine/op_args.h"

namespace earmark {

class LayerS16 {
 public:
  // Reads `weight`, of that shape, `epilogue`, `relu` and `input_zero`. `in` is s8 or s16, weights
  // are int8 or int16.
  LayerS16(const OpArgs& args, const OpDesc& desc, Isa isa, const ConvShape& shape,
           const Tensor& in, const std::vector<int64_t>& weight_shape);

  // How the weights lie; the panels of all their planes are alike.
  const PackedConvS8& packed() const { return packed_[0]; }
  const float* offset() const { return epilogue_.offset.data(); }
  bool has_affine() const { return epilogue_.gain.size() != 0; }
  // Of int8: each plane of the inputs with each of the weights.
  int products() const { return planes_in_ * static_cast<int>(packed_.size()); }
  int64_t weight_bytes() const;

  // For one call of `run`.
  size_t scratch_bytes(int max_rows) const { return layout(max_rows).bytes; }
  // Before it: what rows [row_begin, row_end), counted from time position `first`, read of a frames
  // input; or of a vector.
  void place_rows(const Place& in, int width_out, int first, int row_begin, int row_end,
                  char* scratch, int max_rows) const;
  void place_vector(const Place& in, char* scratch) const;
  // out[r * out_stride + c] for rows [0, n_rows) and the channels of some panels.
  void run(const Kernels& k, char* scratch, int max_rows, int n_rows, int panel_begin,
           int panel_end, const float* offset, const LookupTable* table, float* out,
           ptrdiff_t out_stride) const;

 private:
  struct Layout {
    size_t gathered, kernel, sums, bytes;
    int gathered_stride;
  };
  // Pointers [planes][rows][taps] at the begin; then as the plane of the weights that asks for most
  // needs it.
  Layout layout(int max_rows) const;

  int planes_in_;
  int channels_in_;
  std::vector<PackedConvS8> packed_;              // high, low; or one
  std::vector<AlignedBuffer<int32_t>> initials_;  // [planes of the input][those of the weights]
  Epilogue epilogue_;
  bool relu_;
  AlignedBuffer<uint8_t> zero_row_;
};

}  // namespace earmark
