// Rows of the implicit matrix of a convolution: row m holds the inputs of output position m, taps
// one after another, and is put together in shared memory only.
#pragma once

#include "cuda/conv_s8.h"
#include "cuda/gemm_s8.cuh"
#include "cuda/ragged.cuh"

namespace earmark::cuda {

// Where the inputs of an output position are. `length` is 0 behind the last position.
struct alignas(16) ConvRow {
  int first;        // input position of the recording's first frame
  int length;       // time positions of the recording
  int time, width;  // of tap 0, before padding is looked at
};

__device__ __forceinline__ ConvRow conv_row(const ConvShape& shape, const Ragged& in, int in_width,
                                            const Ragged& out, int out_width, int64_t position,
                                            int* recording) {
  *recording = 0;
  if (position >= static_cast<int64_t>(out.rows) * out_width) return {0, 0, 0, 0};
  const int row = static_cast<int>(position) / out_width;
  const int r = recording_of(out, row);
  *recording = r;
  const int first = in.offsets[r];
  return {
      first * in_width, in.offsets[r + 1] - first,
      (row - out.offsets[r]) * shape.time.stride - shape.time.padding,
      (static_cast<int>(position) - row * out_width) * shape.width.stride - shape.width.padding};
}

// Position of a byte of a row: tap and channel.
struct TapChannel {
  int time = 0, width = 0, channel = 0;

  // `by` more channels, on to the next taps.
  __device__ __forceinline__ void advance(const ConvShape& shape, int by) {
    channel += by;
    while (channel >= shape.c_in) {
      channel -= shape.c_in;
      if (++width == shape.width.kernel) {
        width = 0;
        ++time;
      }
    }
  }
};

// Input position that a tap of a row reads, or -1 for zero padding.
__device__ __forceinline__ int source_position(const ConvShape& shape, const ConvRow& row,
                                               int in_width, const TapChannel& at) {
  // ConvShape::source with what does not depend on the tap already added up.
  const auto source = [&](int position, int size) {
    if (position >= 0 && position < size) return position;
    if (shape.pad_mode == PadMode::kZero) return -1;
    return position < 0 ? -position : 2 * (size - 1) - position;
  };
  const int time = source(row.time + at.time * shape.time.dilation, row.length);
  const int width = source(row.width + at.width * shape.width.dilation, in_width);
  return time < 0 || width < 0 ? -1 : row.first + time * in_width + width;
}

// Copies chunks of the rows into a stage. kWhole: a chunk lies in one tap and is aligned, so that
// it is copied as it is; else bytes are gathered one by one.
template <class Tile, bool kWhole>
class ConvRowLoader {
 public:
  __device__ __forceinline__ ConvRowLoader(const ConvS8& call, const ConvRow* rows,
                                           const int* recordings, int first_step)
      : call_(call), rows_(rows), recordings_(recordings) {
    skip(first_step * kDepth + static_cast<int>(threadIdx.x) % kChunks * kChunk);
  }

  // Steps come in order.
  __device__ __forceinline__ void load(int8_t* to) {
    const int chunk = static_cast<int>(threadIdx.x) % kChunks;
#pragma unroll
    for (int i = 0; i < Tile::kRows * kChunks / Tile::kThreads; ++i) {
      const int row = (i * Tile::kThreads + static_cast<int>(threadIdx.x)) / kChunks;
      int8_t* place = to + swizzled(row, chunk);
      if constexpr (kWhole) {
        load_whole(place, row);
      } else {
        load_bytes(place, row);
      }
    }
    skip(kDepth);
  }

 private:
  // Behind the last tap there is nothing; its weights are 0.
  __device__ __forceinline__ void skip(int by) {
    if (next_.time < call_.shape.time.kernel) next_.advance(call_.shape, by);
  }

  __device__ __forceinline__ void load_whole(int8_t* place, int row) {
    const ConvRow& r = rows_[row];
    if (r.length == 0 || next_.time >= call_.shape.time.kernel) {
      copy_async_16(place, call_.in.data, 0);
      return;
    }
    const int position = source_position(call_.shape, r, call_.in.width, next_);
    if (position < 0) {
      pad(place, row);
      return;
    }
    const int rest = call_.shape.c_in - next_.channel;
    copy_async_16(place, call_.in.data + position * call_.in.stride + next_.channel,
                  rest < kChunk ? rest : kChunk);
  }

  __device__ __forceinline__ void load_bytes(int8_t* place, int row) {
    const ConvRow& r = rows_[row];
    alignas(16) int8_t bytes[kChunk];
    TapChannel at = next_;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      bytes[i] = 0;
      if (r.length != 0 && at.time < call_.shape.time.kernel) {
        const int position = source_position(call_.shape, r, call_.in.width, at);
        bytes[i] = position < 0 ? zero_of(row, at.channel)
                                : call_.in.data[position * call_.in.stride + at.channel];
        at.advance(call_.shape, 1);
      }
    }
    *reinterpret_cast<int4*>(place) = *reinterpret_cast<const int4*>(bytes);
  }

  // What zero padding reads: the zero point.
  __device__ __forceinline__ void pad(int8_t* place, int row) {
    if (call_.layer.found.data == nullptr) {
      *reinterpret_cast<int4*>(place) =
          *reinterpret_cast<const int4*>(call_.layer.weights.input_zero + next_.channel);
      return;
    }
    const int four = static_cast<int>((zero_of(row, 0) & 0xffu) * 0x01010101u);
    *reinterpret_cast<int4*>(place) = int4{four, four, four, four};
  }
  __device__ __forceinline__ int8_t zero_of(int row, int channel) {
    const Vectors<const float>& found = call_.layer.found;
    if (found.data == nullptr) return call_.layer.weights.input_zero[channel];
    const float* v = found.data + recordings_[row] * found.stride;
    return static_cast<int8_t>(zero_u8(FoundQuantization{v[0], v[1], v[2]}) - 128);
  }

  const ConvS8& call_;
  const ConvRow* rows_;
  const int* recordings_;
  TapChannel next_;
};

}  // namespace earmark::cuda
