#include "engine/plan.h"

#include "core/check.h"
#include "core/quant.h"

namespace earmark {
namespace {

constexpr int kMaxChannels = 1 << 20;
constexpr int kMaxWidth = 1 << 16;

}  // namespace

Plan::Plan(const std::vector<TensorDesc>& tensors) {
  for (const TensorDesc& desc : tensors) {
    Tensor t;
    static_cast<TensorDesc&>(t) = desc;
    t.id = t.base = static_cast<int>(tensors_.size());
    EARMARK_CHECK(ids_.emplace(t.name, t.id).second, "tensor '", t.name, "' is declared twice");
    EARMARK_CHECK(t.channels >= 1 && t.channels <= kMaxChannels, "tensor '", t.name,
                  "': ", t.channels, " channels");
    EARMARK_CHECK(t.width >= 1 && t.width <= kMaxWidth, "tensor '", t.name, "': width ", t.width);
    const bool wide = t.dtype == DType::kS16;
    const int limit = wide ? 32768 : 128;
    EARMARK_CHECK(t.zero_point >= -limit && t.zero_point < limit, "tensor '", t.name,
                  "': zero point ", t.zero_point, " is not an int", wide ? 16 : 8);
    EARMARK_CHECK(!wide || (t.of.empty() && t.over.empty()), "tensor '", t.name,
                  "' is s16 and must have memory of its own");
    // Written so that NaN is refused too.
    EARMARK_CHECK(t.scale == 0 || (t.scale >= kMinMagnitude && t.scale <= kMaxMagnitude),
                  "tensor '", t.name, "': scale ", t.scale);
    tensors_.push_back(t);
  }
  const auto lookup = [&](const Tensor& t, const std::string& name) {
    const auto found = ids_.find(name);
    EARMARK_CHECK(found != ids_.end(), "tensor '", t.name, "' refers to '", name,
                  "', which is not there");
    const Tensor& other = tensors_[found->second];
    EARMARK_CHECK(other.kind == Kind::kFrames && t.kind == Kind::kFrames &&
                      other.dtype == t.dtype && other.width == t.width && other.of.empty(),
                  "tensor '", t.name, "' cannot share the memory of '", name, "'");
    return found->second;
  };
  for (Tensor& t : tensors_) {
    EARMARK_CHECK(!t.of.empty() || t.offset == 0, "tensor '", t.name, "' has an offset, ", t.offset,
                  ", but is no view");
    if (!t.of.empty()) {
      t.base = lookup(t, t.of);
      EARMARK_CHECK(t.offset >= 0 && t.offset <= tensors_[t.base].channels - t.channels, "tensor '",
                    t.name, "': channels [", t.offset, ", ",
                    t.offset + static_cast<int64_t>(t.channels), ") are not in '", t.of, "'");
      EARMARK_CHECK(t.over.empty(), "tensor '", t.name, "' is a view and cannot lie over another");
    }
    if (!t.over.empty()) {
      t.overlay = lookup(t, t.over);
      EARMARK_CHECK(t.overlay != t.id && tensors_[t.overlay].channels == t.channels &&
                        tensors_[t.overlay].over.empty(),
                    "tensor '", t.name, "' cannot lie over '", t.over, "'");
    }
  }
}

const Tensor& Plan::find(const OpDesc& op, const char* role, const std::string& name) const {
  const auto found = ids_.find(name);
  EARMARK_CHECK(found != ids_.end(), "op '", op.name, "' (", op.op, "): ", role, " tensor '", name,
                "' is not there");
  return tensors_[found->second];
}

}  // namespace earmark
