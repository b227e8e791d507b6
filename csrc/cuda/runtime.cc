#include "cuda/runtime.h"

#include <stdexcept>

#include "core/check.h"

namespace earmark::cuda {

void check(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return;
  std::string reason = cudaGetErrorString(error);
#if defined(EARMARK_CUDA_EMULATED)
  const std::string more = emulation::take_error();
  if (!more.empty()) reason += ": " + more;
#else
  cudaGetLastError();  // else the next launch would report it again
#endif
  throw std::runtime_error(concat("CUDA: ", what, ": ", reason));
}

DeviceGuard::DeviceGuard(int ordinal) {
  check(cudaGetDevice(&before_), "asking for the device");
  if (before_ == ordinal) return;
  check(cudaSetDevice(ordinal), concat("choosing device ", ordinal));
  changed_ = true;
}

DeviceGuard::~DeviceGuard() {
  if (changed_) cudaSetDevice(before_);
}

template <Memory kMemory>
Buffer<kMemory>::Buffer(size_t bytes) : size_(bytes) {
  void* memory = nullptr;
  const bool on_device = kMemory == Memory::kDevice;
  check(
      on_device ? cudaMalloc(&memory, bytes) : cudaMallocHost(&memory, bytes),
      concat("asking for ", bytes, on_device ? " bytes of its memory" : " bytes of pinned memory"));
  data_ = static_cast<char*>(memory);
}

template <Memory kMemory>
Buffer<kMemory>::~Buffer() {
  if (data_ == nullptr) return;
  kMemory == Memory::kDevice ? cudaFree(data_) : cudaFreeHost(data_);
}

template <Memory kMemory>
bool Buffer<kMemory>::grow(size_t bytes) {
  if (bytes <= size_) return false;
  *this = Buffer();
  *this = Buffer(bytes + bytes / 8);
  return true;
}

template class Buffer<Memory::kHost>;
template class Buffer<Memory::kDevice>;

Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
}
Stream::~Stream() { cudaStreamDestroy(stream_); }

Event::Event(bool timed) {
  check(cudaEventCreateWithFlags(&event_, timed ? cudaEventDefault : cudaEventDisableTiming),
        "making an event");
}
Event::~Event() { cudaEventDestroy(event_); }

void Event::record(cudaStream_t stream) {
  check(cudaEventRecord(event_, stream), "recording an event");
}
void Event::hold_back(cudaStream_t stream) const {
  check(cudaStreamWaitEvent(stream, event_, 0), "waiting for an event");
}
void Event::wait() const { check(cudaEventSynchronize(event_), "running the network"); }

float Event::milliseconds_since(const Event& earlier) const {
  float time = 0;
  check(cudaEventElapsedTime(&time, earlier.event_, event_), "timing");
  return time;
}

Graph::Graph(cudaStream_t stream, const Enqueue& enqueue) {
  // Other threads may allocate memory meanwhile.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
  cudaGraph_t graph = nullptr;
  try {
    enqueue(stream);
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(stream, &graph), "recording a graph");
  const cudaError_t error = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  check(error, "making a graph");
}

Graph::~Graph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

void Graph::launch(cudaStream_t stream) const {
  check(cudaGraphLaunch(graph_, stream), "launching a graph");
}

}  // namespace earmark::cuda
