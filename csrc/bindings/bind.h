#pragma once

#include <pybind11/numpy.h>

#include "engine/front_end.h"

void bind_runtime(pybind11::module_& m);
void bind_front_end(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_softmax(pybind11::module_& m);

// The array's samples, without a copy. Throws std::invalid_argument unless it is float32 of rank 1,
// contiguous and aligned.
earmark::Waveform waveform_of(const pybind11::array& array);
