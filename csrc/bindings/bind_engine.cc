#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "core/check.h"
#include "engine/engine.h"

namespace py = pybind11;
using namespace earmark;

namespace {

std::string text(const py::dict& d, const char* key) {
  return d.contains(key) && !d[key].is_none() ? d[key].cast<std::string>() : std::string();
}

int integer(const py::dict& d, const char* key, int fallback) {
  return d.contains(key) ? d[key].cast<int>() : fallback;
}

DType dtype_of(const std::string& name, const std::string& tensor) {
  for (const DType dtype : {DType::kS8, DType::kS16, DType::kF32}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw std::invalid_argument(concat("tensor '", tensor, "': unknown dtype '", name, "'"));
}

TensorDesc tensor_desc(const std::string& name, const py::dict& d) {
  TensorDesc t;
  t.name = name;
  const std::string kind = text(d, "kind");
  EARMARK_CHECK(kind == "frames" || kind == "vector", "tensor '", name, "': unknown kind '", kind,
                "'");
  t.kind = kind == "frames" ? Kind::kFrames : Kind::kVector;
  t.dtype = dtype_of(text(d, "dtype"), name);
  t.channels = integer(d, "channels", 0);
  t.width = integer(d, "width", 1);
  t.zero_point = integer(d, "zero_point", 0);
  if (d.contains("scale")) t.scale = d["scale"].cast<double>();
  t.of = text(d, "of");
  t.offset = integer(d, "offset", 0);
  t.over = text(d, "over");
  return t;
}

// The op's attributes by type; `keep` holds the arrays until the engine has packed them.
OpDesc op_desc(const py::dict& d, std::vector<py::array>& keep) {
  OpDesc op;
  op.op = text(d, "op");
  op.name = text(d, "name");
  op.in = text(d, "in");
  op.out = text(d, "out");
  op.residual = text(d, "residual");
  op.gate = text(d, "gate");
  op.bias = text(d, "bias");
  op.values = text(d, "values");
  op.valid = text(d, "valid");
  op.quantization = text(d, "quantization");
  op.values_quantization = text(d, "values_quantization");
  for (const char* key : {"kernel", "stride", "dilation", "padding"}) {
    if (d.contains(key)) op.integers[key] = d[key].cast<std::vector<int>>();
  }
  if (d.contains("pad_to")) op.integers["pad_to"] = {d["pad_to"].cast<int>()};
  for (const char* key : {"relu", "std", "unbiased"}) {
    if (d.contains(key)) op.integers[key] = {d[key].cast<bool>() ? 1 : 0};
  }
  for (const char* key : {"pad_mode", "activation", "softmax"}) {
    const std::string word = text(d, key);
    if (!word.empty()) op.words[key] = word;
  }
  for (const char* key : {"min_variance", "added_variance"}) {
    if (d.contains(key)) op.numbers[key] = d[key].cast<double>();
  }
  for (const auto& [role, value] : d["arrays"].cast<py::dict>()) {
    const auto array = py::reinterpret_borrow<py::object>(value).cast<py::array>();
    const bool is_float = py::isinstance<py::array_t<float>>(array);
    const bool is_wide = py::isinstance<py::array_t<int16_t>>(array);
    EARMARK_CHECK(is_float || is_wide || py::isinstance<py::array_t<int8_t>>(array), "op '",
                  op.name, "': array '", role.cast<std::string>(),
                  "' is neither float32 nor int8 nor int16");
    EARMARK_CHECK(array.flags() & py::array::c_style, "op '", op.name, "': array '",
                  role.cast<std::string>(), "' is not contiguous");
    ArrayView view;
    view.data = array.data();
    view.dtype = is_float ? DType::kF32 : is_wide ? DType::kS16 : DType::kS8;
    view.shape.assign(array.shape(), array.shape() + array.ndim());
    op.arrays[role.cast<std::string>()] = view;
    keep.push_back(array);
  }
  return op;
}

}  // namespace

PlanDescs plan_of(const py::dict& tensors, const py::list& ops) {
  PlanDescs plan;
  for (const auto& [name, desc] : tensors) {
    plan.tensors.push_back(tensor_desc(name.cast<std::string>(), desc.cast<py::dict>()));
  }
  for (const auto& desc : ops) plan.ops.push_back(op_desc(desc.cast<py::dict>(), plan.keep));
  return plan;
}

int length_of(const Tensor& in, const std::vector<int64_t>& shape) {
  const int64_t values = static_cast<int64_t>(in.width) * in.channels;
  const bool flat = in.flat() && shape.size() == 2 && shape[1] == values;
  const bool wide = shape.size() == 3 && shape[1] == in.width && shape[2] == in.channels;
  EARMARK_CHECK(flat || wide, "features must have shape (frames, ",
                in.flat() ? concat(values) : concat(in.width, ", ", in.channels), ")");
  EARMARK_CHECK(shape[0] <= kMaxFrames, shape[0], " frames are too many");
  return static_cast<int>(shape[0]);
}

Recording recording_of(const Tensor& in, const py::array& array) {
  const bool is_float = py::isinstance<py::array_t<float>>(array);
  EARMARK_CHECK((is_float || py::isinstance<py::array_t<int8_t>>(array)) &&
                    (array.flags() & py::array::c_style),
                "features must be contiguous ", in.dtype == DType::kF32 ? "float32" : "int8");
  const int length = length_of(in, {array.shape(), array.shape() + array.ndim()});
  return {array.data(), length, is_float ? DType::kF32 : DType::kS8};
}

py::tuple traced_to_python(const std::map<std::string, TracedTensor>& traced,
                           const std::map<std::string, std::string>& kernels) {
  py::dict tensors;
  for (const auto& [name, t] : traced) {
    const py::dtype dtype = t.dtype == DType::kF32   ? py::dtype::of<float>()
                            : t.dtype == DType::kS16 ? py::dtype::of<int16_t>()
                                                     : py::dtype::of<int8_t>();
    py::array array(dtype, t.shape);
    std::memcpy(array.mutable_data(), t.data.data(), t.data.size());
    tensors[name.c_str()] = array;
  }
  return py::make_tuple(tensors, kernels);
}

py::list profiles_to_python(const std::vector<OpProfile>& profiles) {
  py::list ops;
  for (const OpProfile& p : profiles) {
    py::dict op;
    op["name"] = p.name;
    op["op"] = p.op;
    op["kernel"] = p.kernel;
    op["nanoseconds"] = p.nanoseconds;
    op["macs"] = p.macs;
    op["bytes"] = p.bytes;
    ops.append(op);
  }
  return ops;
}

namespace {

std::unique_ptr<Engine> make_engine(const py::dict& tensors, const py::list& ops,
                                    const std::string& isa, int threads) {
  const PlanDescs plan = plan_of(tensors, ops);
  const Isa chosen = isa.empty() ? default_isa() : find_isa(isa);
  const py::gil_scoped_release unlocked;
  return std::make_unique<Engine>(plan.tensors, plan.ops, chosen, threads);
}

// fill(out) for an array of one row of outputs a recording, without the GIL.
template <class T, class Fill>
py::array rows_of(const Engine& engine, size_t recordings, const Fill& fill) {
  py::array_t<T> rows(
      {static_cast<py::ssize_t>(recordings), static_cast<py::ssize_t>(engine.output().channels)});
  T* out = rows.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    fill(out);
  }
  return rows;
}

template <class Fill>
py::array outputs(const Engine& engine, size_t recordings, bool quantized, const Fill& fill) {
  return quantized ? rows_of<int8_t>(engine, recordings, fill)
                   : rows_of<float>(engine, recordings, fill);
}

py::array run(const Engine& engine, const std::vector<py::array>& features, bool quantized) {
  std::vector<Recording> recordings;
  for (const py::array& f : features) recordings.push_back(recording_of(engine.input(), f));
  return outputs(engine, recordings.size(), quantized,
                 [&](auto* out) { engine.run(recordings, out); });
}

py::array embed(const Engine& engine, const FrontEnd& front_end,
                const std::vector<py::array>& arrays, bool quantized) {
  std::vector<Waveform> waveforms;
  for (const py::array& array : arrays) waveforms.push_back(waveform_of(array));
  return outputs(engine, waveforms.size(), quantized,
                 [&](auto* out) { engine.embed(front_end, waveforms, out); });
}

// What `run(&kernels)` traces.
template <class Run>
py::tuple traced_by(const Run& run) {
  std::map<std::string, std::string> kernels;
  std::map<std::string, TracedTensor> traced;
  {
    const py::gil_scoped_release unlocked;
    traced = run(&kernels);
  }
  return traced_to_python(traced, kernels);
}

py::tuple trace(const Engine& engine, const py::array& features) {
  const Recording recording = recording_of(engine.input(), features);
  return traced_by([&](auto* kernels) { return engine.trace(recording, kernels); });
}

py::tuple trace_waveform(const Engine& engine, const FrontEnd& front_end, const py::array& array) {
  const Waveform waveform = waveform_of(array);
  return traced_by([&](auto* kernels) { return engine.trace(front_end, waveform, kernels); });
}

py::list profile(const Engine& engine, const py::array& features) {
  const Recording recording = recording_of(engine.input(), features);
  std::vector<OpProfile> profiles;
  {
    const py::gil_scoped_release unlocked;
    profiles = engine.profile(recording);
  }
  return profiles_to_python(profiles);
}

}  // namespace

void bind_engine(py::module_& m) {
  py::class_<Engine>(m, "Engine", "Runs a plan; thread-safe. See docs/file-format.md.")
      .def(py::init(&make_engine), py::arg("tensors"), py::arg("ops"), py::kw_only(),
           py::arg("isa") = "", py::arg("threads") = 0)
      .def_property_readonly("isa", [](const Engine& e) { return std::string(isa_name(e.isa())); })
      .def_property_readonly("threads", &Engine::threads)
      .def_property_readonly("min_length", &Engine::min_length)
      .def("why_not", &Engine::why_not, py::arg("length"))
      .def("arena_bytes", &Engine::arena_bytes, py::arg("length"))
      .def("run", &run, py::arg("features"), py::kw_only(), py::arg("quantized") = false)
      .def("embed", &embed, py::arg("front_end"), py::arg("waveforms"), py::kw_only(),
           py::arg("quantized") = false)
      .def("trace", &trace, py::arg("features"))
      .def("trace", &trace_waveform, py::arg("front_end"), py::arg("waveform"))
      .def("profile", &profile, py::arg("features"));
}
