// Runs a plan on recordings of any lengths.
//
// Thread-safe: any number of callers may run at once. Each recording's result is the same bits
// alone, in a batch, and with any number of threads. Survives fork: a child makes its own threads
// at its first call.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/check.h"
#include "engine/front_end.h"
#include "engine/op.h"
#include "engine/schedule.h"

namespace earmark {

// One recording's input: length x width x channels of the plan's input tensor, contiguous. A
// spectrogram's bands are the channels of a one-dimensional network, the width of a two-dimensional
// one. An int8 input may be given as float32, and is quantized first.
struct Recording {
  const void* data;
  int length;
  DType dtype;
};

// A tensor as an op left it.
struct TracedTensor {
  std::vector<int64_t>
      shape;  // frames: (length, channels), or (length, width, channels); vector: (channels)
  DType dtype;
  std::vector<char> data;  // int8 as q
};

// Rows of an s16 tensor's planes of bytes, u = q + 32768, to q.
void join_planes(std::vector<char>& rows, int channels);

// What one op took of one recording's walk.
struct OpProfile {
  std::string name;
  std::string op;
  std::string kernel;  // the one that ran last in it
  int64_t nanoseconds = 0;
  int64_t macs = 0;   // products with weights, context that was computed again included
  int64_t bytes = 0;  // of its inputs, its output and its weights, each counted once
};

class Engine {
 public:
  // Throws std::invalid_argument for a plan that cannot run. `threads` = 0 takes default_threads().
  Engine(const std::vector<TensorDesc>& tensors, const std::vector<OpDesc>& ops, Isa isa,
         int threads);
  ~Engine();

  Isa isa() const { return isa_; }
  int threads() const { return threads_; }
  const Tensor& input() const { return plan_.tensor(input_); }
  const Tensor& output() const { return plan_.tensor(output_); }
  int min_length() const { return min_length_; }
  // Empty if a recording of that many frames can be run.
  std::string why_not(int length) const { return scheduler_->why_not(length); }
  // The checked plan, for an engine of another device.
  const Plan& plan() const { return plan_; }
  const std::vector<std::unique_ptr<Op>>& ops() const { return ops_; }
  const Scheduler& scheduler() const { return *scheduler_; }
  // Throws std::invalid_argument, naming the value, for what cannot be run; of a waveform, returns
  // the frames that the front end makes of it.
  void check_recording(const Recording& recording) const;
  int checked_frames(const FrontEnd& front_end, const Waveform& waveform,
                     bool samples_are_here = true) const;
  template <class T>
  void check_output() const {
    EARMARK_CHECK((std::is_same_v<T, float>) || output().dtype == DType::kS8, "the plan's '",
                  output().name, "' is float32, not int8");
  }
  // Bytes of working memory for one recording of that length.
  size_t arena_bytes(int length) const { return scheduler_->make(length, false).arena_bytes; }

  // Embeddings, or class scores: recordings.size() x output().channels of T, float or int8_t; int8
  // is for plans whose output is int8, and float32 their real values.
  template <class T>
  void run(const std::vector<Recording>& recordings, T* outputs) const;
  // From waveforms: waveforms.size() x output().channels of T. Features exist for the recordings
  // at work only. Throws std::invalid_argument, naming the waveform, for one that cannot be run.
  template <class T>
  void embed(const FrontEnd& front_end, const std::vector<Waveform>& waveforms, T* outputs) const;
  // Every op's output, by tensor name, copied when the op had run; and which kernel ran last in
  // each op, by op name.
  std::map<std::string, TracedTensor> trace(const Recording& recording,
                                            std::map<std::string, std::string>* kernels) const;
  // From a waveform; the front end's kernel is that of "front_end".
  std::map<std::string, TracedTensor> trace(const FrontEnd& front_end, const Waveform& waveform,
                                            std::map<std::string, std::string>* kernels) const;
  // Time, work and traffic of every op, in the plan's order, on all threads.
  std::vector<OpProfile> profile(const Recording& recording) const;

 private:
  struct Context;
  struct Runtime;
  class Lease;

  // Runs on one recording in a context of its own, on the pool's threads.
  using Work = std::function<void(int recording, Context&, ThreadPool&)>;

  Runtime& runtime() const;
  using Observer = std::function<void(const Walk&, const Step&)>;
  void deal(const std::vector<int>& lengths, const Work& work) const;
  Recording features(const FrontEnd& front_end, const Waveform& waveform, int length,
                     Context& context, ThreadPool& pool) const;
  void make_ops(const std::vector<OpDesc>& descs);
  template <class T>
  void walk(Context& context, ThreadPool& pool, const Recording& recording, T* output) const;
  void quantize_input(Walk& walk, const Recording& recording) const;
  void copy_output(const Walk& walk, float* to) const;
  void copy_output(const Walk& walk, int8_t* to) const;
  // All steps of a prepared context; `after` is called after each, if it is there.
  void take_steps(Context& context, const Observer& after) const;
  void prepare(Context& context, ThreadPool& pool, const Recording& recording, bool keep_all) const;
  int64_t bytes_touched(const Walk& walk, const Op& op) const;
  TracedTensor copy(const Walk& walk, const Tensor& tensor) const;

  Plan plan_;
  Isa isa_;
  int threads_;
  int input_;
  int output_;
  int min_length_ = 0;
  AlignedBuffer<float> input_multiplier_, input_offset_;  // of an int8 input that has a scale
  std::vector<std::unique_ptr<Op>> ops_;
  std::unique_ptr<Scheduler> scheduler_;
  mutable std::atomic<Runtime*> runtime_{nullptr};
};

}  // namespace earmark
