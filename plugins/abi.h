// The part of TensorRT's plugin interface that the plugins need, written from its documentation:
// version 3 of plugins, "V3ONE". The SDK's headers come with no wheel; with these the plugins
// always build, and one library serves TensorRT 10, 11 and TensorRT-RTX, which share these layouts
// and virtual tables. Where TENSORRT_INCLUDE_DIR names the SDK's, tests/plugins/abi_check.cc
// compares them with these.
//
// Nothing of TensorRT is called but the virtual functions below.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace earmark::trt {

using Text = const char*;
using Stream = CUstream_st*;

enum class DataType : int32_t { kFloat = 0, kHalf = 1, kInt8 = 2, kInt32 = 3, kBFloat16 = 7 };
inline constexpr int32_t kLinear = 0;  // of TensorFormat

inline constexpr int kMaxDims = 8;
struct Dims {
  int32_t count;
  int64_t d[kMaxDims];
};

struct TensorDesc {
  Dims dims;
  DataType type;
  int32_t format;
  float scale;
};
struct DynamicTensorDesc {
  TensorDesc desc;
  Dims min, max, opt;
};

enum class FieldType : int32_t {
  kFloat16 = 0,
  kFloat32 = 1,
  kFloat64 = 2,
  kInt8 = 3,
  kInt16 = 4,
  kInt32 = 5,
  kChar = 6,
  kUnknown = 8,
  kInt64 = 10,
};
struct Field {
  Text name = nullptr;
  const void* data = nullptr;
  FieldType type = FieldType::kUnknown;
  int32_t length = 0;
};
struct FieldCollection {
  int32_t count = 0;
  const Field* fields = nullptr;
};

struct InterfaceInfo {
  Text kind;
  int32_t major;
  int32_t minor;
};

class VersionedInterface {
 public:
  virtual int32_t language() const noexcept { return 0; }  // C++
  virtual InterfaceInfo info() const noexcept = 0;
  virtual ~VersionedInterface() noexcept = default;
};

class Capability : public VersionedInterface {};
enum class CapabilityType : int32_t { kCore = 0, kBuild = 1, kRuntime = 2 };

class PluginV3 : public VersionedInterface {
 public:
  InterfaceInfo info() const noexcept override { return {"PLUGIN", 1, 0}; }
  virtual Capability* capability(CapabilityType type) noexcept = 0;
  virtual PluginV3* clone() noexcept = 0;
};

class Core : public Capability {
 public:
  InterfaceInfo info() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
  virtual Text plugin_name() const noexcept = 0;
  virtual Text plugin_version() const noexcept = 0;
  virtual Text plugin_namespace() const noexcept = 0;
};

// A dimension that may depend on the input's; only asked for by address.
class DimensionExpr;
struct DimsExprs {
  int32_t count;
  const DimensionExpr* d[kMaxDims];
};
class ExprBuilder {
 public:
  const DimensionExpr* constant(int64_t value) noexcept { return impl_->constant(value); }

 protected:
  virtual ~ExprBuilder() = default;
  class Impl {
   public:
    virtual ~Impl() noexcept = default;
    virtual const DimensionExpr* constant(int64_t value) = 0;
  };
  Impl* impl_ = nullptr;
};

class Build : public Capability {
 public:
  InterfaceInfo info() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
  virtual int32_t configure(const DynamicTensorDesc* in, int32_t inputs,
                            const DynamicTensorDesc* out, int32_t outputs) noexcept = 0;
  virtual int32_t output_types(DataType* out, int32_t outputs, const DataType* in,
                               int32_t inputs) const noexcept = 0;
  virtual int32_t output_shapes(const DimsExprs* in, int32_t inputs, const DimsExprs* shape_in,
                                int32_t shape_inputs, DimsExprs* out, int32_t outputs,
                                ExprBuilder& builder) noexcept = 0;
  virtual bool supports(int32_t position, const DynamicTensorDesc* in_out, int32_t inputs,
                        int32_t outputs) noexcept = 0;
  virtual int32_t outputs() const noexcept = 0;
  virtual size_t workspace(const DynamicTensorDesc*, int32_t, const DynamicTensorDesc*,
                           int32_t) const noexcept {
    return 0;
  }
  virtual int32_t valid_tactics(int32_t*, int32_t) noexcept { return 0; }
  virtual int32_t tactics() noexcept { return 0; }
  virtual Text timing_cache_id() noexcept { return nullptr; }
  virtual int32_t format_limit() noexcept { return 100; }
  virtual Text metadata() noexcept { return nullptr; }
};

class ResourceContext;
class Runtime : public Capability {
 public:
  InterfaceInfo info() const noexcept override { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
  virtual int32_t set_tactic(int32_t) noexcept { return 0; }
  virtual int32_t on_shape_change(const TensorDesc* in, int32_t inputs, const TensorDesc* out,
                                  int32_t outputs) noexcept = 0;
  virtual int32_t enqueue(const TensorDesc* in_desc, const TensorDesc* out_desc,
                          const void* const* in, void* const* out, void* workspace,
                          Stream stream) noexcept = 0;
  virtual PluginV3* attach(ResourceContext* context) noexcept = 0;
  virtual const FieldCollection* serialized() noexcept = 0;
};

enum class Phase : int32_t { kBuild = 0, kRuntime = 1 };
class Creator : public VersionedInterface {
 public:
  InterfaceInfo info() const noexcept override { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
  virtual PluginV3* create(Text name, const FieldCollection* fields, Phase phase) noexcept = 0;
  virtual const FieldCollection* field_names() noexcept = 0;
  virtual Text plugin_name() const noexcept = 0;
  virtual Text plugin_version() const noexcept = 0;
  virtual Text plugin_namespace() const noexcept = 0;
};

}  // namespace earmark::trt
