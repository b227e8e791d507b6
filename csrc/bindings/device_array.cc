#include "bindings/device_array.h"

#include <pybind11/stl.h>

#include "bindings/dlpack.h"
#include "core/check.h"

namespace py = pybind11;
using namespace earmark;
using earmark::cuda::check;
using earmark::cuda::DeviceGuard;

namespace {

#if defined(EARMARK_CUDA_EMULATED)
constexpr dlpack::DeviceType kDeviceType = dlpack::kCpu;
#else
constexpr dlpack::DeviceType kDeviceType = dlpack::kCuda;
#endif

struct OwnedTensor {
  dlpack::ManagedTensor managed;
  std::vector<int64_t> shape;
  std::shared_ptr<earmark::cuda::DeviceBuffer> memory;
};

void delete_owned(dlpack::ManagedTensor* tensor) {
  delete static_cast<OwnedTensor*>(tensor->manager);
}

// Of a capsule that nobody has taken.
void delete_capsule(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, dlpack::kName) == 0) return;
  auto* tensor = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, dlpack::kName));
  tensor->deleter(tensor);
}

void check_contiguous(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    EARMARK_CHECK(shape[i] == 1 || strides[i] == expected,
                  "an array on the device must be contiguous");
    expected *= shape[i];
  }
}

DType checked_type(bool is_f32, bool is_s8, const std::string& name) {
  EARMARK_CHECK(is_f32 || is_s8, "an array on the device must be float32 or int8, got ", name);
  return is_f32 ? DType::kF32 : DType::kS8;
}

void check_memory(const DeviceView& view, int ordinal) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, view.data), "asking whose memory it is");
  EARMARK_CHECK(attributes.type != cudaMemoryTypeUnregistered,
                "the array is not in memory that the device reads");
  EARMARK_CHECK(attributes.type != cudaMemoryTypeDevice || attributes.device == ordinal,
                "the array is on cuda:", attributes.device, ", the model on cuda:", ordinal);
  EARMARK_CHECK(reinterpret_cast<uintptr_t>(view.data) % size_of(view.dtype) == 0,
                "an array on the device must be aligned");
}

bool is_device_dlpack(const py::object& array) {
  if (!py::hasattr(array, "__dlpack__") || !py::hasattr(array, "__dlpack_device__")) return false;
  const int type = array.attr("__dlpack_device__")().cast<py::tuple>()[0].cast<int>();
  return type == kDeviceType || type == dlpack::kCudaManaged;
}

DeviceView view_of_dlpack(const py::object& array, int ordinal, std::optional<uintptr_t> stream) {
  const py::object number = stream.has_value() ? py::cast(*stream) : py::none();
#if defined(EARMARK_CUDA_EMULATED)
  const auto capsule = array.attr("__dlpack__")().cast<py::capsule>();
#else
  const auto capsule = array.attr("__dlpack__")(py::arg("stream") = number).cast<py::capsule>();
#endif
  auto* tensor =
      static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kName));
  if (tensor == nullptr) throw py::error_already_set();
  const dlpack::Tensor& t = tensor->tensor;
  DeviceView view;
  view.owner = capsule;  // untaken: it deletes its tensor when it goes
  view.data = static_cast<const char*>(t.data) + t.byte_offset;
  view.shape.assign(t.shape, t.shape + t.ndim);
  if (t.strides != nullptr) check_contiguous(view.shape, {t.strides, t.strides + t.ndim});
  const bool one = t.dtype.lanes == 1;
  view.dtype =
      checked_type(one && t.dtype.code == dlpack::kFloat && t.dtype.bits == 32,
                   one && t.dtype.code == dlpack::kInt && t.dtype.bits == 8,
                   concat("DLPack's type ", int{t.dtype.code}, " of ", int{t.dtype.bits}, " bits"));
  check_memory(view, ordinal);
  return view;
}

DeviceView view_of_interface(const py::object& array, int ordinal,
                             std::optional<uintptr_t> stream) {
  const auto fields = array.attr("__cuda_array_interface__").cast<py::dict>();
  DeviceView view;
  view.owner = array;
  view.data = reinterpret_cast<const void*>(fields["data"].cast<py::tuple>()[0].cast<uintptr_t>());
  view.shape = fields["shape"].cast<std::vector<int64_t>>();
  const auto type = fields["typestr"].cast<std::string>();
  view.dtype = checked_type(type == "<f4", type == "|i1", type);
  if (fields.contains("strides") && !fields["strides"].is_none()) {
    auto strides = fields["strides"].cast<std::vector<int64_t>>();  // in bytes
    EARMARK_CHECK(strides.size() == view.shape.size(), "an array's strides and shape differ");
    for (int64_t& s : strides) s /= static_cast<int64_t>(size_of(view.dtype));
    check_contiguous(view.shape, strides);
  }
  check_memory(view, ordinal);
  if (fields.contains("stream") && !fields["stream"].is_none()) {
    const DeviceGuard guard(ordinal);
    const auto other = fields["stream"].cast<uintptr_t>();
    if (!stream.has_value()) {
      check(cudaStreamSynchronize(stream_of(other)), "waiting for an array");
    } else if (other != *stream) {
      earmark::cuda::Event ready;
      ready.record(stream_of(other));
      ready.hold_back(stream_of(*stream));
    }
  }
  return view;
}

}  // namespace

cudaStream_t stream_of(uintptr_t number) {
  return number <= 1 ? nullptr : reinterpret_cast<cudaStream_t>(number);
}

std::optional<DeviceView> device_view(const py::object& array, int ordinal,
                                      std::optional<uintptr_t> stream) {
  if (py::isinstance<py::array>(array)) return std::nullopt;
  if (is_device_dlpack(array)) return view_of_dlpack(array, ordinal, stream);
  if (py::hasattr(array, "__cuda_array_interface__")) {
    return view_of_interface(array, ordinal, stream);
  }
  return std::nullopt;
}

DeviceArray::DeviceArray(int ordinal, int64_t rows, int64_t columns, DType dtype)
    : ordinal_(ordinal), shape_{rows, columns}, dtype_(dtype) {
  const DeviceGuard guard(ordinal);
  // At least a byte, so that it has an address.
  memory_ = std::make_shared<earmark::cuda::DeviceBuffer>(
      std::max<size_t>(1, size_of(dtype) * rows * columns));
}

DeviceArray DeviceArray::of(int ordinal, const py::array& array) {
  const bool is_f32 = py::isinstance<py::array_t<float>>(array);
  const bool is_s8 = py::isinstance<py::array_t<int8_t>>(array);
  EARMARK_CHECK((is_f32 || is_s8) && array.ndim() == 2 && (array.flags() & py::array::c_style) != 0,
                "an array for the device must be of two axes, contiguous, float32 or int8");
  DeviceArray copy(ordinal, array.shape(0), array.shape(1), is_f32 ? DType::kF32 : DType::kS8);
  const void* from = array.data();
  const auto bytes = static_cast<size_t>(array.nbytes());
  {
    const py::gil_scoped_release unlocked;
    const DeviceGuard guard(ordinal);
    check(cudaMemcpyAsync(copy.data(), from, bytes, cudaMemcpyHostToDevice, nullptr),
          "copying to the device");
    check(cudaStreamSynchronize(nullptr), "copying to the device");
  }
  return copy;
}

void DeviceArray::filled_on(cudaStream_t stream) {
  const DeviceGuard guard(ordinal_);
  filled_ = std::make_shared<earmark::cuda::Event>();
  filled_->record(stream);
}

py::capsule DeviceArray::to_dlpack(const py::object& stream) const {
  if (filled_ != nullptr) {
    const DeviceGuard guard(ordinal_);
    const auto number = stream.is_none() ? int64_t{1} : stream.cast<int64_t>();
    // -1: the consumer wants no synchronisation.
    if (number >= 0) filled_->hold_back(stream_of(static_cast<uintptr_t>(number)));
  }
  auto owned = std::make_unique<OwnedTensor>();
  owned->shape = shape_;
  owned->memory = memory_;
  const dlpack::DataType type = dtype_ == DType::kF32 ? dlpack::DataType{dlpack::kFloat, 32, 1}
                                                      : dlpack::DataType{dlpack::kInt, 8, 1};
  owned->managed = {
      {memory_->data(), {kDeviceType, ordinal_}, 2, type, owned->shape.data(), nullptr, 0},
      owned.get(),
      delete_owned};
  PyObject* capsule = PyCapsule_New(&owned->managed, dlpack::kName, delete_capsule);
  if (capsule == nullptr) throw py::error_already_set();
  owned.release();
  return py::reinterpret_steal<py::capsule>(capsule);
}

py::tuple DeviceArray::dlpack_device() const {
  return py::make_tuple(static_cast<int>(kDeviceType), ordinal_);
}

py::dict DeviceArray::interface() const {
  // It has no way to say which event to wait for.
  if (filled_ != nullptr) filled_->wait();
  py::dict fields;
  fields["shape"] = py::make_tuple(shape_[0], shape_[1]);
  fields["typestr"] = dtype_ == DType::kF32 ? "<f4" : "|i1";
  fields["data"] = py::make_tuple(reinterpret_cast<uintptr_t>(memory_->data()), false);
  fields["strides"] = py::none();
  fields["version"] = 3;
  return fields;
}

py::object DeviceArray::to_numpy() const {
  const DeviceGuard guard(ordinal_);
  if (filled_ != nullptr) filled_->wait();
  py::array array(dtype_ == DType::kF32 ? py::dtype::of<float>() : py::dtype::of<int8_t>(), shape_);
  check(cudaMemcpyAsync(array.mutable_data(), memory_->data(), array.nbytes(),
                        cudaMemcpyDeviceToHost, nullptr),
        "copying an array");
  check(cudaStreamSynchronize(nullptr), "copying an array");
  return array;
}
