// The part of DLPack's C interface (dmlc/dlpack, version 0.x as every library exchanges it) that
// arrays are handed over by.
#pragma once

#include <cstdint>

namespace dlpack {

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4 };

struct Device {
  int32_t type;
  int32_t id;
};
struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: contiguous
  uint64_t byte_offset;
};
struct ManagedTensor {
  Tensor tensor;
  void* manager;
  void (*deleter)(ManagedTensor*);
};

inline constexpr char kName[] = "dltensor";           // of a capsule that nobody has taken
inline constexpr char kUsedName[] = "used_dltensor";  // of one whose tensor is somebody's

}  // namespace dlpack
