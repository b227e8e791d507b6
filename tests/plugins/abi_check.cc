// Compares plugins/abi.h with the SDK's headers: values, layouts, and the place of every virtual
// function that is called or implemented. Compiled and run by tests/test_plugin_abi.py where
// TENSORRT_INCLUDE_DIR names the headers; prints what differs, one line each.
#include <NvInferImpl.h>
#include <NvInferRuntime.h>
#include <NvInferVersion.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "abi.h"

namespace trt = earmark::trt;
namespace sdk = nvinfer1;

namespace {

int differences = 0;

// How the ABI of C++ that GCC and Clang share writes a pointer to a virtual member: its place in
// the virtual table.
template <class Ours, class Theirs>
void compare_places(const char* what, Ours ours, Theirs theirs) {
  static_assert(sizeof ours == sizeof theirs);
  if (std::memcmp(&ours, &theirs, sizeof ours) == 0) return;
  std::printf("%s stands elsewhere in the virtual table\n", what);
  ++differences;
}

template <class Ours, class Theirs>
void compare_values(const char* what, Ours ours, Theirs theirs) {
  if (static_cast<long>(ours) == static_cast<long>(theirs)) return;
  std::printf("%s is %ld, not %ld\n", what, static_cast<long>(theirs), static_cast<long>(ours));
  ++differences;
}

#define SAME_PLACE(OURS, THEIRS) compare_places(#THEIRS, &trt::OURS, &sdk::THEIRS)
#define SAME_VALUE(OURS, THEIRS) compare_values(#THEIRS, trt::OURS, sdk::THEIRS)
#define SAME_MEMBER(OURS, OUR_MEMBER, THEIRS, THEIR_MEMBER)                   \
  compare_values(#THEIRS "::" #THEIR_MEMBER, offsetof(trt::OURS, OUR_MEMBER), \
                 offsetof(sdk::THEIRS, THEIR_MEMBER))
#define SAME_SIZE(OURS, THEIRS) \
  compare_values("sizeof " #THEIRS, sizeof(trt::OURS), sizeof(sdk::THEIRS))

// What is protected, laid open.
struct OurBuilder : trt::ExprBuilder {
  using Impl = trt::ExprBuilder::Impl;
  static size_t at(OurBuilder& b) {
    return reinterpret_cast<char*>(&b.impl_) - reinterpret_cast<char*>(&b);
  }
};
struct TheirBuilder : sdk::IExprBuilder {
  static size_t at(TheirBuilder& b) {
    return reinterpret_cast<char*>(&b.mImpl) - reinterpret_cast<char*>(&b);
  }
};

void compare_data() {
  SAME_VALUE(DataType::kFloat, DataType::kFLOAT);
  SAME_VALUE(DataType::kHalf, DataType::kHALF);
  SAME_VALUE(DataType::kInt8, DataType::kINT8);
  SAME_VALUE(DataType::kInt32, DataType::kINT32);
  SAME_VALUE(DataType::kBFloat16, DataType::kBF16);
  SAME_VALUE(kLinear, TensorFormat::kLINEAR);
  SAME_VALUE(FieldType::kFloat16, PluginFieldType::kFLOAT16);
  SAME_VALUE(FieldType::kFloat32, PluginFieldType::kFLOAT32);
  SAME_VALUE(FieldType::kFloat64, PluginFieldType::kFLOAT64);
  SAME_VALUE(FieldType::kInt8, PluginFieldType::kINT8);
  SAME_VALUE(FieldType::kInt16, PluginFieldType::kINT16);
  SAME_VALUE(FieldType::kInt32, PluginFieldType::kINT32);
  SAME_VALUE(FieldType::kChar, PluginFieldType::kCHAR);
  SAME_VALUE(FieldType::kUnknown, PluginFieldType::kUNKNOWN);
  SAME_VALUE(FieldType::kInt64, PluginFieldType::kINT64);
  SAME_VALUE(CapabilityType::kCore, PluginCapabilityType::kCORE);
  SAME_VALUE(CapabilityType::kBuild, PluginCapabilityType::kBUILD);
  SAME_VALUE(CapabilityType::kRuntime, PluginCapabilityType::kRUNTIME);
  SAME_VALUE(Phase::kBuild, TensorRTPhase::kBUILD);
  SAME_VALUE(Phase::kRuntime, TensorRTPhase::kRUNTIME);

  SAME_SIZE(Dims, Dims64);
  SAME_MEMBER(Dims, count, Dims64, nbDims);
  SAME_MEMBER(Dims, d, Dims64, d);
  SAME_SIZE(TensorDesc, PluginTensorDesc);
  SAME_MEMBER(TensorDesc, dims, PluginTensorDesc, dims);
  SAME_MEMBER(TensorDesc, type, PluginTensorDesc, type);
  SAME_MEMBER(TensorDesc, format, PluginTensorDesc, format);
  SAME_MEMBER(TensorDesc, scale, PluginTensorDesc, scale);
  SAME_SIZE(DynamicTensorDesc, DynamicPluginTensorDesc);
  SAME_MEMBER(DynamicTensorDesc, desc, DynamicPluginTensorDesc, desc);
  SAME_MEMBER(DynamicTensorDesc, min, DynamicPluginTensorDesc, min);
  SAME_MEMBER(DynamicTensorDesc, max, DynamicPluginTensorDesc, max);
  SAME_MEMBER(DynamicTensorDesc, opt, DynamicPluginTensorDesc, opt);
  SAME_SIZE(Field, PluginField);
  SAME_MEMBER(Field, name, PluginField, name);
  SAME_MEMBER(Field, data, PluginField, data);
  SAME_MEMBER(Field, type, PluginField, type);
  SAME_MEMBER(Field, length, PluginField, length);
  SAME_SIZE(FieldCollection, PluginFieldCollection);
  SAME_MEMBER(FieldCollection, count, PluginFieldCollection, nbFields);
  SAME_MEMBER(FieldCollection, fields, PluginFieldCollection, fields);
  SAME_SIZE(InterfaceInfo, InterfaceInfo);
  SAME_MEMBER(InterfaceInfo, kind, InterfaceInfo, kind);
  SAME_MEMBER(InterfaceInfo, major, InterfaceInfo, major);
  SAME_MEMBER(InterfaceInfo, minor, InterfaceInfo, minor);
  SAME_SIZE(DimsExprs, DimsExprs);
  SAME_MEMBER(DimsExprs, count, DimsExprs, nbDims);
  SAME_MEMBER(DimsExprs, d, DimsExprs, d);
}

void compare_tables() {
  SAME_PLACE(VersionedInterface::language, IVersionedInterface::getAPILanguage);
  SAME_PLACE(VersionedInterface::info, IVersionedInterface::getInterfaceInfo);
  SAME_PLACE(PluginV3::capability, IPluginV3::getCapabilityInterface);
  SAME_PLACE(PluginV3::clone, IPluginV3::clone);
  SAME_PLACE(Core::plugin_name, IPluginV3OneCore::getPluginName);
  SAME_PLACE(Core::plugin_version, IPluginV3OneCore::getPluginVersion);
  SAME_PLACE(Core::plugin_namespace, IPluginV3OneCore::getPluginNamespace);
  SAME_PLACE(Build::configure, IPluginV3OneBuild::configurePlugin);
  SAME_PLACE(Build::output_types, IPluginV3OneBuild::getOutputDataTypes);
  SAME_PLACE(Build::output_shapes, IPluginV3OneBuild::getOutputShapes);
  SAME_PLACE(Build::supports, IPluginV3OneBuild::supportsFormatCombination);
  SAME_PLACE(Build::outputs, IPluginV3OneBuild::getNbOutputs);
  SAME_PLACE(Build::workspace, IPluginV3OneBuild::getWorkspaceSize);
  SAME_PLACE(Build::valid_tactics, IPluginV3OneBuild::getValidTactics);
  SAME_PLACE(Build::tactics, IPluginV3OneBuild::getNbTactics);
  SAME_PLACE(Build::timing_cache_id, IPluginV3OneBuild::getTimingCacheID);
  SAME_PLACE(Build::format_limit, IPluginV3OneBuild::getFormatCombinationLimit);
  SAME_PLACE(Build::metadata, IPluginV3OneBuild::getMetadataString);
  SAME_PLACE(Runtime::set_tactic, IPluginV3OneRuntime::setTactic);
  SAME_PLACE(Runtime::on_shape_change, IPluginV3OneRuntime::onShapeChange);
  SAME_PLACE(Runtime::enqueue, IPluginV3OneRuntime::enqueue);
  SAME_PLACE(Runtime::attach, IPluginV3OneRuntime::attachToContext);
  SAME_PLACE(Runtime::serialized, IPluginV3OneRuntime::getFieldsToSerialize);
  SAME_PLACE(Creator::create, IPluginCreatorV3One::createPlugin);
  SAME_PLACE(Creator::field_names, IPluginCreatorV3One::getFieldNames);
  SAME_PLACE(Creator::plugin_name, IPluginCreatorV3One::getPluginName);
  SAME_PLACE(Creator::plugin_version, IPluginCreatorV3One::getPluginVersion);
  SAME_PLACE(Creator::plugin_namespace, IPluginCreatorV3One::getPluginNamespace);
  compare_places("VExprBuilder::constant", &OurBuilder::Impl::constant,
                 &sdk::apiv::VExprBuilder::constant);
  OurBuilder ours;
  TheirBuilder theirs;
  compare_values("IExprBuilder::mImpl", OurBuilder::at(ours), TheirBuilder::at(theirs));
}

}  // namespace

int main() {
  compare_data();
  compare_tables();
  std::printf("TensorRT %d.%d: %d differences\n", NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR,
              differences);
  return differences == 0 ? 0 : 1;
}
