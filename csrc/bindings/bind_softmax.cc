#include "bindings/bind.h"
#include "core/check.h"
#include "cpu/kernels.h"

namespace py = pybind11;
using namespace earmark;

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

struct Rows {
  const float* x;
  float* out;
  int64_t rows, n;
};

Rows rows_of(const py::array& x, py::array& out) {
  for (const py::array& array : {x, static_cast<const py::array&>(out)}) {
    EARMARK_CHECK(py::isinstance<py::array_t<float>>(array) && array.ndim() >= 1 &&
                      (array.flags() & py::array::c_style) &&
                      reinterpret_cast<uintptr_t>(array.data()) % alignof(float) == 0,
                  "x and out must be float32 of rank 1 or more, contiguous and aligned");
  }
  EARMARK_CHECK(x.ndim() == out.ndim() && std::equal(x.shape(), x.shape() + x.ndim(), out.shape()),
                "x and out must have the same shape");
  const auto* begin = static_cast<const char*>(x.data());
  auto* to = static_cast<char*>(out.mutable_data());
  EARMARK_CHECK(begin == to || begin + x.nbytes() <= to || to + x.nbytes() <= begin,
                "x and out overlap");
  const int64_t n = x.shape(x.ndim() - 1);
  return {static_cast<const float*>(x.data()), static_cast<float*>(out.mutable_data()),
          n == 0 ? 0 : x.size() / n, n};
}

// run(kernels, rows) without the GIL, on the calling thread.
template <class Run>
void over_rows(const py::array& x, py::array& out, const std::string& isa, const Run& run) {
  const Kernels& chosen = kernels(isa.empty() ? default_isa() : find_isa(isa));
  const Rows rows = rows_of(x, out);
  const py::gil_scoped_release unlocked;
  run(chosen, rows);
}

void softmax_f32(const py::array& x, py::array out, const std::string& isa) {
  over_rows(x, out, isa,
            [](const Kernels& k, const Rows& r) { k.softmax_f32(r.x, r.out, r.rows, r.n); });
}

void pwl_softmax_f32(const py::array& x, py::array out, const Floats& breakpoints,
                     const Floats& slopes, const Floats& intercepts, float low, float high,
                     const std::string& isa) {
  EARMARK_CHECK(slopes.ndim() == 1 && intercepts.ndim() == 1 && breakpoints.ndim() == 1 &&
                    slopes.size() >= 1 && intercepts.size() == slopes.size() &&
                    breakpoints.size() == slopes.size() - 1 && slopes.size() <= 1 << 16,
                "n slopes need n intercepts and n - 1 breakpoints");
  const PiecewiseLinear pwl = {breakpoints.data(),
                               slopes.data(),
                               intercepts.data(),
                               static_cast<int>(breakpoints.size()),
                               low,
                               high};
  over_rows(x, out, isa, [&](const Kernels& k, const Rows& r) {
    k.pwl_softmax_f32(pwl, r.x, r.out, r.rows, r.n);
  });
}

void table_softmax_f32(const py::array& x, py::array out, const Floats& table, float low,
                       float high, const std::string& isa) {
  EARMARK_CHECK(table.ndim() == 1 && table.size() >= 2 && table.size() <= 1 << 16,
                "a table needs from 2 to 65536 entries");
  EARMARK_CHECK(low < high, "the table's range is empty");
  const int entries = static_cast<int>(table.size());
  std::vector<float> differences(entries, 0.0f);
  for (int i = 0; i + 1 < entries; ++i) differences[i] = table.data()[i + 1] - table.data()[i];
  const float scale = static_cast<float>(entries - 1) / (high - low);
  const LookupTable lookup = {table.data(), differences.data(), entries, scale, -low * scale};
  over_rows(x, out, isa, [&](const Kernels& k, const Rows& r) {
    k.table_softmax_f32(lookup, r.x, r.out, r.rows, r.n);
  });
}

}  // namespace

void bind_softmax(py::module_& m) {
  m.def("softmax_f32", &softmax_f32, py::arg("x"), py::arg("out"), py::kw_only(),
        py::arg("isa") = "");
  m.def("pwl_softmax_f32", &pwl_softmax_f32, py::arg("x"), py::arg("out"), py::kw_only(),
        py::arg("breakpoints"), py::arg("slopes"), py::arg("intercepts"), py::arg("low"),
        py::arg("high"), py::arg("isa") = "");
  m.def("table_softmax_f32", &table_softmax_f32, py::arg("x"), py::arg("out"), py::kw_only(),
        py::arg("table"), py::arg("low"), py::arg("high"), py::arg("isa") = "");
}
