#include "engine/device/device_engine.h"

#include <algorithm>
#include <exception>
#include <numeric>

#include "core/check.h"
#include "cuda/quantize_s8.h"
#include "engine/device/fuse.h"
#include "engine/process.h"

namespace earmark::device {
namespace {

// Copies from the host and the network overlap where a batch is in parts of about so many frames:
// enough to fill the largest device.
constexpr int64_t kPartFrames = 1 << 14;
// Working memory of one batch: more recordings at once bring nothing.
constexpr size_t kMaxBudget = size_t{4} << 30;
constexpr size_t kAlign = 256;
constexpr size_t kMaxFrontEnds = 8;

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

cuda::Device found_device(int ordinal) {
  cuda::Device device;
  check(cuda::query_device(ordinal, &device), concat("device ", ordinal));
  return device;
}

}  // namespace

// Recordings or waveforms [first, first + lengths.size()) of a call.
struct DeviceEngine::Part {
  size_t first = 0;
  std::vector<int> lengths;  // frames
  std::vector<Recording> recordings;
  const FrontEnd* front_end = nullptr;  // then:
  std::vector<Waveform> waveforms;
  std::function<void()> finish;  // once the device is done

  bool takes_float() const { return front_end != nullptr || recordings[0].dtype == DType::kF32; }
};

// A context for one caller; one in which something went wrong is not used again.
class DeviceEngine::Lease {
 public:
  explicit Lease(const DeviceEngine& engine)
      : engine_(engine), exceptions_(std::uncaught_exceptions()) {
    {
      const std::lock_guard<std::mutex> lock(engine.mutex_);
      if (!engine.idle_.empty()) {
        context_ = std::move(engine.idle_.back());
        engine.idle_.pop_back();
      }
    }
    if (context_ == nullptr) context_ = std::make_unique<Context>(engine.device_);
  }
  ~Lease() {
    if (std::uncaught_exceptions() > exceptions_) {
      cudaStreamSynchronize(context_->own_stream());
      return;
    }
    const std::lock_guard<std::mutex> lock(engine_.mutex_);
    engine_.idle_.push_back(std::move(context_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Context& operator*() { return *context_; }

 private:
  const DeviceEngine& engine_;
  int exceptions_;
  std::unique_ptr<Context> context_;
};

DeviceEngine::DeviceEngine(const std::vector<TensorDesc>& tensors, const std::vector<OpDesc>& ops,
                           int ordinal, size_t memory)
    : host_(tensors, ops, Isa::kScalar, 1), device_(found_device(ordinal)), process_(process_id()) {
  const DeviceGuard guard(ordinal);
  for (size_t i = 0; i < ops.size(); ++i) {
    ops_.push_back(make_device_op(host_.plan(), ops[i], *host_.ops()[i], constants_));
  }
  const auto constant_row = [&](double value, int channels) {
    const std::vector<float> row(cuda::padded_channels(channels), static_cast<float>(value));
    return constants_.add(row);
  };
  if (input().dtype == DType::kS8 && input().scale != 0) {
    input_multiplier_ = constant_row(1.0 / input().scale, input().channels);
    input_offset_ = constant_row(0.0, input().channels);
  }
  if (output().dtype == DType::kS8) {
    output_multiplier_ = constant_row(output().scale, output().channels);
  }
  constants_.finish();
  std::vector<const DeviceOp*> all;
  for (const auto& op : ops_) all.push_back(op.get());
  const int in = input().id, out = output().id;
  plain_program_ = std::make_unique<Program>(host_.plan(), all, in, out);
  program_ = std::make_unique<Program>(host_.plan(),
                                       fuse(host_.plan(), ops_, in, out, device_, fused_), in, out);
  // An arena grows with the frames in it.
  constexpr int kMore = 1000;
  recording_bytes_ = arena_bytes(min_length());
  const bool longer = why_not(min_length() + kMore).empty();
  frame_bytes_ = longer ? (arena_bytes(min_length() + kMore) - recording_bytes_) / kMore + 1 : 0;
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for its memory");
  budget_ = memory != 0 ? memory : std::min(kMaxBudget, total / 4);
}

DeviceEngine::~DeviceEngine() {
  // A forked child has nothing on the device that it could free.
  if (process_ != process_id()) {
    for (auto& context : idle_) context.release();
    for (auto& front_end : front_ends_) front_end.release();
    new Constants(std::move(constants_));
  }
}

void DeviceEngine::check_process() const {
  if (process_ == process_id()) return;
  throw std::runtime_error(
      "CUDA: this process was forked from the one that loaded the model: load it here, or begin "
      "processes by 'spawn'");
}

size_t DeviceEngine::arena_bytes(int length) const {
  return Batch(*program_, host_.scheduler(), {length}).arena_bytes();
}

const DeviceFrontEnd& DeviceEngine::device_front_end(const FrontEnd& front_end) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& known : front_ends_) {
    if (known->same_as(front_end)) return *known;
  }
  EARMARK_CHECK(front_ends_.size() < kMaxFrontEnds, "more than ", kMaxFrontEnds, " front ends");
  front_ends_.push_back(std::make_unique<DeviceFrontEnd>(front_end));
  return *front_ends_.back();
}

// In order, as many recordings at once as the budget allows.
std::vector<DeviceEngine::Part> DeviceEngine::divide(const std::vector<int>& lengths,
                                                     Memory in) const {
  std::vector<Part> parts;
  size_t used = 0;
  int64_t frames = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const size_t bytes = recording_bytes_ + frame_bytes_ * lengths[i];
    const bool full = used + bytes > budget_ ||
                      (frames + lengths[i]) * input().width >= int64_t{1} << 30 ||
                      (in == Memory::kHost && frames + lengths[i] > kPartFrames);
    if (parts.empty() || full) {
      parts.emplace_back();
      parts.back().first = i;
      used = 0;
      frames = 0;
    }
    parts.back().lengths.push_back(lengths[i]);
    used += bytes;
    frames += lengths[i];
  }
  return parts;
}

template <class T>
void DeviceEngine::run(const std::vector<Recording>& recordings, Memory in, T* outputs, Memory out,
                       const cudaStream_t* stream) const {
  std::vector<int> lengths;
  for (size_t i = 0; i < recordings.size(); ++i) {
    try {
      host_.check_recording(recordings[i]);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(concat("features ", i, ": ", error.what()));
    }
    lengths.push_back(recordings[i].length);
  }
  // All as the first: an int8 network's recordings may be float32 or int8.
  for (const Recording& recording : recordings) {
    EARMARK_CHECK(recording.dtype == recordings[0].dtype,
                  "features of one call must be of one dtype");
  }
  std::vector<Part> parts = divide(lengths, in);
  for (Part& part : parts) {
    const auto first = recordings.begin() + static_cast<ptrdiff_t>(part.first);
    part.recordings.assign(first, first + static_cast<ptrdiff_t>(part.lengths.size()));
  }
  run_parts(parts, in, outputs, out, stream);
}

template <class T>
void DeviceEngine::embed(const FrontEnd& front_end, const std::vector<Waveform>& waveforms,
                         Memory in, T* outputs, Memory out, const cudaStream_t* stream) const {
  std::vector<int> lengths;
  for (size_t i = 0; i < waveforms.size(); ++i) {
    try {
      lengths.push_back(host_.checked_frames(front_end, waveforms[i], in == Memory::kHost));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(concat("waveform ", i, ": ", error.what()));
    }
  }
  std::vector<Part> parts = divide(lengths, in);
  for (Part& part : parts) {
    const auto first = waveforms.begin() + static_cast<ptrdiff_t>(part.first);
    part.waveforms.assign(first, first + static_cast<ptrdiff_t>(part.lengths.size()));
    part.front_end = &front_end;
  }
  run_parts(parts, in, outputs, out, stream);
}

// Two contexts take turns, so that one part is copied while the other is computed.
template <class T>
void DeviceEngine::run_parts(std::vector<Part>& parts, Memory in, T* outputs, Memory out,
                             const cudaStream_t* stream) const {
  host_.check_output<T>();
  check_process();
  const DeviceGuard guard(device_.ordinal);
  const size_t turns = std::min<size_t>(parts.size(), stream == nullptr ? 2 : 1);
  std::vector<std::unique_ptr<Lease>> leases;
  for (size_t i = 0; i < turns; ++i) leases.push_back(std::make_unique<Lease>(*this));
  const auto finish = [&](size_t i) {
    if (parts[i].finish) parts[i].finish();
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i >= turns) finish(i - turns);
    begin(parts[i], **leases[i % turns], in, outputs, out, stream);
  }
  for (size_t i = parts.size() - turns; i < parts.size(); ++i) finish(i);
}

// Behind the arena: float32 features and outputs of an int8 network.
DeviceEngine::Extra DeviceEngine::extra_memory(const std::vector<int>& lengths, Ends ends) const {
  Extra extra;
  const size_t rows = std::accumulate(lengths.begin(), lengths.end(), size_t{0});
  if (ends.float_in && input().dtype == DType::kS8) {
    extra.feature_bytes = aligned(sizeof(float) * rows * input().width * input().channels);
  }
  if (ends.float_out && output().dtype == DType::kS8) {
    extra.result_bytes = aligned(sizeof(float) * lengths.size() * output().channels);
  }
  extra.bytes = extra.feature_bytes + extra.result_bytes + kAlign;
  return extra;
}

template <class T>
void DeviceEngine::begin(Part& part, Context& context, Memory in, T* outputs, Memory out,
                         const cudaStream_t* stream_or_none) const {
  const cudaStream_t stream = stream_or_none == nullptr ? context.own_stream() : *stream_or_none;
  const size_t recordings = part.lengths.size();
  const Ends ends = {part.takes_float(), std::is_same_v<T, float>};
  const Extra extra = extra_memory(part.lengths, ends);
  Context::Known& known =
      context.prepare(*program_, host_.scheduler(), part.lengths, ends, extra.bytes, stream);
  const Batch& batch = known.batch;
  Walk walk = context.walk(stream);
  batch.begin(walk, context.arena());
  char* const behind = context.arena() + aligned(batch.arena_bytes());
  char* const features = extra.feature_bytes != 0 ? behind : walk.places[input().id].data;
  char* const result = extra.result_bytes != 0 ? behind + extra.feature_bytes : nullptr;
  take_in(part, context, batch, in, stream, features);

  const auto network = [this, &batch, ends, &context, features, result](cudaStream_t s) {
    enqueue(batch, ends, context, s, features, result);
  };
  if (known.runs > 1 && !known.graph) known.graph = Graph(context.own_stream(), network);
  if (known.graph) {
    known.graph.launch(stream);
  } else {
    network(stream);
  }

  const size_t row_bytes = output().channels * sizeof(T);
  const Place& place = walk.places[output().id];
  const char* from = result != nullptr ? result : place.data;
  const size_t pitch = result != nullptr ? row_bytes : place.stride * size_of(output().dtype);
  T* to = outputs + part.first * output().channels;
  char* target = reinterpret_cast<char*>(to);
  if (out == Memory::kHost) {
    context.out.grow(recordings * row_bytes);
    target = context.out.data();
  }
  check(cudaMemcpy2DAsync(target, row_bytes, from, pitch, row_bytes, recordings,
                          out == Memory::kHost ? cudaMemcpyDeviceToHost : cudaMemcpyDeviceToDevice,
                          stream),
        "copying the outputs");
  context.used(stream);
  part.finish = [&context, to, recordings, row_bytes, out, in] {
    // Pinned memory is free for the next part only when the copies are done.
    if (out == Memory::kHost || in == Memory::kHost) context.wait();
    if (out == Memory::kHost) std::memcpy(to, context.out.data(), recordings * row_bytes);
  };
}

void DeviceEngine::take_in(const Part& part, Context& context, const Batch& batch, Memory in,
                           cudaStream_t stream, char* features) const {
  std::vector<Source> sources;
  if (part.front_end == nullptr) {
    const size_t row = static_cast<size_t>(input().width) * input().channels;
    for (const Recording& r : part.recordings) {
      sources.push_back({r.data, row * r.length * size_of(r.dtype)});
    }
    copy_in(sources, context, in, features, stream);
    return;
  }
  const DeviceFrontEnd& front_end = device_front_end(*part.front_end);
  std::vector<int64_t> starts = {0};
  for (const Waveform& w : part.waveforms) {
    sources.push_back({w.samples, sizeof(float) * w.count});
    starts.push_back(starts.back() + w.count);
  }
  const size_t starts_bytes = aligned(starts.size() * sizeof starts[0]);
  context.samples.grow(starts_bytes + sizeof(float) * starts.back());
  check(cudaMemcpyAsync(context.samples.data(), starts.data(), starts.size() * sizeof starts[0],
                        cudaMemcpyHostToDevice, stream),
        "copying lengths");
  char* samples = context.samples.data() + starts_bytes;
  copy_in(sources, context, in, samples, stream);
  Walk walk = context.walk(stream);
  batch.begin(walk, context.arena());
  check(front_end.run(reinterpret_cast<const float*>(samples),
                      reinterpret_cast<const int64_t*>(context.samples.data()),
                      walk.ragged(input()), reinterpret_cast<float*>(features), walk.launch),
        "front end");
}

// One after another. From the host by way of pinned memory, in one copy.
void DeviceEngine::copy_in(const std::vector<Source>& sources, Context& context, Memory in,
                           char* to, cudaStream_t stream) const {
  if (in == Memory::kHost) {
    size_t total = 0;
    for (const Source& s : sources) total += s.bytes;
    // The last work that used it was waited for.
    context.in.grow(total);
    char* next = context.in.data();
    for (const Source& s : sources) {
      std::memcpy(next, s.data, s.bytes);
      next += s.bytes;
    }
    check(cudaMemcpyAsync(to, context.in.data(), total, cudaMemcpyHostToDevice, stream),
          "copying the recordings");
    return;
  }
  // Neighbours, as the items of one array are, are one copy.
  for (size_t i = 0; i < sources.size();) {
    const auto* begin = static_cast<const char*>(sources[i].data);
    size_t bytes = 0;
    while (i < sources.size() && sources[i].data == begin + bytes) bytes += sources[i++].bytes;
    check(cudaMemcpyAsync(to, begin, bytes, cudaMemcpyDeviceToDevice, stream),
          "copying the recordings");
    to += bytes;
  }
}

void DeviceEngine::quantize_features(const Walk& walk, const char* features) const {
  const Tensor& in = input();
  cuda::QuantizeS8 c;
  c.channels = in.channels;
  c.in = {reinterpret_cast<const float*>(features), in.channels, in.width};
  c.out = walk.frames<int8_t>(in);
  c.frames = walk.ragged(in);
  c.multiplier = input_multiplier_;
  c.offset = input_offset_;
  c.zero = in.zero_point;
  check(cuda::quantize_s8(c, walk.launch), "quantizing the features");
}

// The network: from features to outputs, quantized and back where the ends are int8.
void DeviceEngine::enqueue(const Batch& batch, Ends ends, const Context& context,
                           cudaStream_t stream, char* features, char* result) const {
  Walk walk = context.walk(stream);
  batch.begin(walk, context.arena());
  if (ends.float_in && input().dtype == DType::kS8) quantize_features(walk, features);
  batch.take_steps(walk, context.arena(), [](const DeviceOp&) {});
  const Tensor& out = output();
  if (ends.float_out && out.dtype == DType::kS8) {
    cuda::DequantizeF32 c;
    c.channels = out.channels;
    c.in = walk.frames<const int8_t>(out);
    c.out = {reinterpret_cast<float*>(result), out.channels, 1};
    c.frames = walk.ragged(out);
    c.multiplier = output_multiplier_;
    c.zero = out.zero_point;
    check(cuda::dequantize_f32(c, walk.launch), "dequantizing the outputs");
  }
}

template void DeviceEngine::run(const std::vector<Recording>&, Memory, float*, Memory,
                                const cudaStream_t*) const;
template void DeviceEngine::run(const std::vector<Recording>&, Memory, int8_t*, Memory,
                                const cudaStream_t*) const;
template void DeviceEngine::embed(const FrontEnd&, const std::vector<Waveform>&, Memory, float*,
                                  Memory, const cudaStream_t*) const;
template void DeviceEngine::embed(const FrontEnd&, const std::vector<Waveform>&, Memory, int8_t*,
                                  Memory, const cudaStream_t*) const;

// One recording in a context of its own, by the plan's own ops; `after` follows each.
template <class After>
void DeviceEngine::walk_plain(const Part& part, const After& after) const {
  check_process();
  const DeviceGuard guard(device_.ordinal);
  Context context(device_);
  const cudaStream_t stream = context.own_stream();
  const Ends ends = {part.takes_float(), true};
  const Extra extra = extra_memory(part.lengths, ends);
  const Batch& batch =
      context.prepare(*plain_program_, host_.scheduler(), part.lengths, ends, extra.bytes, stream)
          .batch;
  Walk walk = context.walk(stream);
  batch.begin(walk, context.arena());
  const bool quantizes = extra.feature_bytes != 0;
  char* const features =
      quantizes ? context.arena() + aligned(batch.arena_bytes()) : walk.places[input().id].data;
  cuda::last_kernel = "";
  take_in(part, context, batch, Memory::kHost, stream, features);
  if (part.front_end != nullptr) after("front_end", walk, nullptr);
  if (quantizes) {
    quantize_features(walk, features);
    after(input().name, walk, nullptr);
  }
  batch.take_steps(walk, context.arena(),
                   [&](const DeviceOp& op) { after(op.name, walk, op.writes[0]); });
  check(cudaStreamSynchronize(stream), "running the network");
}

std::map<std::string, TracedTensor> DeviceEngine::trace_part(
    const Part& part, std::map<std::string, std::string>* kernels) const {
  std::map<std::string, TracedTensor> traced;
  walk_plain(part, [&](const std::string& name, const Walk& walk, const Tensor* out) {
    (*kernels)[name] = cuda::last_kernel;
    if (out != nullptr) traced[out->name] = copy(walk, *out);
  });
  return traced;
}

std::map<std::string, TracedTensor> DeviceEngine::trace(
    const Recording& recording, std::map<std::string, std::string>* kernels) const {
  host_.check_recording(recording);
  Part part;
  part.lengths = {recording.length};
  part.recordings = {recording};
  return trace_part(part, kernels);
}

std::map<std::string, TracedTensor> DeviceEngine::trace(
    const FrontEnd& front_end, const Waveform& waveform,
    std::map<std::string, std::string>* kernels) const {
  Part part;
  part.lengths = {host_.checked_frames(front_end, waveform)};
  part.front_end = &front_end;
  part.waveforms = {waveform};
  return trace_part(part, kernels);
}

TracedTensor DeviceEngine::copy(const Walk& walk, const Tensor& tensor) const {
  const Place& place = walk.places[tensor.id];
  const int length = place.frames.rows;
  TracedTensor out;
  out.dtype = tensor.dtype;
  size_t rows = 1;
  if (tensor.kind == Kind::kVector) {
    out.shape = {tensor.channels};
  } else {
    rows = static_cast<size_t>(length) * place.width;
    out.shape = {length, tensor.channels};
    if (place.width > 1) out.shape = {length, place.width, tensor.channels};
  }
  const size_t row_bytes = tensor.channels * size_of(tensor.dtype);
  out.data.resize(rows * row_bytes);
  const cudaStream_t stream = walk.launch.stream;
  const auto take = [&](size_t to, int64_t from, size_t bytes) {
    check(cudaMemcpy2DAsync(out.data.data() + to, row_bytes, place.data + from,
                            place.stride * size_of(tensor.dtype), bytes, rows,
                            cudaMemcpyDeviceToHost, stream),
          "copying '" + tensor.name + "'");
  };
  const bool planes = tensor.dtype == DType::kS16;
  if (planes) {
    take(0, 0, tensor.channels);
    take(tensor.channels, walk.planes<char>(tensor).low, tensor.channels);
  } else {
    take(0, 0, row_bytes);
  }
  check(cudaStreamSynchronize(stream), "running the network");
  if (planes) {
    for (char& value : out.data) value = static_cast<char>(value ^ 0x80);
    join_planes(out.data, tensor.channels);
  }
  return out;
}

std::vector<OpProfile> DeviceEngine::profile(const std::vector<Recording>& recordings,
                                             int times) const {
  EARMARK_CHECK(!recordings.empty() && times >= 1 && times <= 1 << 16, "a profile of ",
                recordings.size(), " recordings, ", times, " times");
  check_process();
  const DeviceGuard guard(device_.ordinal);
  Part part;
  part.recordings = recordings;
  for (const Recording& recording : recordings) {
    host_.check_recording(recording);
    EARMARK_CHECK(recording.dtype == recordings[0].dtype,
                  "features of one call must be of one dtype");
    part.lengths.push_back(recording.length);
  }
  Lease lease(*this);
  Context& context = *lease;
  const cudaStream_t stream = context.own_stream();
  const Ends ends = {part.takes_float(), true};
  const Extra extra = extra_memory(part.lengths, ends);
  const Batch& batch =
      context.prepare(*program_, host_.scheduler(), part.lengths, ends, extra.bytes, stream).batch;
  Walk walk = context.walk(stream);
  std::vector<OpProfile> profiles;
  // The first walk warms up.
  for (int run = 0; run < 2; ++run) {
    profiles.clear();
    batch.begin(walk, context.arena());
    char* const features = extra.feature_bytes != 0 ? context.arena() + aligned(batch.arena_bytes())
                                                    : walk.places[input().id].data;
    take_in(part, context, batch, Memory::kHost, stream, features);
    if (extra.feature_bytes != 0) quantize_features(walk, features);
    std::vector<std::unique_ptr<Event>> events;
    const auto mark = [&] {
      events.push_back(std::make_unique<Event>(true));
      events.back()->record(stream);
    };
    mark();
    batch.take_steps(
        walk, context.arena(),
        [&](const DeviceOp& op) {
          mark();
          OpProfile profile;
          profile.name = op.name;
          profile.op = op.kind;
          profile.kernel = cuda::last_kernel;
          const auto bytes = [&](const Tensor& t) {
            const Place& place = walk.places[t.id];
            return static_cast<int64_t>(place.frames.rows) * place.width * t.channels *
                   static_cast<int64_t>(size_of(t.dtype));
          };
          for (const Tensor* t : op.reads) profile.bytes += bytes(*t);
          for (const Tensor* t : op.writes) profile.bytes += bytes(*t);
          for (const Op* host : op.host) {
            const Tensor& counted = host->whole ? *host->frames_in[0] : *host->out;
            // A vector within a fused step has no place.
            const Place& place = walk.places[counted.id];
            const int64_t uses = counted.kind == Kind::kVector
                                     ? walk.recordings
                                     : static_cast<int64_t>(place.frames.rows) * place.width;
            profile.macs += host->weights() * uses;
            const Tensor& first =
                host->frames_in.empty() ? *host->vectors_in[0] : *host->frames_in[0];
            profile.bytes += host->weights() * static_cast<int64_t>(size_of(first.dtype));
          }
          profiles.push_back(profile);
        },
        run == 0 ? 1 : times);
    context.used(stream);
    context.wait();
    for (size_t i = 0; i < profiles.size(); ++i) {
      profiles[i].nanoseconds =
          static_cast<int64_t>(1e6 * events[i + 1]->milliseconds_since(*events[i]) / times);
    }
  }
  return profiles;
}

}  // namespace earmark::device
