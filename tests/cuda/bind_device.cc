// The device engine over the emulation, as earmark._C.cuda is over CUDA.
#include "bindings/bind.h"
#include "cuda/launch.h"

PYBIND11_MODULE(_device_emulated, m) {
  m.doc() = "The engine of CUDA devices, executed on the CPU for tests.";
  // Front ends are objects of that module.
  pybind11::module_::import("earmark._C");
  bind_cuda(m);
  m.def("seed", &emulation::seed, "The order of warps and lanes from here on.");
}
