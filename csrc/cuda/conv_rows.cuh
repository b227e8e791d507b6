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

// The rows of a tile. All threads fill them; a barrier has to follow.
template <class Tile>
struct ConvRows {
  ConvRow row[Tile::kRows];
  int recording[Tile::kRows];

  __device__ __forceinline__ void fill(const ConvShape& shape, const Ragged& in, int in_width,
                                       const Ragged& out, int out_width, int64_t first_row) {
    for (int i = threadIdx.x; i < Tile::kRows; i += Tile::kThreads) {
      row[i] = conv_row(shape, in, in_width, out, out_width, first_row + i, &recording[i]);
    }
  }
};

// What rows are put together from: frames of bytes, and what zero padding reads of them.
struct ConvSource {
  const ConvShape& shape;
  Frames<const int8_t> in;
  const int8_t* input_zero;
  Vectors<const float> found;  // in place of input_zero, or null

  // Whether chunks can be copied as they are.
  bool whole_chunks() const {
    return reinterpret_cast<uintptr_t>(in.data) % kChunk == 0 && in.stride % kChunk == 0 &&
           (shape.c_in % kChunk == 0 || shape.taps() == 1);
  }
};

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
  __device__ __forceinline__ ConvRowLoader(const ConvSource& source, const ConvRows<Tile>& rows,
                                           int first_step)
      : source_(source), rows_(rows) {
    next_.advance(source.shape, first_step * Tile::kStep + chunk() * kChunk);
    if constexpr (kWhole) find_positions();
  }

  // Steps come in order.
  __device__ __forceinline__ void load(int8_t* to) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      int8_t* place = to + Tile::place(row(i), chunk());
      if constexpr (kWhole) {
        load_whole(place, i);
      } else {
        load_bytes(place, row(i));
      }
    }
    if (!is_tap()) return;
    const TapChannel before = next_;
    next_.advance(source_.shape, Tile::kStep);
    if constexpr (kWhole) {
      if (next_.time != before.time || next_.width != before.width) find_positions();
    }
  }

 private:
  static constexpr int kChunks = Tile::kStep / kChunk;
  static constexpr int kEach = Tile::kRows * kChunks / Tile::kThreads;  // chunks of a thread
  static constexpr int kPadding = -1, kNothing = -2;

  static __device__ __forceinline__ int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }
  static __device__ __forceinline__ int row(int i) {
    return (i * Tile::kThreads + static_cast<int>(threadIdx.x)) / kChunks;
  }

  // Behind the last tap there is nothing; its weights are 0.
  __device__ __forceinline__ bool is_tap() const { return next_.time < source_.shape.time.kernel; }

  // Where this tap of the thread's rows is read.
  __device__ __forceinline__ void find_positions() {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const ConvRow& r = rows_.row[row(i)];
      positions_[i] = r.length == 0 || !is_tap()
                          ? kNothing
                          : source_position(source_.shape, r, source_.in.width, next_);
    }
  }

  __device__ __forceinline__ void load_whole(int8_t* place, int i) {
    const int position = positions_[i];
    if (position == kPadding) {
      pad(place, row(i));
      return;
    }
    const int8_t* from = source_.in.data;
    int count = 0;
    if (position != kNothing) {
      from += position * source_.in.stride + next_.channel;
      const int rest = source_.shape.c_in - next_.channel;
      count = rest < kChunk ? rest : kChunk;
    }
    copy_async_16(place, from, count);
  }

  __device__ __forceinline__ void load_bytes(int8_t* place, int row) {
    const ConvRow& r = rows_.row[row];
    alignas(16) int8_t bytes[kChunk];
    TapChannel at = next_;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      bytes[i] = 0;
      if (r.length != 0 && at.time < source_.shape.time.kernel) {
        const int position = source_position(source_.shape, r, source_.in.width, at);
        bytes[i] = position < 0 ? zero_of(row, at.channel)
                                : source_.in.data[position * source_.in.stride + at.channel];
        at.advance(source_.shape, 1);
      }
    }
    *reinterpret_cast<int4*>(place) = *reinterpret_cast<const int4*>(bytes);
  }

  // What zero padding reads: the zero point.
  __device__ __forceinline__ void pad(int8_t* place, int row) {
    if (source_.found.data == nullptr) {
      *reinterpret_cast<int4*>(place) =
          *reinterpret_cast<const int4*>(source_.input_zero + next_.channel);
      return;
    }
    const int four = static_cast<int>((zero_of(row, 0) & 0xffu) * 0x01010101u);
    *reinterpret_cast<int4*>(place) = int4{four, four, four, four};
  }
  __device__ __forceinline__ int8_t zero_of(int row, int channel) {
    const Vectors<const float>& found = source_.found;
    if (found.data == nullptr) return source_.input_zero[channel];
    const float* v = found.data + rows_.recording[row] * found.stride;
    return static_cast<int8_t>(zero_u8(FoundQuantization{v[0], v[1], v[2]}) - 128);
  }

  const ConvSource source_;
  const ConvRows<Tile>& rows_;
  TapChannel next_;
  int positions_[kEach];  // or kPadding, kNothing
};

}  // namespace earmark::cuda
