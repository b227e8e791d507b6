// earmark._C: the engine and what it runs on. One bind_<topic>.cc a topic.
#include "bindings/bind.h"

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels and engine of earmark.";
  bind_runtime(m);
  bind_front_end(m);
  bind_engine(m);
  bind_softmax(m);
  bind_storage(m);
#if defined(EARMARK_CUDA)
  bind_cuda(m);
#endif
}
