#pragma once

#include <pybind11/numpy.h>

#include <map>
#include <string>
#include <vector>

#include "engine/engine.h"

void bind_runtime(pybind11::module_& m);
void bind_front_end(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_softmax(pybind11::module_& m);
void bind_storage(pybind11::module_& m);
void bind_cuda(pybind11::module_& m);  // where the build has CUDA kernels

// The array's samples, without a copy. Throws std::invalid_argument unless it is float32 of rank 1,
// contiguous and aligned.
earmark::Waveform waveform_of(const pybind11::array& array);

// A plan from Python. `keep` holds the arrays until an engine has packed them.
struct PlanDescs {
  std::vector<earmark::TensorDesc> tensors;
  std::vector<earmark::OpDesc> ops;
  std::vector<pybind11::array> keep;
};
PlanDescs plan_of(const pybind11::dict& tensors, const pybind11::list& ops);

// Time positions of features of that shape: (length, width, channels), or without one of the two if
// it is 1. Throws std::invalid_argument for another shape.
int length_of(const earmark::Tensor& input, const std::vector<int64_t>& shape);
earmark::Recording recording_of(const earmark::Tensor& input, const pybind11::array& array);

// (tensors by name, kernels by op).
pybind11::tuple traced_to_python(const std::map<std::string, earmark::TracedTensor>& traced,
                                 const std::map<std::string, std::string>& kernels);
pybind11::list profiles_to_python(const std::vector<earmark::OpProfile>& profiles);
