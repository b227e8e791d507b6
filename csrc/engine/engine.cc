#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <numeric>

#include "core/check.h"
#include "engine/float_environment.h"
#include "engine/ops/elementwise.h"
#include "engine/process.h"

namespace earmark {
namespace {

// Recordings up to this length are dealt out whole, one to a thread, where there are enough of
// them; each needs an arena of its own. Longer ones are run one after another on all threads.
constexpr int kWholeRecordingFrames = 4096;
constexpr int kMaxThreads = 1024;
constexpr int kLongestMinimum = 1 << 14;
// Working memory that a plan may ask for with 20 s of speech: far above any network, far below what
// would bring a machine down.
constexpr int kTypicalFrames = 2000;
constexpr size_t kMaxArena = size_t{4} << 30;

int only_tensor(const Plan& plan, const char* name, Kind kind) {
  OpDesc desc;
  desc.op = desc.name = "plan";
  const Tensor& t = plan.find(desc, name, name);
  EARMARK_CHECK(t.kind == kind && t.of.empty() && t.over.empty(), "the plan's '", name,
                "' must be a ", kind == Kind::kFrames ? "frames" : "vector", " tensor of its own");
  return t.id;
}

// The name says what the output means; all else is the same.
int output_tensor(const Plan& plan) {
  const bool embedding = plan.has("embedding"), scores = plan.has("scores");
  EARMARK_CHECK(embedding || scores, "the plan has no output, 'embedding' or 'scores'");
  EARMARK_CHECK(!embedding || !scores, "the plan has two outputs, 'embedding' and 'scores'");
  return only_tensor(plan, embedding ? "embedding" : "scores", Kind::kVector);
}

}  // namespace

void join_planes(std::vector<char>& rows, int channels) {
  std::vector<int16_t> row(channels);
  const size_t row_bytes = sizeof(int16_t) * channels;
  for (size_t begin = 0; begin < rows.size(); begin += row_bytes) {
    const auto* high = reinterpret_cast<const uint8_t*>(rows.data() + begin);
    for (int c = 0; c < channels; ++c) {
      row[c] = static_cast<int16_t>(256 * high[c] + high[channels + c] - 32768);
    }
    std::memcpy(rows.data() + begin, row.data(), row_bytes);
  }
}

// What one walk needs; reused, so that a call at most as long as an earlier one allocates nothing.
struct Engine::Context {
  Walk walk;
  Schedule schedule;
  AlignedBuffer<char> arena;
  AlignedBuffer<float> features;
};

// Threads and contexts of this process.
struct Engine::Runtime {
  explicit Runtime(int threads) : process(process_id()), pool(threads), single(1) {}

  std::unique_ptr<Context> take() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (idle.empty()) return std::make_unique<Context>();
    std::unique_ptr<Context> context = std::move(idle.back());
    idle.pop_back();
    return context;
  }
  void give_back(std::unique_ptr<Context> context) {
    const std::lock_guard<std::mutex> lock(mutex);
    idle.push_back(std::move(context));
  }

  const int64_t process;
  ThreadPool pool;
  ThreadPool single;
  std::mutex mutex;
  std::vector<std::unique_ptr<Context>> idle;
};

class Engine::Lease {
 public:
  explicit Lease(Runtime& runtime) : runtime_(runtime), context_(runtime.take()) {}
  ~Lease() { runtime_.give_back(std::move(context_)); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Context& operator*() { return *context_; }

 private:
  Runtime& runtime_;
  std::unique_ptr<Context> context_;
};

Engine::Engine(const std::vector<TensorDesc>& tensors, const std::vector<OpDesc>& ops, Isa isa,
               int threads)
    : plan_(tensors),
      isa_(isa),
      threads_(threads == 0 ? default_threads() : threads),
      input_(only_tensor(plan_, "input", Kind::kFrames)),
      output_(output_tensor(plan_)) {
  EARMARK_CHECK(threads_ >= 1 && threads_ <= kMaxThreads, "threads is ", threads,
                ", expected 1 to ", kMaxThreads);
  EARMARK_CHECK(output().dtype == DType::kF32 || output().scale != 0, "the plan's '", output().name,
                "' is ", name_of(output().dtype), " and has no scale");
  for (const Tensor* end : {&input(), &output()}) {
    EARMARK_CHECK(end->dtype != DType::kS16, "the plan's '", end->name, "' is s16");
  }
  if (input().dtype == DType::kS8 && input().scale != 0) {
    input_multiplier_ = AlignedBuffer<float>(input().channels);
    input_offset_ = AlignedBuffer<float>(input().channels);
    std::fill_n(input_multiplier_.data(), input().channels,
                static_cast<float>(1.0 / input().scale));
  }
  make_ops(ops);
  scheduler_ = std::make_unique<Scheduler>(plan_, ops_, input_, output_);
  for (min_length_ = 1; !why_not(min_length_).empty(); ++min_length_) {
    EARMARK_CHECK(min_length_ < kLongestMinimum, "no recording can be run: ", why_not(min_length_));
  }
  const int typical = std::max(min_length_, kTypicalFrames);
  if (why_not(typical).empty()) {
    EARMARK_CHECK(arena_bytes(typical) <= kMaxArena, "the plan asks for ", arena_bytes(typical),
                  " bytes for ", typical, " frames");
  }
}

// Weights are packed on all threads. In the plan's order: with the largest first, what is allocated
// for a while beside it would stay with the process.
void Engine::make_ops(const std::vector<OpDesc>& descs) {
  ops_.resize(descs.size());
  std::vector<std::exception_ptr> errors(descs.size());
  ThreadPool(threads_).parallel_for(static_cast<int>(descs.size()), [&](int i, int) {
    try {
      ops_[i] = make_op(plan_, descs[i], isa_);
      ops_[i]->index = i;
    } catch (...) {
      errors[i] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

Engine::~Engine() {
  Runtime* runtime = runtime_.load();
  // After a fork the parent's threads do not exist here; its runtime cannot be joined, only left
  // alone.
  if (runtime != nullptr && runtime->process == process_id()) delete runtime;
}

Engine::Runtime& Engine::runtime() const {
  Runtime* current = runtime_.load();
  if (current != nullptr && current->process == process_id()) return *current;
  auto fresh = std::make_unique<Runtime>(threads_);
  if (runtime_.compare_exchange_strong(current, fresh.get())) return *fresh.release();
  return *current;  // another thread was first
}

void Engine::prepare(Context& context, ThreadPool& pool, const Recording& recording,
                     bool keep_all) const {
  if (keep_all || context.schedule.length_in != recording.length) {
    context.schedule = scheduler_->make(recording.length, keep_all);
    if (keep_all) context.schedule.length_in = -1;  // of no use to the next call
  }
  const Schedule& schedule = context.schedule;
  if (context.arena.size() < schedule.arena_bytes) {
    context.arena = AlignedBuffer<char>();
    context.arena = AlignedBuffer<char>(schedule.arena_bytes);
  }
  Walk& walk = context.walk;
  walk.kernels = &kernels(isa_);
  walk.pool = &pool;
  walk.places.resize(plan_.tensors().size());
  walk.states.resize(ops_.size());
  for (size_t i = 0; i < ops_.size(); ++i) {
    const size_t bytes = ops_[i]->state_bytes();
    if (walk.states[i].size() < bytes) walk.states[i] = AlignedBuffer<char>(bytes);
  }
  for (const Tensor& t : plan_.tensors()) {
    const Tensor& base = plan_.base_of(t);
    Place& place = walk.places[t.id];
    place.data = context.arena.data() + schedule.offsets[base.id] + t.offset * size_of(t.dtype);
    place.stride = base.channels;
    place.width = t.width;
    place.first = 0;
    place.length = schedule.lengths[base.id];
  }
  const Tensor& in = input();
  Place& place = walk.places[input_];
  if (in.dtype == DType::kF32) {
    // Ops only read their inputs; the pointer loses const because all places are alike.
    place.data = static_cast<char*>(const_cast<void*>(recording.data));
    for (const Tensor& t : plan_.tensors()) {
      if (t.base == input_ && t.id != input_)
        walk.places[t.id].data = place.data + t.offset * size_of(t.dtype);
    }
  } else if (recording.dtype == DType::kF32) {
    quantize_input(walk, recording);
  } else {
    const auto* q = static_cast<const uint8_t*>(recording.data);
    const size_t size = static_cast<size_t>(recording.length) * in.width * in.channels;
    for (size_t i = 0; i < size; ++i) place.data[i] = static_cast<char>(q[i] ^ 0x80);
  }
}

void Engine::quantize_input(Walk& walk, const Recording& recording) const {
  const Tensor& in = input();
  const Place& place = walk[in];
  const auto* x = static_cast<const float*>(recording.data);
  for_row_blocks(walk, {0, recording.length}, in.width, in.channels, [&](int row, int rows) {
    walk.kernels->quantize_s8(x + static_cast<ptrdiff_t>(row) * in.channels, in.channels,
                              place.row<uint8_t>(0) + row * place.stride, place.stride, rows,
                              in.channels, input_multiplier_.data(), input_offset_.data(),
                              in.zero_u8());
  });
}

void Engine::copy_output(const Walk& walk, float* to) const {
  const Tensor& out = output();
  if (out.dtype == DType::kF32) {
    std::copy_n(walk[out].vector<float>(), out.channels, to);
    return;
  }
  const auto* q = walk[out].vector<uint8_t>();
  const auto scale = static_cast<float>(out.scale);
  for (int c = 0; c < out.channels; ++c) to[c] = static_cast<float>(q[c] - out.zero_u8()) * scale;
}

void Engine::copy_output(const Walk& walk, int8_t* to) const {
  const auto* q = walk[output()].vector<uint8_t>();
  for (int c = 0; c < output().channels; ++c) to[c] = static_cast<int8_t>(q[c] ^ 0x80);
}

template <class T>
void Engine::walk(Context& context, ThreadPool& pool, const Recording& recording, T* to) const {
  const FloatEnvironment defaults;
  prepare(context, pool, recording, false);
  take_steps(context, nullptr);
  copy_output(context.walk, to);
}

void Engine::take_steps(Context& context, const Observer& after) const {
  Walk& walk = context.walk;
  for (const Step& step : context.schedule.steps) {
    if (step.type == Step::Type::kPlace) {
      for (const Tensor& t : plan_.tensors()) {
        if (t.base == step.index) walk.places[t.id].first = step.range.begin;
      }
    } else {
      const Op& op = *ops_[step.index];
      switch (step.type) {
        case Step::Type::kBegin:
          op.begin(walk);
          break;
        case Step::Type::kEnd:
          op.end(walk);
          break;
        default:
          op.run(walk, step.range);
          break;
      }
    }
    if (after) after(walk, step);
  }
}

void Engine::deal(const std::vector<int>& lengths, const Work& work) const {
  Runtime& rt = runtime();
  // Longest first, so that the last ones to finish are short.
  std::vector<int> whole, shared;
  for (size_t i = 0; i < lengths.size(); ++i) {
    (lengths[i] <= kWholeRecordingFrames ? whole : shared).push_back(static_cast<int>(i));
  }
  if (threads_ == 1 || whole.size() < static_cast<size_t>(threads_)) {
    shared.insert(shared.end(), whole.begin(), whole.end());
    whole.clear();
  }
  std::stable_sort(whole.begin(), whole.end(),
                   [&](int a, int b) { return lengths[a] > lengths[b]; });
  std::vector<std::exception_ptr> errors(whole.size());
  rt.pool.parallel_for(static_cast<int>(whole.size()), [&](int unit, int) {
    try {
      Lease context(rt);
      work(whole[unit], *context, rt.single);
    } catch (...) {
      errors[unit] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  for (const int i : shared) {
    Lease context(rt);
    work(i, *context, rt.pool);
  }
}

void Engine::check_recording(const Recording& recording) const {
  const std::string reason = why_not(recording.length);
  EARMARK_CHECK(reason.empty(), reason);
  const bool quantized_here = recording.dtype == DType::kF32 && input_multiplier_.size() != 0;
  EARMARK_CHECK(recording.dtype == input().dtype || quantized_here, "features must be contiguous ",
                input().dtype == DType::kF32 ? "float32" : "int8");
}

template <class T>
void Engine::run(const std::vector<Recording>& recordings, T* outputs) const {
  check_output<T>();
  std::vector<int> lengths;
  for (const Recording& recording : recordings) {
    check_recording(recording);
    lengths.push_back(recording.length);
  }
  const size_t channels = output().channels;
  deal(lengths, [&](int i, Context& context, ThreadPool& pool) {
    walk(context, pool, recordings[i], outputs + i * channels);
  });
}

template void Engine::run(const std::vector<Recording>&, float*) const;
template void Engine::run(const std::vector<Recording>&, int8_t*) const;

int Engine::checked_frames(const FrontEnd& front_end, const Waveform& waveform,
                           bool samples_are_here) const {
  const Tensor& in = input();
  EARMARK_CHECK((in.dtype == DType::kF32 || in.scale != 0) && in.flat() &&
                    in.width * in.channels == front_end.n_features(),
                "the front end makes ", front_end.n_features(),
                " float32 features a frame, which is not the plan's 'input'");
  const int length = front_end.checked_frames(waveform, samples_are_here);
  const std::string reason = why_not(length);
  EARMARK_CHECK(reason.empty(), reason);
  return length;
}

Recording Engine::features(const FrontEnd& front_end, const Waveform& waveform, int length,
                           Context& context, ThreadPool& pool) const {
  const size_t size = static_cast<size_t>(length) * front_end.n_features();
  if (context.features.size() < size) {
    context.features = AlignedBuffer<float>();
    context.features = AlignedBuffer<float>(size);
  }
  front_end.run(kernels(isa_), pool, waveform, context.features.data());
  return {context.features.data(), length, DType::kF32};
}

template <class T>
void Engine::embed(const FrontEnd& front_end, const std::vector<Waveform>& waveforms,
                   T* outputs) const {
  check_output<T>();
  std::vector<int> lengths;
  for (size_t i = 0; i < waveforms.size(); ++i) {
    try {
      lengths.push_back(checked_frames(front_end, waveforms[i]));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(concat("waveform ", i, ": ", error.what()));
    }
  }
  const size_t channels = output().channels;
  deal(lengths, [&](int i, Context& context, ThreadPool& pool) {
    const Recording recording = features(front_end, waveforms[i], lengths[i], context, pool);
    walk(context, pool, recording, outputs + i * channels);
  });
}

template void Engine::embed(const FrontEnd&, const std::vector<Waveform>&, float*) const;
template void Engine::embed(const FrontEnd&, const std::vector<Waveform>&, int8_t*) const;

std::map<std::string, TracedTensor> Engine::trace(
    const Recording& recording, std::map<std::string, std::string>* kernels) const {
  check_recording(recording);
  std::map<std::string, TracedTensor> traced;
  Context context;
  const FloatEnvironment defaults;
  prepare(context, runtime().single, recording, true);
  if (recording.dtype != input().dtype) (*kernels)[input().name] = last_kernel;
  take_steps(context, [&](const Walk& walk, const Step& step) {
    if (step.type != Step::Type::kRun && step.type != Step::Type::kEnd) return;
    const Op& op = *ops_[step.index];
    (*kernels)[op.name] = last_kernel;
    traced[op.out->name] = copy(walk, *op.out);
  });
  return traced;
}

std::map<std::string, TracedTensor> Engine::trace(
    const FrontEnd& front_end, const Waveform& waveform,
    std::map<std::string, std::string>* kernels) const {
  Context context;
  const int length = checked_frames(front_end, waveform);
  const Recording recording = features(front_end, waveform, length, context, runtime().single);
  (*kernels)["front_end"] = last_kernel;
  return trace(recording, kernels);
}

std::vector<OpProfile> Engine::profile(const Recording& recording) const {
  check_recording(recording);
  std::vector<OpProfile> profiles(ops_.size());
  for (size_t i = 0; i < ops_.size(); ++i) {
    profiles[i].name = ops_[i]->name;
    profiles[i].op = ops_[i]->kind;
  }
  const FloatEnvironment defaults;
  Runtime& rt = runtime();
  Lease context(rt);
  prepare(*context, rt.pool, recording, false);
  using Clock = std::chrono::steady_clock;
  last_kernel = "";
  Clock::time_point begin = Clock::now();
  take_steps(*context, [&](const Walk& walk, const Step& step) {
    const Clock::time_point end = Clock::now();
    if (step.type != Step::Type::kPlace) {
      const Op& op = *ops_[step.index];
      OpProfile& profile = profiles[step.index];
      profile.nanoseconds +=
          std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count();
      if (step.type == Step::Type::kRun) {
        profile.macs += op.weights() * op.uses_of_weights(walk, step.range);
        profile.bytes = bytes_touched(walk, op);
        if (*last_kernel != '\0') profile.kernel = last_kernel;
      }
    }
    last_kernel = "";
    begin = Clock::now();
  });
  // This thread may have come too late for a unit of a parallel loop; alone, it runs all of them.
  const auto named = [](const OpProfile& profile) { return !profile.kernel.empty(); };
  if (!std::all_of(profiles.begin(), profiles.end(), named)) {
    prepare(*context, rt.single, recording, false);
    take_steps(*context, [&](const Walk&, const Step& step) {
      if (step.type == Step::Type::kRun) profiles[step.index].kernel = last_kernel;
    });
  }
  return profiles;
}

int64_t Engine::bytes_touched(const Walk& walk, const Op& op) const {
  int64_t bytes = 0;
  const auto add = [&](const Tensor& t) {
    const Place& place = walk[t];
    const int64_t rows =
        t.kind == Kind::kVector ? 1 : static_cast<int64_t>(place.length) * place.width;
    bytes += rows * t.channels * static_cast<int64_t>(size_of(t.dtype));
  };
  for (const Tensor* t : op.frames_in) add(*t);
  for (const Tensor* t : op.vectors_in) add(*t);
  add(*op.out);
  return bytes + op.weight_bytes();
}

TracedTensor Engine::copy(const Walk& walk, const Tensor& tensor) const {
  const Place& place = walk[tensor];
  TracedTensor out;
  out.dtype = tensor.dtype;
  const size_t row_bytes = tensor.channels * size_of(tensor.dtype);
  size_t rows = 1;
  if (tensor.kind == Kind::kVector) {
    out.shape = {tensor.channels};
  } else {
    rows = static_cast<size_t>(place.length) * place.width;
    out.shape = {place.length, tensor.channels};
    if (place.width > 1) out.shape = {place.length, place.width, tensor.channels};
  }
  out.data.resize(rows * row_bytes);
  for (size_t r = 0; r < rows; ++r) {
    std::memcpy(out.data.data() + r * row_bytes,
                place.data + static_cast<ptrdiff_t>(r) * place.stride * size_of(tensor.dtype),
                row_bytes);
  }
  if (tensor.dtype == DType::kS8) {
    for (char& value : out.data) value = static_cast<char>(value ^ 0x80);
  }
  if (tensor.dtype == DType::kS16) join_planes(out.data, tensor.channels);
  return out;
}

}  // namespace earmark
