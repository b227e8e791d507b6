#include "softmax_function.h"

#include <algorithm>

#include "core/check.h"

namespace earmark::trt {
namespace {

constexpr size_t kMostPieces = 255;  // cuda/pooling.cuh
constexpr size_t kMostEntries = 1 << 20;

}  // namespace

SoftmaxFields::SoftmaxFields(const Fields& fields) {
  const std::string softmax = fields.has("softmax") ? fields.text("softmax") : "exact";
  if (softmax == "exact") return;
  if (softmax == "pwl") {
    kind_ = cuda::SoftmaxFunction::Kind::kPwl;
    breakpoints_ = fields.floats("breakpoints");
    const auto n = static_cast<int64_t>(breakpoints_.size());
    EARMARK_CHECK(breakpoints_.size() < kMostPieces, "plugin field 'breakpoints' has ", n,
                  " values");
    EARMARK_CHECK(std::is_sorted(breakpoints_.begin(), breakpoints_.end()),
                  "plugin field 'breakpoints' does not rise");
    slopes_ = fields.floats("slopes", n + 1);
    intercepts_ = fields.floats("intercepts", n + 1);
    bounds_ = fields.floats("bounds", 2);
    EARMARK_CHECK(1 <= bounds_[0] && bounds_[0] <= bounds_[1] && bounds_[1] <= kNumeratorOne,
                  "plugin field 'bounds' holds ", bounds_[0], " and ", bounds_[1]);
    return;
  }
  EARMARK_CHECK(softmax == "table", "plugin field 'softmax' is '", softmax, "'");
  kind_ = cuda::SoftmaxFunction::Kind::kTable;
  table_ = fields.floats("table");
  EARMARK_CHECK(2 <= table_.size() && table_.size() <= kMostEntries, "plugin field 'table' has ",
                table_.size(), " values");
  for (const float value : table_) {
    EARMARK_CHECK(1 <= value && value <= kNumeratorOne, "plugin field 'table' holds ", value);
  }
  if (fields.has("range")) {
    range_ = fields.floats("range", 2);
    EARMARK_CHECK(range_[0] < range_[1], "plugin field 'range' holds ", range_[0], " and ",
                  range_[1]);
  }
}

cuda::SoftmaxFunction SoftmaxFields::upload(cuda::Constants& constants) const {
  cuda::SoftmaxFunction f;
  f.kind = kind_;
  if (kind_ == cuda::SoftmaxFunction::Kind::kPwl) {
    f.pwl = {constants.add(breakpoints_),
             constants.add(slopes_),
             constants.add(intercepts_),
             static_cast<int>(breakpoints_.size()),
             bounds_[0],
             bounds_[1]};
  } else if (kind_ == cuda::SoftmaxFunction::Kind::kTable) {
    std::vector<float> differences(table_.size());
    for (size_t i = 0; i + 1 < table_.size(); ++i) differences[i] = table_[i + 1] - table_[i];
    f.table.values = constants.add(table_);
    f.table.differences = constants.add(differences);
    f.table.entries = static_cast<int>(table_.size());
    if (!range_.empty()) {
      f.table.scale = static_cast<float>(table_.size() - 1) / (range_[1] - range_[0]);
      f.table.offset = -range_[0] * f.table.scale;
    }
  }
  return f;
}

}  // namespace earmark::trt
