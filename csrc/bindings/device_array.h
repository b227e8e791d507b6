// Arrays in device memory that come from and go to other libraries, by DLPack or by
// `__cuda_array_interface__`.
#pragma once

#include <pybind11/numpy.h>

#include <memory>
#include <optional>
#include <vector>

#include "cuda/runtime.h"
#include "engine/plan.h"

// Somebody else's array, held until the view goes.
struct DeviceView {
  const void* data = nullptr;
  std::vector<int64_t> shape;
  earmark::DType dtype = earmark::DType::kF32;
  pybind11::object owner;
};

// A stream as DLPack and `__cuda_array_interface__` number it: 1 is the legacy default stream, 2
// that of the thread, any other number the address of a stream.
cudaStream_t stream_of(uintptr_t number);

// None for what is not in device memory. Work queued on the array before is done before what is
// queued on `stream`, as far as the array's library knows of it. Throws std::invalid_argument for
// another device than `ordinal`, and for what is not contiguous float32 or int8.
std::optional<DeviceView> device_view(const pybind11::object& array, int ordinal,
                                      std::optional<uintptr_t> stream);

// An array of the engine's own, (rows, columns).
class DeviceArray {
 public:
  DeviceArray(int ordinal, int64_t rows, int64_t columns, earmark::DType dtype);
  // A copy of one of NumPy's.
  static DeviceArray of(int ordinal, const pybind11::array& array);

  void* data() { return memory_->data(); }
  const std::vector<int64_t>& shape() const { return shape_; }
  earmark::DType dtype() const { return dtype_; }
  int ordinal() const { return ordinal_; }
  // What fills it was queued on that stream.
  void filled_on(cudaStream_t stream);

  pybind11::capsule to_dlpack(const pybind11::object& stream) const;
  pybind11::tuple dlpack_device() const;
  pybind11::dict interface() const;
  pybind11::object to_numpy() const;

 private:
  int ordinal_;
  std::vector<int64_t> shape_;
  earmark::DType dtype_;
  std::shared_ptr<earmark::cuda::DeviceBuffer> memory_;
  std::shared_ptr<earmark::cuda::Event> filled_;  // null: it is
};
