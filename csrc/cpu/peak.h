// What this processor's cores can do at most, measured.
#pragma once

#include <map>
#include <string>

#include "cpu/cpu_features.h"

namespace earmark {

// Multiply-accumulates a second of one thread in 1e9, by the instructions of `isa` alone, best of
// several tries: "s8" (VPDPBUSD, or VPMADDWD without the addition) and "f32" (FMA). Takes about 50
// ms each.
std::map<std::string, double> measure_peaks(Isa isa);

}  // namespace earmark
