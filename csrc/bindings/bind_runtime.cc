#include <pybind11/stl.h>

#include "bindings/bind.h"
#include "cpu/cpu_features.h"
#include "cpu/kernels.h"
#include "cpu/peak.h"
#include "engine/thread_pool.h"

void bind_runtime(pybind11::module_& m) {
  m.def(
      "available_isas",
      [] {
        std::vector<std::string> names;
        for (const earmark::Isa isa : earmark::available_isas())
          names.push_back(earmark::isa_name(isa));
        return names;
      },
      "Instruction sets built into this binary and present on this processor, best last.");
  m.def(
      "default_isa", [] { return std::string(earmark::isa_name(earmark::default_isa())); },
      "The instruction set in use: EARMARK_ISA, or the best one.");
  m.def("default_threads", &earmark::default_threads, "Physical cores this process may use.");
  m.def(
      "measure_peaks",
      [](const std::string& isa) { return earmark::measure_peaks(earmark::find_isa(isa)); },
      pybind11::arg("isa"), pybind11::call_guard<pybind11::gil_scoped_release>(),
      "Multiply-accumulates a second of one thread in 1e9, from loops that touch registers only: "
      "'s8' and 'f32'.");
  m.def(
      "last_kernel", [] { return std::string(earmark::last_kernel); },
      "The kernel this thread ran last, as op/isa.");
}
