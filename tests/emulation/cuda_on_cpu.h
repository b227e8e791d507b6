// The CUDA execution model on the CPU: kernels of csrc/cuda, compiled as C++, are executed by tests
// on machines without a GPU.
//
// Every thread of a block is a fiber. Blocks run one after another in a random order; in a block, a
// random warp runs as far as it can, its lanes in a random order, so that a missing barrier shows
// as a wrong result for some seed. `__syncthreads` waits for all threads of the block, a warp
// operation for all of its lanes; where nobody can go on, the launch fails and says who waits for
// what. Shared memory and device memory start as garbage and are heap blocks of exactly their size,
// whose bounds AddressSanitizer sees. An asynchronous copy reads and writes at the wait that it
// must be finished at, and spoils its destination before. Nothing here models speed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "emulation/fiber.h"

#define __host__
#define __device__
#define __global__
#define __launch_bounds__(...)
#define __forceinline__ inline

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emulation {

constexpr int kWarp = 32;
constexpr int kGarbage = 0xa5;

struct AsyncCopy {
  void* to;
  const void* from;
  int bytes;  // copied; zeros up to `size`
  int size;
};

// A product of a warpgroup (ptx_on_cpu.h), under way until its group is waited for.
using GroupProduct = std::function<void()>;

struct Thread {
  dim3 index;
  int lane = 0;
  Fiber fiber;
  enum State { kReady, kAtBlock, kAtWarp, kDone } state = kReady;
  const char* at = "";                            // the operation that it waits in
  std::deque<std::vector<AsyncCopy>> copies{{}};  // the last group is open
  std::deque<std::vector<GroupProduct>> products{{}};
};

// Operands of one warp operation, by lane. Two of them take turns: no lane can reach the second
// operation after this one before all have left this one.
struct Exchange {
  alignas(16) unsigned char slot[kWarp][64];
};

struct Warp {
  std::vector<Thread*> lanes;
  Exchange exchange[2];
  int turn = 0;
};

// The launch that runs now; there is one at a time.
struct Machine {
  dim3 grid, block, block_index;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  Thread* current = nullptr;
  std::unique_ptr<unsigned char, decltype(&std::free)> shared{nullptr, &std::free};
  size_t shared_bytes = 0;
  std::mt19937 random{1};
  std::string error;
  // Matrices whose rows `ldmatrix` read from the same bank of shared memory, since the process
  // began: a swizzle that works has none.
  int64_t bank_conflicts = 0;
  // By 16 bytes of shared memory: the thread, counted from 1, whose asynchronous copy wgmma does
  // not see yet.
  std::vector<unsigned> unseen;
  std::mutex mutex;

  Warp& warp() { return warps[linear(current->index) / kWarp]; }
  unsigned linear(const dim3& i) const { return i.x + block.x * (i.y + block.y * i.z); }
  bool in_shared(const void* p, size_t bytes) const {
    const auto* begin = static_cast<const unsigned char*>(p);
    return begin >= shared.get() && begin + bytes <= shared.get() + shared_bytes;
  }
  unsigned& unseen_by_wgmma(const void* p) {
    return unseen[(static_cast<const unsigned char*>(p) - shared.get()) / 16];
  }
  void fail(const std::string& what) {
    if (error.empty()) error = what;
  }

  void wait(Thread::State state, const char* at) {
    current->state = state;
    current->at = at;
    current->fiber.yield();
  }

  // Once all threads of the warp or block have arrived, in the same operation.
  template <class Threads>
  bool release(const Threads& threads, Thread::State state) {
    const Thread* first = nullptr;
    const Thread* ended = nullptr;
    for (const auto& t : threads) {
      if (t->state == Thread::kDone) {
        ended = &*t;
      } else if (t->state != state) {
        return false;
      } else if (first == nullptr) {
        first = &*t;
      } else if (std::strcmp(first->at, t->at) != 0) {
        fail(std::string("threads wait together in ") + first->at + " and in " + t->at);
      }
    }
    if (first == nullptr) return false;
    if (ended != nullptr) fail(std::string(first->at) + " waits for threads that have ended");
    for (const auto& t : threads) {
      if (t->state == state) t->state = Thread::kReady;
    }
    return true;
  }

  // Runs the lanes of a warp until none of them can go on. Returns whether anything happened.
  bool run_warp(Warp& warp) {
    bool moved = false;
    for (bool again = true; again && error.empty();) {
      again = false;
      std::vector<Thread*> order = warp.lanes;
      std::shuffle(order.begin(), order.end(), random);
      for (Thread* t : order) {
        if (t->state != Thread::kReady) continue;
        current = t;
        t->fiber.resume();
        if (t->fiber.finished()) t->state = Thread::kDone;
        again = moved = true;
      }
      if (release(warp.lanes, Thread::kAtWarp)) {
        warp.turn ^= 1;
        again = true;
      }
    }
    return moved;
  }

  void run_block(const std::function<void()>& body) {
    // Stale contents of an earlier block must not help.
    if (shared_bytes != 0) std::memset(shared.get(), kGarbage, shared_bytes);
    unseen.assign(shared_bytes / 16 + 1, 0);
    warps.assign((threads.size() + kWarp - 1) / kWarp, Warp{});
    for (unsigned i = 0; i < threads.size(); ++i) {
      Thread* t = threads[i].get();
      t->index = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
      t->lane = i % kWarp;
      t->state = Thread::kReady;
      t->copies.assign(1, {});
      t->products.assign(1, {});
      t->fiber.start(body);
      warps[i / kWarp].lanes.push_back(t);
    }
    std::vector<size_t> order(warps.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    for (;;) {
      bool moved = false;
      std::shuffle(order.begin(), order.end(), random);
      for (const size_t i : order) moved |= run_warp(warps[i]);
      if (!error.empty()) return;
      if (release(threads, Thread::kAtBlock) || moved) continue;
      for (const auto& t : threads) {
        if (t->state != Thread::kDone) {
          fail("thread " + std::to_string(linear(t->index)) + " waits for ever in " + t->at);
          return;
        }
      }
      return;
    }
  }

  // Returns whether the kernel came to its end.
  bool run(dim3 grid_, dim3 block_, size_t bytes, const std::function<void()>& body) {
    const std::lock_guard<std::mutex> lock(mutex);
    grid = grid_;
    block = block_;
    shared_bytes = bytes;
    void* memory = nullptr;
    if (posix_memalign(&memory, 1024, std::max<size_t>(bytes, 1)) != 0) std::abort();
    shared.reset(static_cast<unsigned char*>(memory));
    threads.clear();
    for (unsigned i = 0; i < block.x * block.y * block.z; ++i) {
      threads.push_back(std::make_unique<Thread>());
    }
    std::vector<unsigned> blocks(grid.x * grid.y * grid.z);
    for (unsigned i = 0; i < blocks.size(); ++i) blocks[i] = i;
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (const unsigned i : blocks) {
      block_index = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
      run_block(body);
      if (!error.empty()) break;
    }
    return error.empty();
  }
};

inline Machine machine;

// What went wrong in the last launch that failed, and none any more.
inline std::string take_error() { return std::exchange(machine.error, std::string()); }
inline void seed(unsigned value) { machine.random.seed(value); }

// A warp operation: every lane leaves its operands, then `read(operands of lane i)` sees all.
template <class Operands, class Read>
auto exchange(const char* name, const Operands& operands, const Read& read) {
  static_assert(sizeof(Operands) <= sizeof(Exchange::slot[0]));
  Warp& warp = machine.warp();
  Exchange& e = warp.exchange[warp.turn];
  std::memcpy(e.slot[machine.current->lane], &operands, sizeof operands);
  machine.wait(Thread::kAtWarp, name);
  return read([&](int lane) {
    Operands other;
    std::memcpy(&other, e.slot[lane], sizeof other);
    return other;
  });
}

// A whole warp takes part: other masks are not modelled.
template <class T>
T shuffle(const char* name, unsigned mask, const T& value, int lane) {
  if (mask != 0xffffffffu) machine.fail(std::string(name) + " of a part of a warp");
  return exchange(name, value, [&](const auto& of) { return of(lane & (kWarp - 1)); });
}

template <class T, class F>
T atomic(T* address, const F& f) {
  const T old = *address;
  *address = f(old);
  return old;
}

inline void complete(const std::vector<AsyncCopy>& copies) {
  for (const AsyncCopy& c : copies) {
    machine.unseen_by_wgmma(c.to) = machine.linear(machine.current->index) + 1;
    std::memcpy(c.to, c.from, c.bytes);
    std::memset(static_cast<char*>(c.to) + c.bytes, 0, c.size - c.bytes);
  }
}

}  // namespace emulation

#define threadIdx (emulation::machine.current->index)
#define blockIdx (emulation::machine.block_index)
#define blockDim (emulation::machine.block)
#define gridDim (emulation::machine.grid)

inline void __syncthreads() {
  emulation::machine.wait(emulation::Thread::kAtBlock, "__syncthreads");
}
inline void __syncwarp() { emulation::machine.wait(emulation::Thread::kAtWarp, "__syncwarp"); }
inline void __threadfence() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return emulation::shuffle("__shfl_sync", mask, value, lane);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return emulation::shuffle("__shfl_xor_sync", mask, value,
                            emulation::machine.current->lane ^ bits);
}

template <class T>
T atomicAdd(T* address, T value) {
  return emulation::atomic(address, [&](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicExch(T* address, T value) {
  return emulation::atomic(address, [&](T) { return value; });
}
template <class T>
T atomicMax(T* address, T value) {
  return emulation::atomic(address, [&](T old) { return std::max(old, value); });
}

// Four products of signed bytes, added.
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 32; i += 8) {
    sum += static_cast<int8_t>(static_cast<unsigned>(a) >> i) *
           static_cast<int8_t>(static_cast<unsigned>(b) >> i);
  }
  return sum;
}

struct __half {
  _Float16 value;
};
inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half(float x) { return {static_cast<_Float16>(x)}; }

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// To nearest even; NaN stays NaN.
inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// The run time: one device, whose memory is the host's; everything is done when a call returns.
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorLaunchFailure = 719,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};

using EmulatedWork = std::vector<std::function<cudaError_t()>>;
// The null stream never records.
struct EmulatedStream {
  bool recording = false;
  EmulatedWork work;
};
using cudaStream_t = EmulatedStream*;
using cudaGraph_t = EmulatedWork*;
using cudaGraphExec_t = EmulatedWork*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };

namespace emulation {

// Does the work at once, or where the stream records a graph, leaves it to that.
template <class Work>
cudaError_t submit(cudaStream_t stream, const Work& work) {
  if (stream == nullptr || !stream->recording) return work();
  stream->work.push_back(work);
  return cudaSuccess;
}

}  // namespace emulation

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    default:
      return "unspecified launch failure";
  }
}

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (posix_memalign(memory, 256, std::max<size_t>(bytes, 1)) != 0) {
    return cudaErrorMemoryAllocation;
  }
  std::memset(*memory, emulation::kGarbage, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t stream) {
  return emulation::submit(stream, [=] {
    if (bytes != 0) std::memcpy(to, from, bytes);
    return cudaSuccess;
  });
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return emulation::submit(stream, [=] {
    std::memset(to, value, bytes);
    return cudaSuccess;
  });
}

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr || stream->recording) return cudaErrorInvalidValue;
  stream->recording = true;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->recording) return cudaErrorInvalidValue;
  stream->recording = false;
  *graph = new EmulatedWork(std::exchange(stream->work, {}));
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph,
                                        unsigned long long) {
  *ready = new EmulatedWork(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const auto& work : *graph) {
    if (const cudaError_t error = work(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
