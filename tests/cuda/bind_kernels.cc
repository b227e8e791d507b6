// Every kernel of csrc/cuda behind one function, for tests: run(op, arguments) -> the kernel that
// ran. Compiled over the emulation, or over CUDA where there is a GPU.
#include <map>

#include "cuda/add.h"
#include "cuda/affine_f32.h"
#include "cuda/attentive_pool_f32.h"
#include "cuda/attentive_pool_s16.h"
#include "cuda/attentive_pool_s8.h"
#include "cuda/conv_f32.h"
#include "cuda/conv_s16.h"
#include "cuda/conv_s8.h"
#include "cuda/dense_s8.h"
#include "cuda/max_pool.h"
#include "cuda/pack_conv_f32.h"
#include "cuda/quantize_s8.h"
#include "cuda/range_f32.h"
#include "cuda/res2_s8.h"
#include "cuda/softmax.h"
#include "cuda/squeeze_excitation_s8.h"
#include "cuda/stats.h"
#include "tests/cuda/call.h"
#include "tests/cuda/faulty_kernels.h"

namespace earmark::cuda {
namespace {

cudaError_t run_quantize_s8(Call& c, Launch& launch) {
  return quantize_s8({.channels = c.value<int>("channels"),
                      .in = c.frames<float>("in"),
                      .out = c.frames_out<int8_t>("out"),
                      .frames = c.ragged("lengths"),
                      .multiplier = c.padded<float>("multiplier"),
                      .offset = c.padded<float>("offset"),
                      .zero = c.value<int>("zero", 0),
                      .found = c.vectors<float>("found")},
                     launch);
}

cudaError_t run_quantize_s16(Call& c, Launch& launch) {
  return quantize_s16({.channels = c.value<int>("channels"),
                       .in = c.frames<float>("in"),
                       .out = c.planes_out("out"),
                       .frames = c.ragged("lengths"),
                       .multiplier = c.padded<float>("multiplier"),
                       .offset = c.padded<float>("offset"),
                       .zero = c.value<int>("zero")},
                      launch);
}

cudaError_t run_dequantize_f32(Call& c, Launch& launch) {
  return dequantize_f32({.channels = c.value<int>("channels"),
                         .in = c.frames<int8_t>("in"),
                         .out = c.frames_out<float>("out"),
                         .frames = c.ragged("lengths"),
                         .multiplier = c.padded<float>("multiplier"),
                         .zero = c.value<int>("zero", 0)},
                        launch);
}

// The layer of a convolution or dense op: weight, input_zero, epilogue (2 or 4, channels), relu,
// zero, bias, found.
LayerS8 layer_of(Call& c, const ConvShape& shape) {
  const PackedConvS8 packed = c.packed(shape);
  return {.weights = c.weights(packed),
          .epilogue = c.epilogue("epilogue", packed.initial, c.value<bool>("relu", false),
                                 c.value<int>("zero", 0)),
          .bias = c.vectors<float>("bias"),
          .found = c.vectors<float>("found")};
}

cudaError_t run_conv_s8(Call& c, Launch& launch) {
  const ConvShape shape = c.shape(c.value<int>("c_in"), c.value<int>("c_out"));
  ConvS8 call = {.shape = shape,
                 .layer = layer_of(c, shape),
                 .table = c.input<int8_t>("table"),
                 .in = c.frames<int8_t>("in"),
                 .in_frames = c.ragged("lengths"),
                 .out = c.frames_out<int8_t>("out"),
                 .out_f32 = c.frames_out<float>("out_f32"),
                 .out_frames = c.ragged("out_lengths")};
  if (call.table != nullptr) call.table_size = static_cast<int>(c.array<int8_t>("table").size());
  c.reserve_workspace(workspace_bytes(call, *launch.device), launch);
  return conv_s8(call, launch);
}

cudaError_t run_conv_s16(Call& c, Launch& launch) {
  const ConvShape shape = c.shape(c.value<int>("c_in"), c.value<int>("c_out"));
  return conv_s16({.shape = shape,
                   .weights = c.weights_s16(shape),
                   .epilogue = c.epilogue("epilogue", {}, c.value<bool>("relu"), 0),
                   .bias = c.vectors<float>("bias"),
                   .table = c.line_table(),
                   .in = c.planes("in"),
                   .in_frames = c.ragged("lengths"),
                   .out = c.frames_out<float>("out"),
                   .out_frames = c.ragged("out_lengths")},
                  launch);
}

// steps: of each its layer and addition; `in` and `out` hold all chunks, at `places` and
// `places_out`.
cudaError_t run_res2_s8(Call& c, Launch& launch) {
  Res2S8 call;
  call.shape = c.shape(c.value<int>("channels"), c.value<int>("channels"));
  call.frames = c.ragged("lengths");
  const Frames<const int8_t> in = c.frames<int8_t>("in");
  const Frames<int8_t> out = c.frames_out<int8_t>("out");
  call.in_stride = in.stride;
  call.out_stride = out.stride;
  if (c.has("copy")) {
    const auto copy = c.value<std::pair<int, int>>("copy");
    call.copy_in = in.data + copy.first;
    call.copy_out = out.data + copy.second;
  }
  for (const py::handle& handle : c.value<py::list>("steps")) {
    Call& s = c.part(handle.cast<py::dict>());
    const PackedConvS8 packed = s.packed(call.shape);
    call.step[call.steps++] = {.in = in.data + s.value<int>("in"),
                               .out = out.data + s.value<int>("out"),
                               .weights = s.weights(packed),
                               .epilogue = s.epilogue("epilogue", packed.initial,
                                                      s.value<bool>("relu"), s.value<int>("zero")),
                               .multiplier = s.padded<float>("multiplier"),
                               .residual_multiplier = s.value<float>("residual_multiplier", 0.0f),
                               .in_zero = s.value<int>("in_zero", 0),
                               .previous_zero = s.value<int>("previous_zero", 0),
                               .sum_zero = s.value<int>("sum_zero", 0)};
  }
  if (!supports(call, *launch.device)) {
    last_kernel = "none";
    return cudaSuccess;
  }
  return res2_s8(call, launch);
}

cudaError_t run_dense_s8(Call& c, Launch& launch) {
  const ConvShape shape = c.shape(c.value<int>("inputs"), c.value<int>("outputs"));
  DenseS8 call = {.inputs = shape.c_in,
                  .outputs = shape.c_out,
                  .layer = layer_of(c, shape),
                  .table = c.input<float>("table"),
                  .in = c.vectors<int8_t>("in"),
                  .out = c.vectors_out<int8_t>("out"),
                  .out_f32 = c.vectors_out<float>("out_f32"),
                  .recordings = c.value<int>("recordings")};
  if (call.table != nullptr) call.table_size = static_cast<int>(c.array<float>("table").size());
  return dense_s8(call, launch);
}

cudaError_t run_attentive_pool_s8(Call& c, Launch& launch) {
  const ConvShape shape = c.shape(c.value<int>("hidden_channels"), c.value<int>("channels"));
  const PackedConvS8 packed = c.packed(shape);
  return attentive_pool_s8({.hidden_channels = shape.c_in,
                            .channels = shape.c_out,
                            .hidden = c.frames<int8_t>("hidden"),
                            .values = c.frames<int8_t>("values"),
                            .frames = c.ragged("lengths"),
                            .weights = c.weights(packed),
                            .initial = c.upload(packed.initial),
                            .multiplier = c.padded<float>("multiplier"),
                            .offset = c.padded<float>("offset"),
                            .softmax = c.softmax(),
                            .value_zero = c.value<int>("value_zero", 0),
                            .value_multiplier = c.padded<float>("value_multiplier"),
                            .found = c.vectors<float>("found"),
                            .min_variance = c.value<double>("min_variance"),
                            .out = c.vectors_out<float>("out")},
                           launch);
}

cudaError_t run_attentive_pool_s16(Call& c, Launch& launch) {
  const ConvShape shape = c.shape(c.value<int>("hidden_channels"), c.value<int>("channels"));
  return attentive_pool_s16({.hidden_channels = shape.c_in,
                             .channels = shape.c_out,
                             .hidden = c.planes("hidden"),
                             .values = c.frames<float>("values"),
                             .frames = c.ragged("lengths"),
                             .weights = c.weights_s16(shape),
                             .multiplier = c.row("epilogue", 0),
                             .offset = c.row("epilogue", 1),
                             .softmax = c.softmax(),
                             .min_variance = c.value<double>("min_variance"),
                             .out = c.vectors_out<float>("out")},
                            launch);
}

Quantization quantization_of(Call& c, const std::string& name) {
  return {c.padded<float>((name + "_multiplier").c_str()),
          c.padded<float>((name + "_offset").c_str()), c.value<int>((name + "_zero").c_str())};
}

cudaError_t run_squeeze_excitation_s8(Call& c, Launch& launch) {
  const int channels = c.value<int>("channels"), hidden = c.value<int>("hidden_channels");
  const PackedConvS8 reduce = c.packed(c.shape(channels, hidden), "reduce_");
  const PackedConvS8 expand = c.packed(c.shape(hidden, channels), "expand_");
  SqueezeExcitationS8 call = {
      .channels = channels,
      .hidden_channels = hidden,
      .in = c.frames<int8_t>("in"),
      .frames = c.ragged("lengths"),
      .in_zero = c.value<int>("in_zero"),
      .mean_multiplier = c.padded<float>("mean_multiplier"),
      .squeezed = quantization_of(c, "squeezed"),
      .reduce = c.weights(reduce),
      .reduce_epilogue = c.epilogue("reduce_epilogue", reduce.initial, true, 0),
      .hidden = quantization_of(c, "hidden"),
      .expand = c.weights(expand),
      .expand_epilogue = c.epilogue("expand_epilogue", expand.initial, false, 0),
      .table = c.input<float>("table"),
      .gate = c.vectors_out<float>("gate")};
  if (call.table != nullptr) call.table_size = static_cast<int>(c.array<float>("table").size());
  c.reserve_workspace(workspace_bytes(call, *launch.device), launch);
  return squeeze_excitation_s8(call, launch);
}

Variance variance_of(Call& c) {
  return {c.value<bool>("unbiased", false), c.value<double>("min_variance"),
          c.value<double>("added_variance", 0.0)};
}

cudaError_t run_stats_s8(Call& c, Launch& launch) {
  return stats_s8({.channels = c.value<int>("channels"),
                   .in = c.frames<int8_t>("in"),
                   .frames = c.ragged("lengths"),
                   .zero = c.value<int>("zero"),
                   .multiplier = c.padded<float>("multiplier"),
                   .std = c.value<bool>("std"),
                   .variance = variance_of(c),
                   .out = c.vectors_out<float>("out")},
                  launch);
}

cudaError_t run_stats_f32(Call& c, Launch& launch) {
  return stats_f32({.channels = c.value<int>("channels"),
                    .in = c.frames<float>("in"),
                    .frames = c.ragged("lengths"),
                    .std = c.value<bool>("std"),
                    .variance = variance_of(c),
                    .out = c.vectors_out<float>("out")},
                   launch);
}

cudaError_t run_add_s8(Call& c, Launch& launch) {
  return add_s8({.channels = c.value<int>("channels"),
                 .in = c.frames<int8_t>("in"),
                 .residual = c.frames<int8_t>("residual"),
                 .out = c.frames_out<int8_t>("out"),
                 .frames = c.ragged("lengths"),
                 .multiplier = c.padded<float>("multiplier"),
                 .residual_multiplier = c.value<float>("residual_multiplier"),
                 .in_zero = c.value<int>("in_zero"),
                 .residual_zero = c.value<int>("residual_zero"),
                 .out_zero = c.value<int>("out_zero"),
                 .gate = c.vectors<float>("gate"),
                 .relu = c.value<bool>("relu")},
                launch);
}

cudaError_t run_add_f32(Call& c, Launch& launch) {
  return add_f32({.channels = c.value<int>("channels"),
                  .in = c.frames<float>("in"),
                  .residual = c.frames<float>("residual"),
                  .out = c.frames_out<float>("out"),
                  .frames = c.ragged("lengths"),
                  .gate = c.vectors<float>("gate"),
                  .relu = c.value<bool>("relu")},
                 launch);
}

template <class T>
MaxPool<T> max_pool_of(Call& c) {
  return {.shape = c.shape(c.value<int>("channels"), c.value<int>("channels")),
          .in = c.frames<T>("in"),
          .in_frames = c.ragged("lengths"),
          .out = c.frames_out<T>("out"),
          .out_frames = c.ragged("out_lengths")};
}

cudaError_t run_max_pool_s8(Call& c, Launch& launch) {
  return max_pool_s8(max_pool_of<int8_t>(c), launch);
}

cudaError_t run_max_pool_f32(Call& c, Launch& launch) {
  return max_pool_f32(max_pool_of<float>(c), launch);
}

cudaError_t run_affine_f32(Call& c, Launch& launch) {
  return affine_f32({.channels = c.value<int>("channels"),
                     .recordings = c.value<int>("recordings"),
                     .in = c.vectors<float>("in"),
                     .out = c.vectors_out<float>("out"),
                     .multiplier = c.padded<float>("multiplier"),
                     .offset = c.padded<float>("offset")},
                    launch);
}

cudaError_t run_range_f32(Call& c, Launch& launch) {
  const RangeF32 call = {.channels = c.value<int>("channels"),
                         .in = c.frames<float>("in"),
                         .frames = c.ragged("lengths"),
                         .out = c.vectors_out<float>("out")};
  c.reserve_workspace(workspace_bytes(call, *launch.device), launch);
  return range_f32(call, launch);
}

cudaError_t run_conv_f32(Call& c, Launch& launch) {
  const ConvShape shape = c.shape(c.value<int>("c_in"), c.value<int>("c_out"));
  const std::string activation = c.value<std::string>("activation", "");
  LayerF32 layer;
  layer.weight = c.upload(pack_conv_f32(shape, c.array<float>("weight").data()));
  layer.offset = c.row("epilogue", 0);
  layer.gain = c.row("epilogue", 1);
  layer.shift = c.row("epilogue", 2);
  layer.relu = c.value<bool>("relu", false);
  if (activation == "tanh") layer.activation = LayerF32::Activation::kTanh;
  if (activation == "sigmoid") layer.activation = LayerF32::Activation::kSigmoid;
  return conv_f32({.shape = shape,
                   .layer = layer,
                   .bias = c.vectors<float>("bias"),
                   .in = c.frames<float>("in"),
                   .in_frames = c.ragged("lengths"),
                   .out = c.frames_out<float>("out"),
                   .out_frames = c.ragged("out_lengths")},
                  launch);
}

cudaError_t run_attentive_pool_f32(Call& c, Launch& launch) {
  const ConvShape shape = c.shape(c.value<int>("hidden_channels"), c.value<int>("channels"));
  return attentive_pool_f32(
      {.hidden_channels = shape.c_in,
       .channels = shape.c_out,
       .hidden = c.frames<float>("hidden"),
       .values = c.frames<float>("values"),
       .frames = c.ragged("lengths"),
       .weight = c.upload(pack_conv_f32(shape, c.array<float>("weight").data())),
       .offset = c.padded<float>("offset"),
       .softmax = c.softmax(),
       .min_variance = c.value<double>("min_variance"),
       .out = c.vectors_out<float>("out")},
      launch);
}

// x and out: float32, or the bits of float16 or bfloat16.
cudaError_t run_softmax(Call& c, Launch& launch) {
  const auto type = c.value<std::string>("type");
  Softmax call;
  call.function = c.softmax();
  call.bounds = c.value<bool>("bounds_on_device", false) ? c.input<float>("bounds") : nullptr;
  if (call.bounds != nullptr) call.function.pwl.low = call.function.pwl.high = 0.0f;
  call.type = type == "f32" ? FloatType::kF32 : type == "f16" ? FloatType::kF16 : FloatType::kBF16;
  if (type == "f32") {
    call.out = c.output<float>("out");
    call.x = c.has("x") ? c.input<float>("x") : call.out;
  } else {
    call.out = c.output<uint16_t>("out");
    call.x = c.has("x") ? c.input<uint16_t>("x") : call.out;
  }
  call.outer = c.value<int64_t>("outer");
  call.n = c.value<int64_t>("n");
  call.inner = c.value<int64_t>("inner");
  return softmax(call, launch);
}

#if defined(EARMARK_CUDA_EMULATED)
template <class Faulty>
cudaError_t run_faulty(Call& c, const Launch& launch, const Faulty& faulty) {
  const int n = static_cast<int>(c.array<int>("in").size());
  return faulty(c.input<int>("in"), c.output<int>("out"), n, c.value<int>("mistake"), launch);
}

cudaError_t run_reverse(Call& c, Launch& launch) {
  return run_faulty(c, launch, [](auto in, auto out, int n, int mistake, const Launch& l) {
    return reverse(in, out, n, static_cast<Mistake>(mistake), l);
  });
}

cudaError_t run_rotate(Call& c, Launch& launch) {
  return run_faulty(c, launch, [](auto in, auto out, int n, int mistake, const Launch& l) {
    return rotate(in, out, n, static_cast<Mistake>(mistake), l);
  });
}
#endif

using Run = cudaError_t (*)(Call&, Launch&);
const std::map<std::string, Run> kOps = {
    {"add_f32", run_add_f32},
    {"add_s8", run_add_s8},
    {"affine_f32", run_affine_f32},
    {"attentive_pool_f32", run_attentive_pool_f32},
    {"attentive_pool_s16", run_attentive_pool_s16},
    {"attentive_pool_s8", run_attentive_pool_s8},
    {"conv_f32", run_conv_f32},
    {"conv_s16", run_conv_s16},
    {"conv_s8", run_conv_s8},
    {"dense_s8", run_dense_s8},
    {"dequantize_f32", run_dequantize_f32},
    {"max_pool_f32", run_max_pool_f32},
    {"max_pool_s8", run_max_pool_s8},
    {"quantize_s16", run_quantize_s16},
    {"quantize_s8", run_quantize_s8},
    {"range_f32", run_range_f32},
    {"res2_s8", run_res2_s8},
    {"softmax", run_softmax},
    {"squeeze_excitation_s8", run_squeeze_excitation_s8},
    {"stats_f32", run_stats_f32},
    {"stats_s8", run_stats_s8},
#if defined(EARMARK_CUDA_EMULATED)
    {"reverse", run_reverse},
    {"rotate", run_rotate},
#endif
};

// Recorded as a CUDA graph and run from that, `runs` times over.
void run_recorded(Run op, Call& call, Launch& launch, int runs) {
#if defined(EARMARK_CUDA_EMULATED)
  EmulatedStream stream;
  launch.stream = &stream;
#else
  check(cudaStreamCreate(&launch.stream), "cudaStreamCreate");
#endif
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  check(cudaStreamBeginCapture(launch.stream, cudaStreamCaptureModeThreadLocal), "recording");
  check(op(call, launch), "recording");
  check(cudaStreamEndCapture(launch.stream, &graph), "recording");
  check(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
  for (int i = 0; i < runs; ++i) check(cudaGraphLaunch(ready, launch.stream), "cudaGraphLaunch");
  check(cudaStreamSynchronize(launch.stream), "graph");
  cudaGraphExecDestroy(ready);
  cudaGraphDestroy(graph);
#if !defined(EARMARK_CUDA_EMULATED)
  cudaStreamDestroy(launch.stream);
#endif
}

Device device_of_tests() {
  Device device;
  check(query_device(0, &device), "query_device");
#if defined(EARMARK_CUDA_EMULATED)
  device.wgmma = true;
  device.shared_memory = 227 << 10;
#endif
  return device;
}

// graph_runs: 0 launches the kernel, else so often from a graph. wgmma: whether kernels may choose
// it, where there is it.
std::string run(const std::string& op, const py::dict& arguments, int multiprocessors,
                int graph_runs, bool wgmma) {
  const auto found = kOps.find(op);
  EARMARK_CHECK(found != kOps.end(), "there is no kernel '", op, "'");
  Device device = device_of_tests();
  device.wgmma = device.wgmma && wgmma;
  if (multiprocessors != 0) device.multiprocessors = multiprocessors;
  Call call(arguments);
  Launch launch{&device};
  last_kernel = "";
  if (graph_runs == 0) {
    check(found->second(call, launch), op.c_str());
  } else {
    run_recorded(found->second, call, launch, graph_runs);
  }
  call.finish();
  return last_kernel;
}

// Device memory of a test's own.
class HostedMemory {
 public:
  explicit HostedMemory(size_t bytes) : bytes_(bytes) {
    check(cudaMalloc(&memory_, bytes), "cudaMalloc");
  }
  HostedMemory(const HostedMemory&) = delete;
  HostedMemory& operator=(const HostedMemory&) = delete;
  ~HostedMemory() { cudaFree(memory_); }

  uintptr_t address() const { return reinterpret_cast<uintptr_t>(memory_); }
  void write(const py::array& values) {
    copy(memory_, values.data(), values, cudaMemcpyHostToDevice);
  }
  void read(py::array& values) const {
    copy(values.mutable_data(), memory_, values, cudaMemcpyDeviceToHost);
  }

 private:
  void copy(void* to, const void* from, const py::array& values, cudaMemcpyKind kind) const {
    EARMARK_CHECK((values.flags() & py::array::c_style) != 0 &&
                      static_cast<size_t>(values.nbytes()) <= bytes_,
                  "an array that is not contiguous, or larger than the memory");
    if (values.nbytes() == 0) return;
    check(cudaMemcpyAsync(to, from, values.nbytes(), kind, nullptr), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  }

  void* memory_ = nullptr;
  size_t bytes_;
};

}  // namespace
}  // namespace earmark::cuda

PYBIND11_MODULE(EARMARK_MODULE, m) {
  using namespace earmark::cuda;
  m.doc() = "Kernels of csrc/cuda by name, for tests.";
  m.def("run", &run, py::arg("op"), py::arg("arguments"), py::arg("multiprocessors") = 0,
        py::arg("graph_runs") = 0, py::arg("wgmma") = false);
  py::class_<HostedMemory>(m, "Memory", py::module_local())
      .def(py::init<size_t>())
      .def_property_readonly("address", &HostedMemory::address)
      .def("write", &HostedMemory::write)
      .def("read", &HostedMemory::read);
  m.def("has_device", [] {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  });
  m.def("has_wgmma", [] { return device_of_tests().wgmma; });
#if defined(EARMARK_CUDA_EMULATED)
  m.attr("emulated") = true;
  m.def("seed", &emulation::seed, "The order of warps and lanes from here on.");
  m.def("bank_conflicts", [] { return emulation::machine.bank_conflicts; });
#else
  m.attr("emulated") = false;
#endif
}
