// The kernels of one instruction set, as one table of function pointers.
//
// Contract of all of them: raw pointers, no allocation, no exceptions, thread-safe; strides are in
// elements. Activations are uint8, u = q + 128 (core/quant.h). Rows are (time, width) positions.
// Kernels write only the elements named; convolutions may read up to kReadSlack bytes past the end
// of an input row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/epilogue_s8.h"
#include "core/quant.h"
#include "core/rans.h"
#include "core/softmax.h"
#include "cpu/cpu_features.h"
#include "cpu/tiles.h"

namespace earmark {

struct FbankTables;

inline constexpr int kReadSlack = 64;

inline constexpr int kPairedLine = 16;
inline constexpr int kOffsetSlack = 16;

// Some inputs' weights of one panel in groups of four inputs, for a kernel that sums products in
// int16 (pack_paired.h): `doubles` of two groups whose sums may be added there, `singles` of one,
// then `extra[j]` groups of the panel's j-th 8 channels. The kernel copies the inputs: a group of
// all four rows of a tile in a line of kPairedLine bytes, in three pairings one after another, 0 1
// 2 3, 0 2 1 3, 0 3 1 2, or in the first alone.
struct PairedBlock {
  const int8_t* weights;   // [doubles][2][panel][4], [singles][panel][4], [extra[j]][8][4] twice
  const int32_t* offsets;  // of each group in the tile's lines; kOffsetSlack more can be read
  int doubles;
  int singles;
  int extra[2];
};

// Rows [0, n_rows) x panels [panel_begin, panel_end) of a convolution.
template <class T, class W>
struct ConvCall {
  const T* const* rows;  // [n_rows][taps]: where c_in contiguous inputs of that tap are
  int n_rows;
  int taps;
  int c_in_padded;   // to a multiple of Packing::depth
  const W* weights;  // all panels
  int panel_begin;
  int panel_end;
  int c_out;
  const PairedBlock* paired;  // [panels][paired_blocks] and an end, or null: `weights` it is
  int paired_blocks;
  int pairings;
  void* scratch;  // (n_rows up to whole tiles) * Packing::scratch_bytes, 64-byte aligned
};

// So many float products are summed one after another, then added to the sum of those before: the
// error of a long sum grows with its length.
inline constexpr int kSumDepth = 128;

using ConvCallS8 = ConvCall<uint8_t, int8_t>;
using ConvCallF32 = ConvCall<float, float>;

struct EpilogueF32 {
  const float* offset;
  const float* gain;
  const float* shift;
  bool relu;
};

// Int32 sums over one plane of the inputs and one of the weights each: together they are the sum of
// `factor[i] * sums[i]`, exact in float64.
struct PlaneSums {
  static constexpr int kMost = 4;
  int count;                   // 1, 2 or 4
  const int32_t* sums[kMost];  // [n_rows][stride]
  double factor[kMost];
  ptrdiff_t stride;
};

// Sums of attentive pooling, by channel.
template <class T>
struct MomentsOf {
  T* s0;
  T* s1;
  T* s2;
};
using Moments = MomentsOf<int64_t>;
using MomentsF32 = MomentsOf<double>;

// A register-only loop, for the processor's peak: peak.h. `run` is null where there is none.
struct PeakLoop {
  const char* name = nullptr;
  int macs = 0;  // multiply-accumulates of one round
  void (*run)(int64_t rounds) = nullptr;
};

struct Kernels {
  Isa isa;
  Tiles tiles;
  PeakLoop peaks[2];

  // out[r * out_stride + c]. The caller's `out` points at channel 0 of row 0.
  void (*conv_s8)(const ConvCallS8&, const EpilogueS8&, uint8_t* out, ptrdiff_t out_stride);
  // The same, v as it is.
  void (*conv_s8_f32)(const ConvCallS8&, const EpilogueS8&, float* out, ptrdiff_t out_stride);
  // The int32 sums alone; acc[r * acc_stride + c - panel_begin * panel], written for whole panels.
  void (*conv_acc_s8)(const ConvCallS8&, const int32_t* initial, int32_t* acc,
                      ptrdiff_t acc_stride);
  // out[r * out_stride + c] = v of the planes' sum, rounded to float32 once; then the table's value
  // there, if there is one.
  void (*combine_s16)(const PlaneSums&, const EpilogueS8&, const LookupTable*, float* out,
                      ptrdiff_t out_stride, int n_rows, int channels);
  void (*conv_f32)(const ConvCallF32&, const EpilogueF32&, float* out, ptrdiff_t out_stride);

  // Widens [low, high] to the smallest and the largest value, NaN left out.
  void (*range_f32)(const float* x, ptrdiff_t x_stride, int n_rows, int channels, float* low,
                    float* high);
  // q = requantize(x * multiplier[c] + offset[c]).
  void (*quantize_s8)(const float* x, ptrdiff_t x_stride, uint8_t* q, ptrdiff_t q_stride,
                      int n_rows, int channels, const float* multiplier, const float* offset,
                      int zero_u8);
  // The same to u = q + 32768: the high bytes of a row's channels, then the low ones.
  void (*quantize_s16)(const float* x, ptrdiff_t x_stride, uint8_t* q, ptrdiff_t q_stride,
                       int n_rows, int channels, const float* multiplier, const float* offset,
                       int zero_u16);
  void (*dequantize_f32)(const uint8_t* q, ptrdiff_t q_stride, float* x, ptrdiff_t x_stride,
                         int n_rows, int channels, const float* multiplier, int zero_u8);

  // y = x * multiplier[c] + offset[c].
  void (*affine_f32)(const float* x, int channels, const float* multiplier, const float* offset,
                     float* y);

  // v = (x - zx) * multiplier[c] + (r - zr) * residual_multiplier -> ReLU -> requantize.
  struct AddS8 {
    const float* multiplier;
    float residual_multiplier;
    int x_zero_u8, r_zero_u8, out_zero_u8;
    bool relu;
  };
  void (*add_s8)(const AddS8&, const uint8_t* x, ptrdiff_t x_stride, const uint8_t* r,
                 ptrdiff_t r_stride, uint8_t* out, ptrdiff_t out_stride, int n_rows, int channels);
  // out = x * gate[c] + r -> ReLU, gate null = 1.
  void (*add_f32)(const float* x, ptrdiff_t x_stride, const float* gate, const float* r,
                  ptrdiff_t r_stride, bool relu, float* out, ptrdiff_t out_stride, int n_rows,
                  int channels);

  // out[r * out_stride + c] = the largest of rows[r * taps + k][c], k < taps; taps >= 1.
  void (*max_pool_s8)(const uint8_t* const* rows, int taps, uint8_t* out, ptrdiff_t out_stride,
                      int n_rows, int channels);
  void (*max_pool_f32)(const float* const* rows, int taps, float* out, ptrdiff_t out_stride,
                       int n_rows, int channels);

  // Adds sum q and sum q*q of the rows to s1 and s2; s2 may be null.
  void (*stats_s8)(const uint8_t* x, ptrdiff_t x_stride, int n_rows, int channels, int64_t* s1,
                   int64_t* s2);
  void (*stats_f32)(const float* x, ptrdiff_t x_stride, int n_rows, int channels, double* s1,
                    double* s2);

  // Output of a table layer: out[c] = table[index(v)], v from int32 sums as in EpilogueS8.
  void (*table_s8)(const int32_t* acc, ptrdiff_t acc_stride, const EpilogueS8&, const int8_t* table,
                   int table_size, uint8_t* out, ptrdiff_t out_stride, int n_rows, int channels);
  void (*tanh_f32)(float* x, ptrdiff_t x_stride, int n_rows, int channels);

  // Attentive pooling, `columns` of some panels side by side: maximum of the sums, then the moments
  // of q weighted with the numerators.
  void (*max_s32)(const int32_t* acc, int n_rows, int columns, int32_t* maximum);
  void (*softmax_moments_s8)(const int32_t* acc, int n_rows, int columns, const int32_t* maximum,
                             const float* multiplier, const uint8_t* x, ptrdiff_t x_stride,
                             int channels, const Moments&);
  void (*pwl_moments_s8)(const int32_t* acc, int n_rows, int columns, const float* multiplier,
                         const float* offset, const PiecewiseLinear&, const uint8_t* x,
                         ptrdiff_t x_stride, int channels, const Moments&);
  void (*table_moments_s8)(const int32_t* acc, int n_rows, int columns, const float* multiplier,
                           const float* offset, const LookupTable&, const uint8_t* x,
                           ptrdiff_t x_stride, int channels, const Moments&);
  void (*max_f32)(const float* logits, int n_rows, int columns, int channels, float* maximum);
  void (*softmax_moments_f32)(const float* logits, int n_rows, int columns, const float* maximum,
                              const float* x, ptrdiff_t x_stride, int channels, const MomentsF32&);
  void (*pwl_moments_f32)(const float* logits, int n_rows, int columns, const PiecewiseLinear&,
                          const float* x, ptrdiff_t x_stride, int channels, const MomentsF32&);
  void (*table_moments_f32)(const float* logits, int n_rows, int columns, const LookupTable&,
                            const float* x, ptrdiff_t x_stride, int channels, const MomentsF32&);
  // The same with the integer numerators of int8 pooling.
  void (*softmax_moments_s16)(const float* logits, int n_rows, int columns, const float* maximum,
                              const float* x, ptrdiff_t x_stride, int channels, const MomentsF32&);
  void (*pwl_moments_s16)(const float* logits, int n_rows, int columns, const PiecewiseLinear&,
                          const float* x, ptrdiff_t x_stride, int channels, const MomentsF32&);
  void (*table_moments_s16)(const float* logits, int n_rows, int columns, const LookupTable&,
                            const float* x, ptrdiff_t x_stride, int channels, const MomentsF32&);

  // Softmax of each of `rows` rows of n contiguous values; out may be x. -Inf weighs 0, NaN makes
  // its row NaN. Where all is -Inf, exp gives NaN as in torch, the others 0.
  void (*softmax_f32)(const float* x, float* out, int64_t rows, int64_t n);
  void (*pwl_softmax_f32)(const PiecewiseLinear&, const float* x, float* out, int64_t rows,
                          int64_t n);
  void (*table_softmax_f32)(const LookupTable&, const float* x, float* out, int64_t rows,
                            int64_t n);

  // Logarithms of mel energies, before the normalisation: out[i * out_stride + m] for frames
  // `frame`
  // + i, i < n_frames <= FbankGeometry::kLanes, of the waveform. Returns the largest.
  float (*fbank_f32)(const FbankTables&, const float* samples, int64_t n_samples, int64_t frame,
                     int n_frames, float* out, ptrdiff_t out_stride);
  // x = max(x, floor), minus its mean over the rows; in place.
  void (*center_f32)(float* x, ptrdiff_t x_stride, int n_rows, int channels, float floor);
  // x = (x - mean) / (standard deviation of n - 1 + min_deviation) over at least 2 rows; in place.
  void (*standardize_f32)(float* x, ptrdiff_t x_stride, int n_rows, int channels,
                          double min_deviation);
  // x = (max(x, floor) + offset) * scale; in place.
  void (*scale_f32)(float* x, ptrdiff_t x_stride, int n_rows, int channels, float floor,
                    float offset, float scale);

  // The matrix whose code is [begin, end) of a stream; false where it is not one.
  bool (*decode_rans)(const RansTables&, const RansMatrix&, const uint8_t* begin,
                      const uint8_t* end, uint8_t* out);

  // out = (u - zero) * step[r] within [-127, 127], rounded half to even.
  struct Levels {
    int64_t rows, columns;
    const float* step;
    int zero;
    bool is_signed;  // u is int8, else uint8
  };
  void (*restore_levels)(const Levels&, const uint8_t* u, int8_t* out);
};

// Null where the ISA is not built; `kernels` throws then.
const Kernels* find_kernels(Isa isa);
const Kernels& kernels(Isa isa);

// "op/isa" of the last kernel that this thread ran, written by the kernel itself; tests ask for it.
extern thread_local const char* last_kernel;

}  // namespace earmark
