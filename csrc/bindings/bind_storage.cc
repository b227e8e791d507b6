#include "bindings/bind.h"
#include "core/check.h"
#include "cpu/kernels.h"
#include "cpu/rans_encode.h"

namespace py = pybind11;
using namespace earmark;

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;
using Frequencies = py::array_t<uint16_t, py::array::c_style>;

constexpr int kMostTables = 256;

// A matrix's levels, with what a kernel may read behind them.
struct Levels {
  Levels(const Bytes& row_level, const Bytes& column_level)
      : row(row_level.data(), row_level.data() + row_level.size()),
        column(column_level.data(), column_level.data() + column_level.size()) {
    EARMARK_CHECK(row_level.ndim() == 1 && column_level.ndim() == 1,
                  "row_level and column_level must have rank 1");
    matrix.rows = static_cast<int64_t>(row.size());
    matrix.columns = static_cast<int64_t>(column.size());
    column.resize(column.size() + kRansLanes);
    matrix.row_level = row.data();
    matrix.column_level = column.data();
  }
  void check(const Bytes& bytes) const {
    EARMARK_CHECK(
        bytes.ndim() == 2 && bytes.shape(0) == matrix.rows && bytes.shape(1) == matrix.columns,
        "the bytes must have shape (", matrix.rows, ", ", matrix.columns, ")");
  }

  std::vector<uint8_t> row, column;
  RansMatrix matrix;
};

class Coder {
 public:
  explicit Coder(const Frequencies& frequencies) {
    EARMARK_CHECK(frequencies.ndim() == 2 && frequencies.shape(1) == kRansSymbols &&
                      frequencies.shape(0) >= 1 && frequencies.shape(0) <= kMostTables,
                  "frequencies must have shape (1 to ", kMostTables, ", ", kRansSymbols, ")");
    frequencies_.assign(frequencies.data(), frequencies.data() + frequencies.size());
    n_tables_ = static_cast<int>(frequencies.shape(0));
    places_ = rans_places(frequencies_.data(), n_tables_);
  }

  Bytes encode(const Bytes& bytes, const Bytes& row_level, const Bytes& column_level) const {
    const Levels levels(row_level, column_level);
    levels.check(bytes);
    std::vector<uint8_t> code;
    {
      const py::gil_scoped_release unlocked;
      code = encode_rans(frequencies_.data(), n_tables_, levels.matrix, bytes.data());
    }
    return Bytes(static_cast<py::ssize_t>(code.size()), code.data());
  }

  void decode(const Bytes& code, const Bytes& row_level, const Bytes& column_level, Bytes out,
              const std::string& isa) const {
    const Kernels& chosen = kernels(isa.empty() ? default_isa() : find_isa(isa));
    const Levels levels(row_level, column_level);
    levels.check(out);
    EARMARK_CHECK(code.ndim() == 1, "the code must have rank 1");
    uint8_t* to = out.mutable_data();
    bool whole;
    {
      const py::gil_scoped_release unlocked;
      whole = chosen.decode_rans({places_.data(), n_tables_}, levels.matrix, code.data(),
                                 code.data() + code.size(), to);
    }
    EARMARK_CHECK(whole, "the code is damaged");
  }

 private:
  std::vector<uint16_t> frequencies_;
  std::vector<uint32_t> places_;
  int n_tables_;
};

void restore_levels(const py::array& levels, const Floats& step, int zero,
                    py::array_t<int8_t, py::array::c_style> out, const std::string& isa) {
  const Kernels& chosen = kernels(isa.empty() ? default_isa() : find_isa(isa));
  const bool is_signed = py::isinstance<py::array_t<int8_t>>(levels);
  EARMARK_CHECK(is_signed || py::isinstance<Bytes>(levels), "levels must be int8 or uint8");
  EARMARK_CHECK(levels.ndim() == 2 && (levels.flags() & py::array::c_style) && out.ndim() == 2 &&
                    std::equal(levels.shape(), levels.shape() + 2, out.shape()),
                "levels and out must be contiguous and of one shape of rank 2");
  EARMARK_CHECK(step.ndim() == 1 && step.size() == levels.shape(0), "levels of ", levels.shape(0),
                " rows have ", step.size(), " steps");
  const Kernels::Levels call = {levels.shape(0), levels.shape(1), step.data(), zero, is_signed};
  const auto* from = static_cast<const uint8_t*>(levels.data());
  int8_t* to = out.mutable_data();
  const py::gil_scoped_release unlocked;
  chosen.restore_levels(call, from, to);
}

}  // namespace

void bind_storage(py::module_& m) {
  m.def("restore_levels", &restore_levels, py::arg("levels"), py::arg("step").noconvert(),
        py::arg("zero"), py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
  py::class_<Coder>(m, "RansCoder", "Codes matrices of bytes. See docs/file-format.md, \"rans\".")
      .def(py::init<const Frequencies&>(), py::arg("frequencies").noconvert())
      .def("encode", &Coder::encode, py::arg("bytes").noconvert(), py::arg("row_level").noconvert(),
           py::arg("column_level").noconvert())
      .def("decode", &Coder::decode, py::arg("code").noconvert(), py::arg("row_level").noconvert(),
           py::arg("column_level").noconvert(), py::arg("out").noconvert(), py::kw_only(),
           py::arg("isa") = "");
}
