#include "cuda/elementwise.cuh"
#include "cuda/max_pool.h"

namespace earmark::cuda {
namespace {

// Taps [begin, end) of an output that read the input. There is at least one.
struct Taps {
  int begin, end;
};
__device__ __forceinline__ Taps inside(const Axis& axis, int first, int size) {
  return {first < 0 ? -first : 0, axis.kernel < size - first ? axis.kernel : size - first};
}

template <class T, int kCount>
__global__ void max_pool_kernel(const MaxPool<T> call) {
  const int64_t positions = static_cast<int64_t>(call.out_frames.rows) * call.out.width;
  for_elements<kCount>(positions, call.shape.c_in, [&](int64_t position, int c, int n) {
    const int row = static_cast<int>(position / call.out.width);
    const int recording = recording_of(call.out_frames, row);
    const int first = call.in_frames.offsets[recording];
    const int length = call.in_frames.offsets[recording + 1] - first;
    const int time = (row - call.out_frames.offsets[recording]) * call.shape.time.stride -
                     call.shape.time.padding;
    const int width = static_cast<int>(position % call.out.width) * call.shape.width.stride -
                      call.shape.width.padding;
    const Taps down = inside(call.shape.time, time, length);
    const Taps across = inside(call.shape.width, width, call.in.width);
    Channels<T, kCount> most{};
    for (int kt = down.begin; kt < down.end; ++kt) {
      for (int kw = across.begin; kw < across.end; ++kw) {
        const int64_t from = static_cast<int64_t>(first + time + kt) * call.in.width + width + kw;
        Channels<T, kCount> x;
        x.load(call.in.data + from * call.in.stride + c, n);
        const bool begins = kt == down.begin && kw == across.begin;
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          most.value[i] = begins || x.value[i] > most.value[i] ? x.value[i] : most.value[i];
        }
      }
    }
    most.store(call.out.data + position * call.out.stride + c, n);
  });
}

template <class T>
cudaError_t max_pool(const char* of_vectors, const char* of_one, const MaxPool<T>& call,
                     const Launch& launch) {
  const bool vectors = aligned_to_vector(call.in) && aligned_to_vector(call.out);
  const ElementGrid g(call.out_frames, call.out.width, call.shape.c_in, vectors ? kVector : 1);
  return launch_kernel(vectors ? of_vectors : of_one,
                       vectors ? max_pool_kernel<T, kVector> : max_pool_kernel<T, 1>, g.grid,
                       g.block, 0, launch, call);
}

}  // namespace

cudaError_t max_pool_s8(const MaxPoolS8& call, const Launch& launch) {
  return max_pool("max_pool_s8/16", "max_pool_s8/1", call, launch);
}

cudaError_t max_pool_f32(const MaxPoolF32& call, const Launch& launch) {
  return max_pool("max_pool_f32/16", "max_pool_f32/1", call, launch);
}

}  // namespace earmark::cuda
