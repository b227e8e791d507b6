// Which recording a position belongs to, and the tiles of a ragged batch.
#pragma once

#include "cuda/launch.h"
#include "cuda/tensors.h"

namespace earmark::cuda {

// The recording whose positions `row` is among: the last whose first position is not behind it.
__device__ __forceinline__ int recording_of(const Ragged& frames, int row) {
  int low = 0, high = frames.recordings - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (frames.offsets[middle] <= row) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// Time positions [begin, end) of the recording that has [first, first + length).
struct TimeTile {
  int recording;
  int first, length;
  int begin, end;  // counted from `first`
};

// Tiles of `size` time positions that do not cross recordings. The host knows only the sum of the
// lengths, hence a bound: recording r gets the tiles from offsets[r] / size + r on, which are at
// least as many as it needs; those left over are empty.
__host__ __device__ __forceinline__ int tile_bound(const Ragged& frames, int size) {
  return frames.rows / size + frames.recordings;
}

__device__ __forceinline__ TimeTile time_tile(const Ragged& frames, int size, int tile) {
  int low = 0, high = frames.recordings - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (frames.offsets[middle] / size + middle <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  TimeTile t;
  t.recording = low;
  t.first = frames.offsets[low];
  t.length = frames.offsets[low + 1] - t.first;
  t.begin = (tile - t.first / size - low) * size;
  t.begin = t.begin < t.length ? t.begin : t.length;
  t.end = t.begin + size < t.length ? t.begin + size : t.length;
  return t;
}

}  // namespace earmark::cuda
