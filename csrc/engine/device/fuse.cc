#include "engine/device/fuse.h"

#include <optional>

#include "cuda/res2_s8.h"
#include "cuda/squeeze_excitation_s8.h"
#include "engine/device/ops.h"

namespace earmark::device {
namespace {

using Ops = std::vector<DeviceOpPtr>;

template <class T>
const T* as(const Ops& ops, size_t i) {
  return i < ops.size() ? dynamic_cast<const T*>(ops[i].get()) : nullptr;
}

bool same(const Axis& a, const Axis& b) {
  return a.kernel == b.kernel && a.stride == b.stride && a.dilation == b.dilation &&
         a.padding == b.padding && a.pad_to == b.pad_to;
}
bool same(const ConvShape& a, const ConvShape& b) {
  return same(a.time, b.time) && same(a.width, b.width) && a.pad_mode == b.pad_mode &&
         a.c_in == b.c_in && a.c_out == b.c_out;
}

// Whether only ops[reader] reads what ops[writer] leaves in `t`, a tensor of its own.
bool private_to(const Ops& ops, const Tensor& t, int output, size_t writer, size_t reader) {
  if (t.base != t.id || t.id == output) return false;
  for (size_t i = 0; i < ops.size(); ++i) {
    for (const Tensor* r : ops[i]->reads) {
      if (r->base == t.id && i != reader) return false;
    }
    for (const Tensor* w : ops[i]->writes) {
      if (w->base == t.id && i != writer) return false;
    }
  }
  return true;
}

// A walk through one recording of one frame at addresses that stand for any: what a kernel says of
// strides and alignment there goes for all batches.
Walk typical_walk(const Plan& plan, const cuda::Device& device, int input) {
  constexpr uintptr_t kAligned = 1 << 20;
  Walk walk;
  walk.launch.device = &device;
  walk.recordings = 1;
  walk.moved = reinterpret_cast<char*>(2 * kAligned);
  walk.places.resize(plan.tensors().size());
  for (const Tensor& t : plan.tensors()) {
    walk.places[t.id] = {reinterpret_cast<char*>(kAligned) + t.offset * size_of(t.dtype),
                         stride_of(plan.base_of(t), t.base == input),
                         t.width,
                         {nullptr, 1, 1}};
  }
  return walk;
}

class Res2 final : public DeviceOp {
 public:
  struct Link {
    const AddS8* add;  // none of the first
    const ConvS8* conv;
  };

  Res2(const Plan& plan, const std::vector<Link>& links, const Ops& ops, size_t end)
      : DeviceOp(links[0].conv->name, "res2_s8"), plan_(plan), links_(links) {
    for (const Link& link : links) {
      if (link.add != nullptr) host.push_back(link.add->host[0]);
      host.push_back(link.conv->host[0]);
      reads.push_back(link.add == nullptr ? link.conv->in : link.add->in);
      writes.push_back(link.conv->out);
    }
    if (reads[0]->base == writes[0]->base) {
      moves = writes[0]->base;
      find_rest(ops, end);
    }
  }

  // Whether separate memory for what it writes leaves all others with what they read.
  bool possible() const {
    const int channels = links_[0].conv->shape.c_in;
    for (size_t i = 0; i < links_.size(); ++i) {
      if (reads[i]->base != reads[0]->base || writes[i]->base != writes[0]->base) return false;
      for (size_t j = 0; j < i; ++j) {
        if (writes[j]->overlaps(*reads[i]) || writes[j]->overlaps(*writes[i])) return false;
      }
    }
    return rest_.empty() ||
           (static_cast<int>(rest_.size()) == channels && rest_.back() - rest_[0] + 1 == channels);
  }

  cuda::Res2S8 call(const Walk& walk) const {
    cuda::Res2S8 c;
    c.steps = static_cast<int>(links_.size());
    c.shape = links_[0].conv->shape;
    const auto in = walk.frames<const int8_t>(*reads[0]);
    const auto out = walk.frames<int8_t>(*writes[0]);
    c.in_stride = in.stride;
    c.out_stride = out.stride;
    c.frames = walk.ragged(*reads[0]);
    for (int i = 0; i < c.steps; ++i) {
      const auto [add, conv] = links_[i];
      cuda::Res2Step& step = c.step[i];
      step.in = walk.frames<const int8_t>(*reads[i]).data;
      step.out = moves < 0 ? walk.frames<int8_t>(*writes[i]).data
                           : reinterpret_cast<int8_t*>(walk.moved) + writes[i]->offset;
      step.weights = conv->layer.weights;
      step.epilogue = conv->layer.epilogue;
      step.in_zero = reads[i]->zero_point;
      if (add == nullptr) continue;
      step.multiplier = add->multiplier;
      step.residual_multiplier = add->residual_multiplier;
      step.previous_zero = add->residual->zero_point;
      step.sum_zero = add->out->zero_point;
    }
    if (!rest_.empty()) {
      c.copy_in = c.step[0].in - reads[0]->offset + rest_[0];
      c.copy_out = reinterpret_cast<int8_t*>(walk.moved) + rest_[0];
    }
    return c;
  }

  cudaError_t launch(const Walk& walk) const override {
    return cuda::res2_s8(call(walk), walk.launch);
  }

 private:
  // Channels of the base tensor that the chain does not write and an op behind it reads.
  void find_rest(const Ops& ops, size_t end) {
    const Tensor& base = plan_.tensor(moves);
    std::vector<bool> written(base.channels), needed(base.channels);
    const auto write = [&](const Tensor& t) {
      if (t.base == moves) std::fill_n(written.begin() + t.offset, t.channels, true);
    };
    for (const Tensor* t : writes) write(*t);
    for (size_t i = end; i < ops.size(); ++i) {
      for (const Tensor* t : ops[i]->reads) {
        if (t->base != moves) continue;
        for (int c = t->offset; c < t->offset + t->channels; ++c) {
          if (!written[c]) needed[c] = true;
        }
      }
      for (const Tensor* t : ops[i]->writes) write(*t);
    }
    for (int c = 0; c < base.channels; ++c) {
      if (needed[c]) rest_.push_back(c);
    }
  }

  const Plan& plan_;
  std::vector<Link> links_;
  std::vector<int> rest_;
};

bool plain(const ConvS8& conv) {
  return conv.out->dtype == DType::kS8 && conv.table == nullptr && conv.bias == nullptr &&
         conv.layer.quantization == nullptr && conv.in->width == 1 &&
         conv.shape.c_in == conv.shape.c_out && conv.shape.time.stride == 1 &&
         conv.shape.time.padding * 2 == conv.shape.time.reach() && conv.shape.time.pad_to == 0;
}

// The longest chain that begins at ops[begin]; `end` is behind it.
DeviceOpPtr find_res2(const Plan& plan, const Ops& ops, int output, size_t begin, const Walk& walk,
                      size_t* end) {
  const auto* first = as<ConvS8>(ops, begin);
  if (first == nullptr || !plain(*first) || first->shape.time.kernel == 1) return nullptr;
  std::vector<Res2::Link> links = {{nullptr, first}};
  size_t i = begin + 1;
  for (; links.size() < cuda::kMaxRes2Steps; i += 2) {
    const auto* add = as<AddS8>(ops, i);
    const auto* conv = as<ConvS8>(ops, i + 1);
    if (add == nullptr || conv == nullptr || add->residual != links.back().conv->out ||
        add->gate != nullptr || add->relu || conv->in != add->out || !plain(*conv) ||
        !same(conv->shape, first->shape) || !private_to(ops, *add->out, output, i, i + 1)) {
      break;
    }
    links.push_back({add, conv});
  }
  if (links.size() < 2) return nullptr;
  auto op = std::make_unique<Res2>(plan, links, ops, i);
  if (!op->possible() || !cuda::supports(op->call(walk), *walk.launch.device)) return nullptr;
  *end = i;
  return op;
}

class SqueezeExcitation final : public DeviceOp {
 public:
  SqueezeExcitation(const StatsS8& mean, const QuantizeS8& squeezed, const DenseS8& reduce,
                    const QuantizeS8& hidden, const DenseS8& expand)
      : DeviceOp(mean.name, "squeeze_excitation_s8"),
        mean_(mean),
        squeezed_(squeezed),
        reduce_(reduce),
        hidden_(hidden),
        expand_(expand) {
    reads = mean.reads;
    writes = {expand.out};
    for (const DeviceOp* op :
         std::initializer_list<const DeviceOp*>{&mean, &squeezed, &reduce, &hidden, &expand}) {
      host.push_back(op->host[0]);
    }
  }

  cuda::SqueezeExcitationS8 call(const Walk& walk) const {
    cuda::SqueezeExcitationS8 c;
    c.channels = mean_.in->channels;
    c.hidden_channels = reduce_.out->channels;
    c.in = walk.frames<const int8_t>(*mean_.in);
    c.frames = walk.ragged(*mean_.in, mean_.valid);
    c.in_zero = mean_.in->zero_point;
    c.mean_multiplier = mean_.multiplier;
    c.squeezed = {squeezed_.multiplier, squeezed_.offset, squeezed_.out->zero_point};
    c.reduce = reduce_.layer.weights;
    c.reduce_epilogue = reduce_.layer.epilogue;
    c.hidden = {hidden_.multiplier, hidden_.offset, hidden_.out->zero_point};
    c.expand = expand_.layer.weights;
    c.expand_epilogue = expand_.layer.epilogue;
    c.table = expand_.table;
    c.table_size = expand_.table_size;
    c.gate = walk.vectors<float>(*expand_.out);
    return c;
  }

  cudaError_t launch(const Walk& walk) const override {
    return cuda::squeeze_excitation_s8(call(walk), walk.launch);
  }
  size_t workspace_bytes(const Walk& walk) const override {
    return cuda::workspace_bytes(call(walk), *walk.launch.device);
  }

 private:
  const StatsS8& mean_;
  const QuantizeS8& squeezed_;
  const DenseS8& reduce_;
  const QuantizeS8& hidden_;
  const DenseS8& expand_;
};

DeviceOpPtr find_squeeze_excitation(const Ops& ops, int output, size_t begin, const Walk& walk) {
  const auto* mean = as<StatsS8>(ops, begin);
  const auto* squeezed = as<QuantizeS8>(ops, begin + 1);
  const auto* reduce = as<DenseS8>(ops, begin + 2);
  const auto* hidden = as<QuantizeS8>(ops, begin + 3);
  const auto* expand = as<DenseS8>(ops, begin + 4);
  if (mean == nullptr || squeezed == nullptr || reduce == nullptr || hidden == nullptr ||
      expand == nullptr) {
    return nullptr;
  }
  const bool fits = !mean->std && squeezed->quantization == nullptr &&
                    hidden->quantization == nullptr && reduce->layer.quantization == nullptr &&
                    expand->layer.quantization == nullptr && reduce->table == nullptr &&
                    reduce->layer.epilogue.relu && reduce->out->dtype == DType::kF32 &&
                    expand->out->dtype == DType::kF32;
  const bool linked = squeezed->in == mean->out && reduce->in == squeezed->out &&
                      hidden->in == reduce->out && expand->in == hidden->out;
  if (!fits || !linked) return nullptr;
  for (size_t i = begin; i < begin + 4; ++i) {
    if (!private_to(ops, *ops[i]->writes[0], output, i, i + 1)) return nullptr;
  }
  auto op = std::make_unique<SqueezeExcitation>(*mean, *squeezed, *reduce, *hidden, *expand);
  return cuda::supports(op->call(walk), *walk.launch.device) ? std::move(op) : nullptr;
}

}  // namespace

std::vector<const DeviceOp*> fuse(const Plan& plan, const std::vector<DeviceOpPtr>& ops, int input,
                                  int output, const cuda::Device& device,
                                  std::vector<DeviceOpPtr>& fused) {
  const Walk walk = typical_walk(plan, device, input);
  std::vector<const DeviceOp*> all;
  for (size_t i = 0; i < ops.size();) {
    size_t end = i + 5;
    DeviceOpPtr op = find_squeeze_excitation(ops, output, i, walk);
    if (op == nullptr) op = find_res2(plan, ops, output, i, walk, &end);
    if (op == nullptr) {
      all.push_back(ops[i++].get());
    } else {
      all.push_back(op.get());
      fused.push_back(std::move(op));
      i = end;
    }
  }
  return all;
}

}  // namespace earmark::device
