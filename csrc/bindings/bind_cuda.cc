// earmark._C.cuda: the engine of CUDA devices. Tests build it over an emulation as well.
#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "bindings/device_array.h"
#include "core/check.h"
#include "cuda/softmax.h"
#include "engine/device/device_engine.h"

namespace py = pybind11;
using namespace earmark;
using earmark::cuda::Memory;
using earmark::device::DeviceEngine;

namespace {

// Devices that a kernel can run on; none where there is no driver.
py::list devices() {
  int count = 0;
  try {
    cuda::check(cudaGetDeviceCount(&count), "counting devices");
  } catch (const std::runtime_error&) {
    count = 0;
  }
  py::list list;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    cuda::Device device;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess ||
        cuda::query_device(i, &device) != cudaSuccess) {
      continue;
    }
    int driver = 0;
    cudaDriverGetVersion(&driver);
    py::dict d;
    d["ordinal"] = i;
    d["name"] = std::string(properties.name);
    d["capability"] = device.capability;
    d["driver"] = concat(driver / 1000, ".", driver % 1000 / 10);
    list.append(d);
  }
  return list;
}

std::unique_ptr<DeviceEngine> make_engine(const py::dict& tensors, const py::list& ops, int ordinal,
                                          size_t memory) {
  const PlanDescs plan = plan_of(tensors, ops);
  const py::gil_scoped_release unlocked;
  return std::make_unique<DeviceEngine>(plan.tensors, plan.ops, ordinal, memory);
}

// Inputs as views that live as long as this, all on the host or all on the device.
struct Inputs {
  Memory where = Memory::kHost;
  std::vector<DeviceView> views;

  // body(view) for an array of the device's, host(array) for one of NumPy's.
  template <class OfView, class OfArray>
  Inputs(const py::list& arrays, int ordinal, std::optional<uintptr_t> stream,
         const OfView& of_view, const OfArray& of_array) {
    for (size_t i = 0; i < arrays.size(); ++i) {
      const auto array = py::reinterpret_borrow<py::object>(arrays[i]);
      std::optional<DeviceView> view = device_view(array, ordinal, stream);
      const Memory here = view.has_value() ? Memory::kDevice : Memory::kHost;
      EARMARK_CHECK(i == 0 || here == where, "item ", i, " is ",
                    view.has_value() ? "on the device and others are not"
                                     : "not on the device and others are");
      where = here;
      if (view.has_value()) {
        of_view(*view);
        views.push_back(std::move(*view));
      } else {
        EARMARK_CHECK(py::isinstance<py::array>(array), "item ", i, " is no array");
        of_array(array.cast<py::array>());
      }
    }
  }
};

// fill(data, where, stream) for an array of one row of outputs a recording, without the GIL.
template <class T, class Fill>
py::object rows_of(const DeviceEngine& engine, size_t recordings, bool on_device,
                   const py::object& given, std::optional<uintptr_t> number, const Fill& fill) {
  const int channels = engine.output().channels;
  const cudaStream_t stream = stream_of(number.value_or(0));
  const cudaStream_t* chosen = number.has_value() ? &stream : nullptr;
  if (!on_device && given.is_none()) {
    py::array_t<T> rows({static_cast<py::ssize_t>(recordings), static_cast<py::ssize_t>(channels)});
    T* out = rows.mutable_data();
    const py::gil_scoped_release unlocked;
    fill(out, Memory::kHost, chosen);
    return rows;
  }
  if (!given.is_none()) {
    std::optional<DeviceView> view = device_view(given, engine.ordinal(), number);
    EARMARK_CHECK(view.has_value(), "out is no array on the device");
    const DType dtype = std::is_same_v<T, float> ? DType::kF32 : DType::kS8;
    const std::vector<int64_t> shape = {static_cast<int64_t>(recordings), channels};
    EARMARK_CHECK(view->dtype == dtype && view->shape == shape, "out must be ",
                  dtype == DType::kF32 ? "float32" : "int8", " of shape (", recordings, ", ",
                  channels, ")");
    auto* data = static_cast<T*>(const_cast<void*>(view->data));
    const cudaStream_t legacy = nullptr;
    {
      const py::gil_scoped_release unlocked;
      fill(data, Memory::kDevice, number.has_value() ? chosen : &legacy);
    }
    return given;
  }
  DeviceArray rows(engine.ordinal(), static_cast<int64_t>(recordings), channels,
                   std::is_same_v<T, float> ? DType::kF32 : DType::kS8);
  {
    const py::gil_scoped_release unlocked;
    // Without a stream of the caller's, the legacy one: all others of the default kind follow it.
    const cudaStream_t legacy = nullptr;
    fill(static_cast<T*>(rows.data()), Memory::kDevice, number.has_value() ? chosen : &legacy);
    rows.filled_on(number.has_value() ? stream : legacy);
  }
  return py::cast(std::move(rows));
}

template <class Fill>
py::object outputs(const DeviceEngine& engine, size_t recordings, bool quantized, bool on_device,
                   const py::object& given, std::optional<uintptr_t> stream, const Fill& fill) {
  return quantized ? rows_of<int8_t>(engine, recordings, on_device, given, stream, fill)
                   : rows_of<float>(engine, recordings, on_device, given, stream, fill);
}

py::object run(const DeviceEngine& engine, const py::list& features, bool quantized, bool on_device,
               const py::object& given, std::optional<uintptr_t> stream) {
  std::vector<Recording> recordings;
  const Inputs inputs(
      features, engine.ordinal(), stream,
      [&](const DeviceView& view) {
        const Tensor& in = engine.input();
        if (!in.flat() || view.shape.size() != 3) {
          recordings.push_back({view.data, length_of(in, view.shape), view.dtype});
          return;
        }
        // A batch.
        const int length = length_of(in, {view.shape[1], view.shape[2]});
        const auto* data = static_cast<const char*>(view.data);
        const int64_t bytes = view.shape[1] * view.shape[2] * size_of(view.dtype);
        for (int64_t r = 0; r < view.shape[0]; ++r) {
          recordings.push_back({data + r * bytes, length, view.dtype});
        }
      },
      [&](const py::array& array) { recordings.push_back(recording_of(engine.input(), array)); });
  return outputs(engine, recordings.size(), quantized, on_device, given, stream,
                 [&](auto* out, Memory where, const cudaStream_t* chosen) {
                   engine.run(recordings, inputs.where, out, where, chosen);
                 });
}

py::object embed(const DeviceEngine& engine, const FrontEnd& front_end, const py::list& arrays,
                 bool quantized, bool on_device, const py::object& given,
                 std::optional<uintptr_t> stream) {
  std::vector<Waveform> waveforms;
  const Inputs inputs(
      arrays, engine.ordinal(), stream,
      [&](const DeviceView& view) {
        EARMARK_CHECK(view.dtype == DType::kF32 && view.shape.size() == 1,
                      "a waveform must be float32 of shape (n,)");
        waveforms.push_back({static_cast<const float*>(view.data), view.shape[0]});
      },
      [&](const py::array& array) { waveforms.push_back(waveform_of(array)); });
  return outputs(engine, waveforms.size(), quantized, on_device, given, stream,
                 [&](auto* out, Memory where, const cudaStream_t* chosen) {
                   engine.embed(front_end, waveforms, inputs.where, out, where, chosen);
                 });
}

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

// Over memory of the caller's: x, out, breakpoints, slopes, intercepts, two bounds.
void pwl_softmax(const std::vector<uintptr_t>& addresses, const std::string& dtype,
                 const std::array<int64_t, 3>& sizes, int pieces, int ordinal,
                 std::optional<uintptr_t> number) {
  static const std::map<std::string, cuda::FloatType> types = {{"f32", cuda::FloatType::kF32},
                                                               {"f16", cuda::FloatType::kF16},
                                                               {"bf16", cuda::FloatType::kBF16}};
  const auto type = types.find(dtype);
  EARMARK_CHECK(type != types.end(), "unknown dtype '", dtype, "'");
  EARMARK_CHECK(addresses.size() == 6, "expected 6 addresses, got ", addresses.size());
  EARMARK_CHECK(pieces >= 1 && pieces <= 1 << 16, pieces, " pieces");
  EARMARK_CHECK(*std::min_element(sizes.begin(), sizes.end()) >= 0, "a size is below 0");
  const auto floats = [&](int i) { return reinterpret_cast<const float*>(addresses[i]); };
  const py::gil_scoped_release unlocked;
  const earmark::cuda::DeviceGuard guard(ordinal);
  const cudaStream_t stream = stream_of(number.value_or(0));
  cuda::Softmax call;
  call.function.kind = cuda::SoftmaxFunction::Kind::kPwl;
  call.function.pwl = {floats(2), floats(3), floats(4), pieces - 1};
  call.bounds = floats(5);
  call.type = type->second;
  call.x = reinterpret_cast<const void*>(addresses[0]);
  call.out = reinterpret_cast<void*>(addresses[1]);
  call.outer = sizes[0];
  call.n = sizes[1];
  call.inner = sizes[2];
  cuda::Device device;
  cuda::check(cuda::query_device(ordinal, &device), "asking for the device");
  cuda::check(cuda::softmax(call, {&device, stream, nullptr}), "softmax");
}

}  // namespace

void bind_cuda(py::module_& parent) {
  py::module_ m = parent.def_submodule("cuda", "The engine of CUDA devices.");
  m.def("devices", &devices,
        "CUDA devices: ordinal, name, capability (10 * major + minor), driver.");
  m.def("pwl_softmax", &pwl_softmax, py::arg("addresses"), py::arg("dtype"), py::arg("sizes"),
        py::arg("pieces"), py::arg("ordinal"), py::arg("stream"));
  m.def("upload", &DeviceArray::of, py::arg("ordinal"), py::arg("array"),
        "A copy of an array (rows, columns), float32 or int8, on a device.");
  py::class_<DeviceArray>(m, "Array", py::module_local(),
                          "Rows of outputs on a device; other libraries take it without a copy.")
      .def_property_readonly(
          "shape", [](const DeviceArray& a) { return py::make_tuple(a.shape()[0], a.shape()[1]); })
      .def_property_readonly("dtype",
                             [](const DeviceArray& a) {
                               return a.dtype() == DType::kF32 ? py::dtype::of<float>()
                                                               : py::dtype::of<int8_t>();
                             })
      .def(
          "__dlpack__",
          [](const DeviceArray& a, const py::object& stream, const py::kwargs&) {
            return a.to_dlpack(stream);
          },
          py::kw_only(), py::arg("stream") = py::none())
      .def("__dlpack_device__", &DeviceArray::dlpack_device)
      .def_property_readonly("__cuda_array_interface__", &DeviceArray::interface)
      .def("numpy", &DeviceArray::to_numpy, "A copy.");
  py::class_<DeviceEngine>(m, "Engine", py::module_local(),
                           "Runs a plan on a device; thread-safe. See docs/file-format.md.")
      .def(py::init(&make_engine), py::arg("tensors"), py::arg("ops"), py::kw_only(),
           py::arg("ordinal") = 0, py::arg("memory") = 0)
      .def_property_readonly("ordinal", &DeviceEngine::ordinal)
      .def_property_readonly("isa",
                             [](const DeviceEngine& e) { return concat("sm_", e.capability()); })
      .def_property_readonly("threads", [](const DeviceEngine&) { return py::none(); })
      .def_property_readonly("min_length", &DeviceEngine::min_length)
      .def("why_not", &DeviceEngine::why_not, py::arg("length"))
      .def("arena_bytes", &DeviceEngine::arena_bytes, py::arg("length"))
      .def_property_readonly("weight_bytes", &DeviceEngine::weight_bytes)
      .def("run", &run, py::arg("features"), py::kw_only(), py::arg("quantized") = false,
           py::arg("on_device") = false, py::arg("out") = py::none(),
           py::arg("stream") = py::none())
      .def("embed", &embed, py::arg("front_end"), py::arg("waveforms"), py::kw_only(),
           py::arg("quantized") = false, py::arg("on_device") = false, py::arg("out") = py::none(),
           py::arg("stream") = py::none())
      .def(
          "trace",
          [](const DeviceEngine& engine, const py::array& features) {
            const Recording recording = recording_of(engine.input(), features);
            return traced_by([&](auto* kernels) { return engine.trace(recording, kernels); });
          },
          py::arg("features"))
      .def(
          "trace",
          [](const DeviceEngine& engine, const FrontEnd& front_end, const py::array& array) {
            const Waveform waveform = waveform_of(array);
            return traced_by(
                [&](auto* kernels) { return engine.trace(front_end, waveform, kernels); });
          },
          py::arg("front_end"), py::arg("waveform"))
      .def(
          "profile",
          [](const DeviceEngine& engine, const py::object& features, int times) {
            std::vector<Recording> recordings;
            if (py::isinstance<py::list>(features)) {
              for (const auto& item : features.cast<py::list>()) {
                recordings.push_back(recording_of(engine.input(), item.cast<py::array>()));
              }
            } else {
              recordings.push_back(recording_of(engine.input(), features.cast<py::array>()));
            }
            std::vector<OpProfile> profiles;
            {
              const py::gil_scoped_release unlocked;
              profiles = engine.profile(recordings, times);
            }
            return profiles_to_python(profiles);
          },
          py::arg("features"), py::kw_only(), py::arg("times") = 1);
}
