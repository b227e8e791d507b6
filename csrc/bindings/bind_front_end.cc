#include "bindings/bind.h"
#include "core/check.h"
#include "cpu/cpu_features.h"
#include "engine/kaldi_fbank.h"
#include "engine/log_mel.h"
#include "engine/nemo_fbank.h"
#include "engine/speechbrain_fbank.h"
#include "engine/taoruijie_fbank.h"

namespace py = pybind11;
using namespace earmark;

Waveform waveform_of(const py::array& array) {
  EARMARK_CHECK(py::isinstance<py::array_t<float>>(array) && array.ndim() == 1,
                "a waveform must be float32 of shape (n,), got ",
                py::str(array.dtype()).cast<std::string>(), " of rank ", array.ndim());
  const auto* samples = static_cast<const float*>(array.data());
  EARMARK_CHECK((array.flags() & py::array::c_style) &&
                    reinterpret_cast<uintptr_t>(samples) % alignof(float) == 0,
                "a waveform must be contiguous and aligned");
  return {samples, array.shape(0)};
}

namespace {

// On the calling thread: a pool for one recording would take longer to start than to use.
py::array_t<float> features(const FrontEnd& front_end, const py::array& array,
                            const std::string& isa) {
  const Kernels& chosen = kernels(isa.empty() ? default_isa() : find_isa(isa));
  const Waveform waveform = waveform_of(array);
  int frames;
  {
    const py::gil_scoped_release unlocked;
    frames = front_end.checked_frames(waveform);
  }
  py::array_t<float> result({frames, front_end.n_features()});
  float* out = result.mutable_data();
  const py::gil_scoped_release unlocked;
  ThreadPool caller(1);
  front_end.run(chosen, caller, waveform, out);
  return result;
}

constexpr char kDoc[] = "See docs/arithmetic.md, \"Front end\".";

template <class Kind>
void bind_of_mels(py::module_& m, const char* name) {
  py::class_<Kind, FrontEnd>(m, name, kDoc).def(py::init<int>(), py::arg("n_mels"));
}

}  // namespace

void bind_front_end(py::module_& m) {
  py::class_<FrontEnd>(m, "FrontEnd", "From a waveform to features; thread-safe.")
      .def_property_readonly("n_features", &FrontEnd::n_features)
      .def_property_readonly("min_samples", &FrontEnd::min_samples)
      .def("frames", &FrontEnd::frames, py::arg("samples"))
      .def("samples_of_frames", &FrontEnd::samples_of_frames, py::arg("frames"))
      .def("__call__", &features, py::arg("waveform"), py::kw_only(), py::arg("isa") = "");
  bind_of_mels<LogMel>(m, "LogMel");
  bind_of_mels<NemoFbank>(m, "NemoFbank");
  bind_of_mels<SpeechBrainFbank>(m, "SpeechBrainFbank");
  bind_of_mels<TaoRuijieFbank>(m, "TaoRuijieFbank");
  py::class_<KaldiFbank, FrontEnd>(m, "KaldiFbank", kDoc)
      .def(py::init<int, const std::string&, double>(), py::arg("n_mels"), py::arg("window"),
           py::arg("scale"));
}
