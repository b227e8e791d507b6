// Runs a plan on a CUDA device, with the bits of the CPU's engine where the network is of integers.
//
// Thread-safe: callers share the weights, each has working memory of its own. Each recording's
// result is the same bits alone and in a batch. Nothing is tuned to a shape: a length that was not
// seen before costs the host the layout of its memory, and one that comes again is launched as a
// graph. Does not survive fork.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/device/context.h"
#include "engine/device/front_end.h"
#include "engine/engine.h"

namespace earmark::device {

class DeviceEngine {
 public:
  // `memory`: bytes of working memory for the recordings that run at once; 0 takes a quarter of the
  // device's, at most 4 GiB. One recording alone may need more. Throws std::invalid_argument for a
  // plan that cannot run, std::runtime_error where the device is at fault.
  DeviceEngine(const std::vector<TensorDesc>& tensors, const std::vector<OpDesc>& ops, int ordinal,
               size_t memory = 0);
  ~DeviceEngine();

  int ordinal() const { return device_.ordinal; }
  int capability() const { return device_.capability; }
  const Tensor& input() const { return host_.input(); }
  const Tensor& output() const { return host_.output(); }
  int min_length() const { return host_.min_length(); }
  std::string why_not(int length) const { return host_.why_not(length); }
  // Bytes of device memory: of the weights, and for one recording of that length.
  size_t weight_bytes() const { return constants_.bytes(); }
  size_t arena_bytes(int length) const;

  // As Engine::run. Recordings and outputs may be on the device; then the work is queued on
  // `stream`, or on one of the engine's own for null `stream`, and where the outputs are on the
  // device, it may not be done when the call returns.
  template <class T>
  void run(const std::vector<Recording>& recordings, Memory in, T* outputs, Memory out,
           const cudaStream_t* stream) const;
  // As Engine::embed; the front end runs on the device as well.
  template <class T>
  void embed(const FrontEnd& front_end, const std::vector<Waveform>& waveforms, Memory in,
             T* outputs, Memory out, const cudaStream_t* stream) const;
  // As Engine's: op by op, nothing done together with another.
  std::map<std::string, TracedTensor> trace(const Recording& recording,
                                            std::map<std::string, std::string>* kernels) const;
  std::map<std::string, TracedTensor> trace(const FrontEnd& front_end, const Waveform& waveform,
                                            std::map<std::string, std::string>* kernels) const;
  // Of one batch, step by step as they run: what one kernel does together is one entry. Each step
  // is launched `times` times in a row, and its time is the mean: a single launch of a small one is
  // mostly the launch.
  std::vector<OpProfile> profile(const std::vector<Recording>& recordings, int times) const;

 private:
  class Lease;
  struct Part;
  struct Extra {
    size_t feature_bytes = 0, result_bytes = 0;
    size_t bytes = 0;
  };
  // Where an array's bytes go from.
  struct Source {
    const void* data;
    size_t bytes;
  };

  template <class T>
  void run_parts(std::vector<Part>& parts, Memory in, T* outputs, Memory out,
                 const cudaStream_t* stream) const;
  template <class T>
  void begin(Part& part, Context& context, Memory in, T* outputs, Memory out,
             const cudaStream_t* stream) const;
  void take_in(const Part& part, Context& context, const Batch& batch, Memory in,
               cudaStream_t stream, char* features) const;
  void copy_in(const std::vector<Source>& sources, Context& context, Memory in, char* to,
               cudaStream_t stream) const;
  Extra extra_memory(const std::vector<int>& lengths, Ends ends) const;
  void quantize_features(const Walk& walk, const char* features) const;
  void enqueue(const Batch& batch, Ends ends, const Context& context, cudaStream_t stream,
               char* features, char* result) const;
  template <class After>
  void walk_plain(const Part& part, const After& after) const;
  std::vector<Part> divide(const std::vector<int>& lengths, Memory in) const;
  const DeviceFrontEnd& device_front_end(const FrontEnd& front_end) const;
  std::map<std::string, TracedTensor> trace_part(const Part& part,
                                                 std::map<std::string, std::string>* kernels) const;
  TracedTensor copy(const Walk& walk, const Tensor& tensor) const;
  void check_process() const;

  Engine host_;  // checks the plan and knows its lengths; never runs
  cuda::Device device_;
  int64_t process_;
  size_t budget_ = 0;                             // bytes of working memory for one batch
  size_t recording_bytes_ = 0, frame_bytes_ = 0;  // what a recording adds to it, about
  Constants constants_;
  const float* input_multiplier_ = nullptr;
  const float* input_offset_ = nullptr;
  const float* output_multiplier_ = nullptr;
  std::vector<DeviceOpPtr> ops_, fused_;
  std::unique_ptr<Program> program_, plain_program_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Context>> idle_;
  mutable std::vector<std::unique_ptr<DeviceFrontEnd>> front_ends_;
};

}  // namespace earmark::device
