// Reads the arguments of a kernel from a Python dict into device memory, and takes back what the
// kernel wrote.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/conv_shape.h"
#include "cuda/conv_s16.h"
#include "cuda/conv_s8.h"
#include "cuda/pack_conv_s8.h"
#include "cuda/softmax_function.h"

namespace earmark::cuda {

namespace py = pybind11;

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::string text = concat(what, ": ", cudaGetErrorString(error));
#if defined(EARMARK_CUDA_EMULATED)
  text += ": " + emulation::take_error();
#endif
  throw std::runtime_error(text);
}

class Call {
 public:
  explicit Call(const py::dict& arguments) : arguments_(arguments) {}

  bool has(const char* name) const {
    return arguments_.contains(name) && !arguments_[name].is_none();
  }
  template <class T>
  T value(const char* name) const {
    return arguments_[name].cast<T>();
  }
  template <class T>
  T value(const char* name, T fallback) const {
    return has(name) ? value<T>(name) : fallback;
  }

  template <class T>
  py::array_t<T> array(const char* name) const {
    const auto a = py::array::ensure(arguments_[name]);
    EARMARK_CHECK(py::isinstance<py::array_t<T>>(a) && (a.flags() & py::array::c_style), name,
                  " has another type");
    return a;
  }

  // A copy in device memory, of exactly that size.
  template <class T>
  T* upload(const T* data, size_t count) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, count * sizeof(T)), "cudaMalloc");
    memory_.emplace_back(memory, &release);
    if (count == 0) return static_cast<T*>(memory);
    check(cudaMemcpyAsync(memory, data, count * sizeof(T), cudaMemcpyHostToDevice, nullptr),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
    return static_cast<T*>(memory);
  }
  template <class T>
  const T* upload(const std::vector<T>& values) {
    return upload(values.data(), values.size());
  }

  // Null where it is missing. `padded`: one value a channel, filled up to whole panels.
  template <class T>
  const T* input(const char* name) {
    if (!has(name)) return nullptr;
    const auto a = array<T>(name);
    return upload(a.data(), a.size());
  }
  template <class T>
  const T* padded(const char* name) {
    if (!has(name)) return nullptr;
    const auto a = array<T>(name);
    std::vector<T> values(a.data(), a.data() + a.size());
    values.resize(padded_channels(static_cast<int>(values.size())), T{1});
    return upload(values);
  }
  // Row `row` of a two-dimensional array, as `padded`; null where there is none.
  const float* row(const char* name, int row) {
    const auto a = array<float>(name);
    if (row >= a.shape(0)) return nullptr;
    std::vector<float> values(a.data(row), a.data(row) + a.shape(1));
    values.resize(padded_channels(static_cast<int>(values.size())), 1.0f);
    return upload(values);
  }
  EpilogueS8 epilogue(const char* name, const std::vector<int32_t>& initial, bool relu, int zero) {
    return {upload(initial), row(name, 0), row(name, 1), row(name, 2),
            row(name, 3),    relu,         zero + 128};
  }

  // `name`: an array (positions, stride) or (recordings, stride); `name`_offset: the first channel.
  template <class T>
  Frames<const T> frames(const char* name) {
    const auto a = array<T>(name);
    return {input<T>(name) + offset(name), a.shape(1), width(name)};
  }
  template <class T>
  Frames<T> frames_out(const char* name) {
    if (!has(name)) return {nullptr, 0, width(name)};
    const auto a = array<T>(name);
    return {output<T>(name) + offset(name), a.shape(1), width(name)};
  }
  // As frames, `name`_low behind each other; 0: one plane.
  Planes<const int8_t> planes(const char* name) { return {frames<int8_t>(name), low(name)}; }
  Planes<int8_t> planes_out(const char* name) { return {frames_out<int8_t>(name), low(name)}; }
  template <class T>
  Vectors<const T> vectors(const char* name) {
    if (!has(name)) return {};
    return {input<T>(name), array<T>(name).shape(1)};
  }
  template <class T>
  Vectors<T> vectors_out(const char* name) {
    if (!has(name)) return {};
    return {output<T>(name), array<T>(name).shape(1)};
  }

  // `name`: the lengths, int32.
  Ragged ragged(const char* name) {
    const auto lengths = array<int32_t>(name);
    std::vector<int32_t> offsets(1, 0);
    for (py::ssize_t i = 0; i < lengths.size(); ++i) {
      offsets.push_back(offsets.back() + lengths.data()[i]);
    }
    return {upload(offsets), static_cast<int>(lengths.size()), offsets.back()};
  }

  ConvShape shape(int c_in, int c_out) const {
    ConvShape s;
    Axis* axes[] = {&s.time, &s.width};
    for (int i = 0; i < 2; ++i) {
      axes[i]->kernel = pair("kernel", i, 1);
      axes[i]->stride = pair("stride", i, 1);
      axes[i]->dilation = pair("dilation", i, 1);
      axes[i]->padding = pair("padding", i, 0);
    }
    const auto mode = value<std::string>("pad_mode", "zero");
    s.pad_mode = mode == "reflect" ? PadMode::kReflect : PadMode::kZero;
    s.c_in = c_in;
    s.c_out = c_out;
    return s;
  }

  // `prefix`weight [c_out][...][c_in] and `prefix`input_zero [c_in].
  PackedConvS8 packed(const ConvShape& shape, const std::string& prefix = "") {
    return pack_conv_s8(shape, array<int8_t>((prefix + "weight").c_str()).data(),
                        array<int8_t>((prefix + "input_zero").c_str()).data());
  }
  WeightsS8 weights(const PackedConvS8& packed) {
    return {upload(packed.weight), packed.depth, upload(packed.input_zero)};
  }

  // `weight` [planes][c_out][...][c_in] and `input_zero` [planes][c_in].
  WeightsS16 weights_s16(const ConvShape& shape) {
    const auto rows = [&](const char* name) {
      const auto a = array<int8_t>(name);
      const py::ssize_t size = a.size() / a.shape(0);
      std::vector<std::vector<int8_t>> planes;
      for (py::ssize_t i = 0; i < a.shape(0); ++i) {
        planes.emplace_back(a.data() + i * size, a.data() + (i + 1) * size);
      }
      return planes;
    };
    const auto planes = rows("weight");
    const PackedConvS16 packed = pack_conv_s16(shape, planes, rows("input_zero"));
    return {upload(packed.weight), static_cast<int>(planes.size()), packed.depth,
            upload(packed.input_zero), upload(packed.initial)};
  }

  // `table`, with lines; no entries where it is missing.
  LookupTable line_table() {
    if (!has("table")) return {};
    const auto table = array<float>("table");
    const int entries = static_cast<int>(table.size());
    std::vector<float> differences(entries, 0.0f);
    for (int i = 0; i + 1 < entries; ++i) differences[i] = table.data()[i + 1] - table.data()[i];
    return {input<float>("table"), upload(differences), entries};
  }

  SoftmaxFunction softmax() {
    SoftmaxFunction f;
    if (has("slopes")) {
      f.kind = SoftmaxFunction::Kind::kPwl;
      const auto bounds = array<float>("bounds");
      f.pwl = {input<float>("breakpoints"),
               input<float>("slopes"),
               input<float>("intercepts"),
               static_cast<int>(array<float>("breakpoints").size()),
               bounds.data()[0],
               bounds.data()[1]};
    } else if (has("table")) {
      f.kind = SoftmaxFunction::Kind::kTable;
      f.table = line_table();
      const int entries = f.table.entries;
      if (has("range")) {
        const auto range = array<float>("range");
        f.table.scale = static_cast<float>(entries - 1) / (range.data()[1] - range.data()[0]);
        f.table.offset = -range.data()[0] * f.table.scale;
      }
    }
    return f;
  }

  // A device array whose contents go back into the array of that name when all is done.
  template <class T>
  T* output(const char* name) {
    auto a = array<T>(name);
    T* memory = upload(a.data(), a.size());
    outputs_.push_back({a.mutable_data(), memory, static_cast<size_t>(a.nbytes())});
    return memory;
  }

  // A call inside this one, which lives as long.
  Call& part(const py::dict& arguments) {
    parts_.push_back(std::make_unique<Call>(arguments));
    return *parts_.back();
  }

  // Zeros, which the kernel has to leave so.
  void reserve_workspace(size_t bytes, Launch& launch) {
    const std::vector<char> zeros(bytes, 0);
    launch.workspace = upload(zeros.data(), bytes);
    workspace_ = {launch.workspace, bytes};
  }

  void finish() {
    std::vector<char> left(workspace_.second, 0);
    if (!left.empty()) copy_back(left.data(), workspace_.first, left.size());
    for (const Output& o : outputs_) {
      if (o.bytes != 0) copy_back(o.to, o.from, o.bytes);
    }
    check(cudaStreamSynchronize(nullptr), "kernel");
    EARMARK_CHECK(
        std::count(left.begin(), left.end(), 0) == static_cast<std::ptrdiff_t>(left.size()),
        "something is left in the workspace");
  }

 private:
  struct Output {
    void* to;
    const void* from;
    size_t bytes;
  };

  static void copy_back(void* to, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, nullptr), "copy back");
  }
  static void release(void* memory) { cudaFree(memory); }

  int pair(const char* name, int axis, int fallback) const {
    return has(name) ? value<std::vector<int>>(name).at(axis) : fallback;
  }
  int64_t offset(const char* name) const {
    return value<int64_t>((std::string(name) + "_offset").c_str(), 0);
  }
  int64_t low(const char* name) const {
    return value<int64_t>((std::string(name) + "_low").c_str(), 0);
  }
  int width(const char* name) const {
    return value<int>((std::string(name) + "_width").c_str(), 1);
  }

  py::dict arguments_;
  std::vector<std::unique_ptr<Call>> parts_;
  std::vector<std::unique_ptr<void, decltype(&release)>> memory_;
  std::vector<Output> outputs_;
  std::pair<void*, size_t> workspace_{nullptr, 0};
};

}  // namespace earmark::cuda
