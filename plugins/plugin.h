// A plugin of TensorRT over an op: what all of them have in common.
//
// An op is a class with
//   kName, fields(), inputs(), outputs();      what it is called, and takes
//   Op(const Fields&);                         throws std::invalid_argument
//   type(position); rank(position);            of inputs, then outputs
//   shape(inputs, outputs, builder);           of the outputs
//   check(in, out);                            throws for dimensions that it cannot run
//   upload(constants, device);                 weights to the device, once
//   workspace(in);                             bytes for tensors no larger than these
//   enqueue(in, out, descriptors, workspace, launch);
// Everything is linear in memory. Nothing here or in an op throws through TensorRT.
#pragma once

#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <mutex>

#include "core/check.h"
#include "cuda/constants.h"
#include "fields.h"

namespace earmark::trt {

inline constexpr char kVersion[] = "1";
inline constexpr char kNamespace[] = "";

// What went wrong goes to stderr: a plugin has no logger that all versions share.
inline void report(const char* plugin, const std::exception& error) {
  std::fprintf(stderr, "earmark: %s: %s\n", plugin, error.what());
}

// Constants of an op on one device, shared by all clones of a plugin.
template <class Op>
struct OnDevice {
  cuda::Device device;
  // Small chunks: a network has dozens of plugins.
  cuda::Constants constants{size_t{1} << 16};
  typename Op::Uploaded uploaded;
};

template <class Op>
class Plugin final : public PluginV3, public Core, public Build, public Runtime {
 public:
  explicit Plugin(std::shared_ptr<const Fields> fields)
      : fields_(std::move(fields)), op_(std::make_shared<const Op>(*fields_)) {}

  Capability* capability(CapabilityType type) noexcept override {
    switch (type) {
      case CapabilityType::kCore:
        return static_cast<Core*>(this);
      case CapabilityType::kBuild:
        return static_cast<Build*>(this);
      case CapabilityType::kRuntime:
        return static_cast<Runtime*>(this);
    }
    return nullptr;
  }
  PluginV3* clone() noexcept override {
    return guarded<PluginV3*>(nullptr, [&] { return new Plugin(*this); });
  }

  Text plugin_name() const noexcept override { return Op::kName; }
  Text plugin_version() const noexcept override { return kVersion; }
  Text plugin_namespace() const noexcept override { return kNamespace; }

  int32_t configure(const DynamicTensorDesc*, int32_t inputs, const DynamicTensorDesc*,
                    int32_t outputs) noexcept override {
    return inputs == op_->inputs() && outputs == Op::outputs() ? 0 : 1;
  }
  int32_t output_types(DataType* out, int32_t outputs, const DataType* in,
                       int32_t inputs) const noexcept override {
    if (inputs != op_->inputs() || outputs != Op::outputs()) return 1;
    for (int i = 0; i < outputs; ++i) out[i] = op_->type(inputs + i, in[0]);
    return 0;
  }
  int32_t output_shapes(const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t,
                        DimsExprs* out, int32_t outputs, ExprBuilder& builder) noexcept override {
    if (inputs != op_->inputs() || outputs != Op::outputs()) return 1;
    for (int i = 0; i < inputs; ++i) {
      if (op_->rank(i) != 0 && in[i].count != op_->rank(i)) return 1;
    }
    return guarded(1, [&] {
      op_->shape(in, out, builder);
      return 0;
    });
  }
  bool supports(int32_t position, const DynamicTensorDesc* in_out, int32_t inputs,
                int32_t outputs) noexcept override {
    if (inputs != op_->inputs() || outputs != Op::outputs()) return false;
    const TensorDesc& desc = in_out[position].desc;
    return desc.format == kLinear && desc.type == op_->type(position, in_out[0].desc.type);
  }
  int32_t outputs() const noexcept override { return Op::outputs(); }
  size_t workspace(const DynamicTensorDesc* in, int32_t, const DynamicTensorDesc*,
                   int32_t) const noexcept override {
    return guarded<size_t>(0, [&] { return op_->workspace(in[0].max); });
  }

  int32_t on_shape_change(const TensorDesc* in, int32_t, const TensorDesc* out,
                          int32_t) noexcept override {
    return guarded(1, [&] {
      op_->check(in, out);
      return 0;
    });
  }
  // With dimensions that on_shape_change has seen.
  int32_t enqueue(const TensorDesc* in_desc, const TensorDesc*, const void* const* in,
                  void* const* out, void* workspace, Stream stream) noexcept override {
    return guarded(1, [&] {
      const std::shared_ptr<OnDevice<Op>> on_device = place();
      const cuda::Launch launch = {&on_device->device, reinterpret_cast<cudaStream_t>(stream),
                                   nullptr};
      cuda::check(op_->enqueue(on_device->uploaded, in_desc, in, out, workspace, launch),
                  Op::kName);
      return 0;
    });
  }
  // A context may be recorded into a graph, which nothing may be uploaded in: so it happens here.
  PluginV3* attach(ResourceContext*) noexcept override {
    return guarded<PluginV3*>(nullptr, [&] {
      place();
      return new Plugin(*this);
    });
  }
  const FieldCollection* serialized() noexcept override { return &fields_->collection(); }

 private:
  Plugin(const Plugin& other)
      : PluginV3(other),
        Core(other),
        Build(other),
        Runtime(other),
        fields_(other.fields_),
        op_(other.op_),
        shared_(other.shared_) {}

  template <class Result, class Body>
  static Result guarded(Result failed, const Body& body) noexcept {
    try {
      return body();
    } catch (const std::exception& error) {
      report(Op::kName, error);
    } catch (...) {
    }
    return failed;
  }

  // The constants on the present device.
  std::shared_ptr<OnDevice<Op>> place() {
    int ordinal = 0;
    cuda::check(cudaGetDevice(&ordinal), "asking for the device");
    const std::lock_guard<std::mutex> lock(shared_->mutex);
    auto& found = shared_->by_device[ordinal];
    if (found == nullptr) {
      auto made = std::make_shared<OnDevice<Op>>();
      cuda::check(cuda::query_device(ordinal, &made->device), "asking for the device");
      made->uploaded = op_->upload(made->constants);
      made->constants.finish();
      found = std::move(made);
    }
    return found;
  }

  struct Shared {
    std::mutex mutex;
    std::map<int, std::shared_ptr<OnDevice<Op>>> by_device;
  };

  std::shared_ptr<const Fields> fields_;
  std::shared_ptr<const Op> op_;
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

template <class Op>
class CreatorOf final : public Creator {
 public:
  CreatorOf() {
    for (const std::string& name : Op::fields()) fields_.push_back({name.c_str()});
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }
  PluginV3* create(Text, const FieldCollection* fields, Phase) noexcept override {
    try {
      EARMARK_CHECK(fields != nullptr, "no plugin fields");
      return new Plugin<Op>(std::make_shared<const Fields>(*fields, Op::fields()));
    } catch (const std::exception& error) {
      report(Op::kName, error);
    } catch (...) {
    }
    return nullptr;
  }
  const FieldCollection* field_names() noexcept override { return &collection_; }
  Text plugin_name() const noexcept override { return Op::kName; }
  Text plugin_version() const noexcept override { return kVersion; }
  Text plugin_namespace() const noexcept override { return kNamespace; }

 private:
  std::vector<Field> fields_;
  FieldCollection collection_;
};

}  // namespace earmark::trt
