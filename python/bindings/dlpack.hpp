#pragma once

#include <cstdint>

// DLPack's structs as its specification fixes them: dmlc.github.io/dlpack. A capsule holds a DLManagedTensor
// by the name "dltensor", or from version 1.0 on a DLManagedTensorVersioned by "dltensor_versioned".
// Whoever takes the tensor prefixes the name with "used_", and calls the deleter when done.

namespace evenflow::python::dlpack {

enum DLDeviceType : int32_t { kDLCUDA = 2, kDLCUDAManaged = 13 };

struct DLDevice {
  int32_t device_type;
  int32_t device_id;
};

enum DLDataTypeCode : uint8_t { kDLUInt = 1, kDLFloat = 2 };

struct DLDataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  ///< in values; null: C-contiguous
  uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);

  static constexpr const char* name = "dltensor";
  static constexpr const char* used_name = "used_dltensor";
};

struct DLPackVersion {
  uint32_t major;
  uint32_t minor;
};

struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  uint64_t flags;
  DLTensor dl_tensor;

  static constexpr const char* name = "dltensor_versioned";
  static constexpr const char* used_name = "used_dltensor_versioned";
};

}  // namespace evenflow::python::dlpack
