// A host for a library of plugins, as TensorRT is one: for tests. Whatever memory the library works
// on, its addresses are given as numbers.
#include <dlfcn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"

namespace py = pybind11;
using namespace earmark::trt;

namespace earmark::trt {
// Dimensions of a build are opaque to plugins: here they are numbers.
class DimensionExpr {
 public:
  int64_t value;
};

// The registry of a runtime of TensorRT, as far as it is called. Version 10 has functions for older
// plugins between the others. Neither stands in an unnamed namespace, where a compiler sees that
// nobody implements it.
class Registry11 {
 public:
  virtual ~Registry11() = default;
  virtual void set_error_recorder(void* recorder) noexcept = 0;
  virtual void* error_recorder() const noexcept = 0;
  virtual bool searches_parent() const = 0;
  virtual void set_parent_search(bool enabled) = 0;
  virtual void* load_library(Text path) noexcept = 0;
  virtual void deregister_library(void* library) noexcept = 0;
  virtual bool add(VersionedInterface& creator, Text name_space) noexcept = 0;
  virtual VersionedInterface* const* creators(int32_t* count) const noexcept = 0;
};
class Registry10 {
 public:
  virtual bool add_v2(void* creator, Text name_space) noexcept = 0;
  virtual void* const* creators_v2(int32_t* count) const noexcept = 0;
  virtual void* creator_v2(Text name, Text version, Text name_space) noexcept = 0;
  virtual ~Registry10() = default;
  virtual void set_error_recorder(void* recorder) noexcept = 0;
  virtual void* error_recorder() const noexcept = 0;
  virtual bool remove_v2(const void* creator) noexcept = 0;
  virtual bool searches_parent() const = 0;
  virtual void set_parent_search(bool enabled) = 0;
  virtual void* load_library(Text path) noexcept = 0;
  virtual void deregister_library(void* library) noexcept = 0;
  virtual bool add(VersionedInterface& creator, Text name_space) noexcept = 0;
  virtual VersionedInterface* const* creators(int32_t* count) const noexcept = 0;
};
}  // namespace earmark::trt

namespace {

class HostBuilder final : public ExprBuilder {
 public:
  HostBuilder() { impl_ = &numbers_; }
  const DimensionExpr* number(int64_t value) { return numbers_.constant(value); }

 private:
  class Numbers final : public Impl {
   public:
    const DimensionExpr* constant(int64_t value) override {
      values_.push_back({value});
      return &values_.back();
    }

   private:
    std::deque<DimensionExpr> values_;
  };
  Numbers numbers_;
};

Dims dims_of(const std::vector<int64_t>& shape) {
  if (shape.size() > kMaxDims) throw std::invalid_argument("too many dimensions");
  Dims dims = {static_cast<int32_t>(shape.size()), {}};
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

DataType type_of(const std::string& name) {
  if (name == "float32") return DataType::kFloat;
  if (name == "float16") return DataType::kHalf;
  if (name == "bfloat16") return DataType::kBFloat16;
  if (name == "int8") return DataType::kInt8;
  if (name == "int32") return DataType::kInt32;
  throw std::invalid_argument("no such type: " + name);
}

std::string name_of(DataType type) {
  for (const char* name : {"float32", "float16", "bfloat16", "int8", "int32"}) {
    if (type_of(name) == type) return name;
  }
  return std::to_string(static_cast<int>(type));
}

// A tensor as Python names it: type and shape.
using Named = std::pair<std::string, std::vector<int64_t>>;

TensorDesc desc_of(const Named& tensor) {
  return {dims_of(tensor.second), type_of(tensor.first), kLinear, 1.0f};
}

// Plugin fields from Python values: int, float, str and arrays.
class GivenFields {
 public:
  explicit GivenFields(const py::dict& values) {
    for (const auto& [key, value] : values) {
      names_.push_back(py::cast<std::string>(key));
      Field field;
      field.name = names_.back().c_str();
      std::string& bytes = bytes_.emplace_back();
      if (py::isinstance<py::str>(value)) {
        bytes = py::cast<std::string>(value);
        field.type = FieldType::kChar;
        field.length = static_cast<int32_t>(bytes.size());
      } else {
        py::array array = py::isinstance<py::int_>(value)
                              ? py::array(py::array_t<int32_t>(py::cast<py::array>(
                                    py::module_::import("numpy").attr("asarray")(value, "int32"))))
                          : py::isinstance<py::float_>(value)
                              ? py::cast<py::array>(
                                    py::module_::import("numpy").attr("asarray")(value, "float32"))
                              : py::cast<py::array>(value);
        array = py::cast<py::array>(py::module_::import("numpy").attr("ascontiguousarray")(array));
        const auto name = py::cast<std::string>(py::str(array.dtype()));
        field.type = name == "int8"      ? FieldType::kInt8
                     : name == "int32"   ? FieldType::kInt32
                     : name == "float32" ? FieldType::kFloat32
                     : name == "float64" ? FieldType::kFloat64
                                         : FieldType::kUnknown;
        field.length = static_cast<int32_t>(array.size());
        bytes.assign(static_cast<const char*>(array.data()), array.nbytes());
      }
      field.data = bytes.data();
      fields_.push_back(field);
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }
  const FieldCollection& collection() const { return collection_; }

 private:
  std::deque<std::string> names_, bytes_;
  std::vector<Field> fields_;
  FieldCollection collection_;
};

py::dict values_of(const FieldCollection& collection) {
  py::dict values;
  for (int i = 0; i < collection.count; ++i) {
    const Field& field = collection.fields[i];
    const py::ssize_t n = field.length;
    py::object value;
    switch (field.type) {
      case FieldType::kInt8:
        value = py::array_t<int8_t>(n, static_cast<const int8_t*>(field.data));
        break;
      case FieldType::kInt32:
        value = py::array_t<int32_t>(n, static_cast<const int32_t*>(field.data));
        break;
      case FieldType::kFloat32:
        value = py::array_t<float>(n, static_cast<const float*>(field.data));
        break;
      case FieldType::kFloat64:
        value = py::array_t<double>(n, static_cast<const double*>(field.data));
        break;
      case FieldType::kChar:
        value = py::str(static_cast<const char*>(field.data), n);
        break;
      default:
        throw std::runtime_error("a field of an unexpected type");
    }
    values[py::str(field.name)] = value;
  }
  return values;
}

class HostedPlugin {
 public:
  HostedPlugin(PluginV3* plugin, std::shared_ptr<void> library)
      : library_(std::move(library)), plugin_(plugin) {
    if (plugin == nullptr) throw std::runtime_error("there is no plugin");
  }

  std::string name() const { return part<Core>(CapabilityType::kCore).plugin_name(); }
  std::vector<std::string> interfaces() const {
    std::vector<std::string> found;
    const auto add = [&](const VersionedInterface& part) {
      const InterfaceInfo info = part.info();
      found.push_back(std::string(info.kind) + " " + std::to_string(info.major) + "." +
                      std::to_string(info.minor));
    };
    add(*plugin_);
    add(part<Core>(CapabilityType::kCore));
    add(part<Build>(CapabilityType::kBuild));
    add(part<Runtime>(CapabilityType::kRuntime));
    return found;
  }
  py::dict fields() const {
    return values_of(*part<Runtime>(CapabilityType::kRuntime).serialized());
  }
  std::unique_ptr<HostedPlugin> clone() const {
    return std::make_unique<HostedPlugin>(plugin_->clone(), library_);
  }
  std::unique_ptr<HostedPlugin> attach() const {
    return std::make_unique<HostedPlugin>(part<Runtime>(CapabilityType::kRuntime).attach(nullptr),
                                          library_);
  }

  // Types and shapes of the outputs.
  std::vector<Named> outputs(const std::vector<Named>& inputs) const {
    Build& build = part<Build>(CapabilityType::kBuild);
    const int n = static_cast<int>(inputs.size()), m = build.outputs();
    HostBuilder builder;
    std::vector<DataType> in_types(n), out_types(m);
    std::vector<DimsExprs> in(n), out(m);
    for (int i = 0; i < n; ++i) {
      in_types[i] = type_of(inputs[i].first);
      in[i].count = static_cast<int32_t>(inputs[i].second.size());
      for (size_t k = 0; k < inputs[i].second.size(); ++k) {
        in[i].d[k] = builder.number(inputs[i].second[k]);
      }
    }
    if (build.output_types(out_types.data(), m, in_types.data(), n) != 0 ||
        build.output_shapes(in.data(), n, nullptr, 0, out.data(), m, builder) != 0) {
      throw std::invalid_argument("inputs that the plugin does not take");
    }
    std::vector<Named> found(m);
    for (int i = 0; i < m; ++i) {
      found[i].first = name_of(out_types[i]);
      for (int k = 0; k < out[i].count; ++k) found[i].second.push_back(out[i].d[k]->value);
    }
    return found;
  }

  // Whether it takes the tensor at `position` of these, inputs and then outputs, in that format.
  bool supports(int position, const std::vector<Named>& tensors, int inputs, int format) const {
    std::vector<DynamicTensorDesc> descs = dynamic(tensors);
    descs[position].desc.format = format;
    return part<Build>(CapabilityType::kBuild)
        .supports(position, descs.data(), inputs, static_cast<int>(tensors.size()) - inputs);
  }
  size_t workspace(const std::vector<Named>& inputs) const {
    Build& build = part<Build>(CapabilityType::kBuild);
    const std::vector<DynamicTensorDesc> in = dynamic(inputs), out = dynamic(outputs(inputs));
    if (build.configure(in.data(), static_cast<int>(in.size()), out.data(),
                        static_cast<int>(out.size())) != 0) {
      throw std::invalid_argument("inputs that the plugin does not take");
    }
    return build.workspace(in.data(), static_cast<int>(in.size()), out.data(),
                           static_cast<int>(out.size()));
  }
  // The status, of the new shape or of the work.
  int enqueue(const std::vector<Named>& inputs, const std::vector<Named>& outputs,
              const std::vector<uintptr_t>& in, const std::vector<uintptr_t>& out,
              uintptr_t workspace, uintptr_t stream) const {
    Runtime& runtime = part<Runtime>(CapabilityType::kRuntime);
    std::vector<TensorDesc> in_desc, out_desc;
    for (const Named& tensor : inputs) in_desc.push_back(desc_of(tensor));
    for (const Named& tensor : outputs) out_desc.push_back(desc_of(tensor));
    const int status = runtime.on_shape_change(in_desc.data(), static_cast<int>(in_desc.size()),
                                               out_desc.data(), static_cast<int>(out_desc.size()));
    if (status != 0) return status;
    std::vector<const void*> from;
    std::vector<void*> to;
    for (const uintptr_t address : in) from.push_back(reinterpret_cast<const void*>(address));
    for (const uintptr_t address : out) to.push_back(reinterpret_cast<void*>(address));
    return runtime.enqueue(in_desc.data(), out_desc.data(), from.data(), to.data(),
                           reinterpret_cast<void*>(workspace), reinterpret_cast<Stream>(stream));
  }

 private:
  template <class Part>
  Part& part(CapabilityType type) const {
    return *static_cast<Part*>(plugin_->capability(type));
  }
  static std::vector<DynamicTensorDesc> dynamic(const std::vector<Named>& tensors) {
    std::vector<DynamicTensorDesc> descs;
    for (const Named& tensor : tensors) {
      const TensorDesc desc = desc_of(tensor);
      descs.push_back({desc, desc.dims, desc.dims, desc.dims});
    }
    return descs;
  }

  std::shared_ptr<void> library_;
  std::unique_ptr<PluginV3> plugin_;
};

std::shared_ptr<void> open(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  return {handle, dlclose};
}

template <class Function>
Function* find_function(void* handle, const char* name) {
  return reinterpret_cast<Function*>(dlsym(handle, name));
}

// Plugins of version 3 that a runtime knows, once it has loaded the library.
template <class Registry>
std::vector<Creator*> creators_in(void* runtime, const std::string& path) {
  const auto get = find_function<Registry*()>(runtime, "getPluginRegistry");
  if (get == nullptr) throw std::runtime_error("no runtime of TensorRT");
  Registry* registry = get();
  if (registry->load_library(path.c_str()) == nullptr) {
    throw std::runtime_error("the runtime did not load " + path);
  }
  int32_t count = 0;
  VersionedInterface* const* creators = registry->creators(&count);
  std::vector<Creator*> found;
  for (int i = 0; i < count; ++i) {
    if (std::string(creators[i]->info().kind) == "PLUGIN CREATOR_V3ONE") {
      found.push_back(static_cast<Creator*>(creators[i]));
    }
  }
  return found;
}

class Library {
 public:
  explicit Library(const std::string& path) : handle_(open(path)) {
    const auto set_finder = find_function<void(void*)>(handle_.get(), "setLoggerFinder");
    const auto get = find_function<Creator* const*(int32_t&)>(handle_.get(), "getCreators");
    if (set_finder == nullptr || get == nullptr) throw std::runtime_error("no plugin library");
    set_finder(nullptr);
    int32_t count = 0;
    Creator* const* creators = get(count);
    creators_.assign(creators, creators + count);
  }
  // As a runtime of TensorRT loads it; `major`: its version.
  Library(const std::string& path, const std::string& runtime, int major)
      : handle_(open(runtime)),
        creators_(major < 11 ? creators_in<Registry10>(handle_.get(), path)
                             : creators_in<Registry11>(handle_.get(), path)) {}

  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const Creator* creator : creators_) found.emplace_back(creator->plugin_name());
    return found;
  }
  std::vector<std::string> field_names(const std::string& name) const {
    std::vector<std::string> found;
    const FieldCollection* collection = find(name).field_names();
    for (int i = 0; i < collection->count; ++i) found.emplace_back(collection->fields[i].name);
    return found;
  }
  std::unique_ptr<HostedPlugin> create(const std::string& name, const py::dict& values) const {
    const GivenFields fields(values);
    PluginV3* plugin = find(name).create("layer", &fields.collection(), Phase::kBuild);
    if (plugin == nullptr) throw std::invalid_argument("the plugin was not created");
    return std::make_unique<HostedPlugin>(plugin, handle_);
  }

 private:
  Creator& find(const std::string& name) const {
    for (Creator* creator : creators_) {
      if (name == creator->plugin_name()) return *creator;
    }
    throw std::invalid_argument("there is no plugin " + name);
  }

  std::shared_ptr<void> handle_;
  std::vector<Creator*> creators_;
};

}  // namespace

PYBIND11_MODULE(_plugin_host, m) {
  py::class_<HostedPlugin>(m, "Plugin")
      .def_property_readonly("name", &HostedPlugin::name)
      .def_property_readonly("interfaces", &HostedPlugin::interfaces)
      .def("fields", &HostedPlugin::fields)
      .def("clone", &HostedPlugin::clone)
      .def("attach", &HostedPlugin::attach)
      .def("outputs", &HostedPlugin::outputs)
      .def("supports", &HostedPlugin::supports)
      .def("workspace", &HostedPlugin::workspace)
      .def("enqueue", &HostedPlugin::enqueue);
  py::class_<Library>(m, "Library")
      .def(py::init<const std::string&>())
      .def(py::init<const std::string&, const std::string&, int>())
      .def("names", &Library::names)
      .def("field_names", &Library::field_names)
      .def("create", &Library::create);
}
