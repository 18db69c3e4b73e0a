#pragma once

#include <functional>
#include <type_traits>

#include "common.hpp"
#include "core/device.hpp"
#include "dlpack.hpp"

// The arrays that calls take: numpy arrays, and arrays on a device.

namespace evenflow::python {

/// The queue through which arrays are shared with other libraries. They order their work before it, and
/// contexts wait for it. The process has one and never closes it, because arrays may outlive everything else.
class Exchange {
 public:
  /// DeviceError for the CPU.
  static Exchange& of(const std::string& device);

  Device& device() const { return *context_.device(); }
  /// Memory that is released with its last owner.
  std::shared_ptr<void> allocate(size_t bytes);
  /// Waits for what was queued here. The caller must have released Python's lock.
  void to_host(void* to, const void* from, size_t bytes);

 private:
  explicit Exchange(const std::string& device) : context_(device) {}
  void release(void* memory) noexcept;

  std::mutex mutex_;
  Context context_;
  std::vector<void*> waiting_;  ///< to be released when the device can next be waited for
};

/// C-contiguous values on a device: a result that stays there, or what another library lends.
struct DeviceArray {
  Exchange& exchange;
  std::shared_ptr<void> owner;
  char* data;
  dlpack::DLDataType dtype;
  std::vector<int64_t> shape;

  int64_t size() const;
  int64_t bytes() const { return size() * dtype.bits / 8; }
};

template <class T>
constexpr dlpack::DLDataType type_of() {
  return {std::is_floating_point<T>::value ? dlpack::kDLFloat : dlpack::kDLUInt, 8 * sizeof(T), 1};
}
std::string name_of(dlpack::DLDataType type);
/// "(2, 3)".
std::string shape_text(const std::vector<int64_t>& shape);

/// An array argument of a call: n rows of `width` values, C-contiguous. T is const if the call only reads it.
template <class T>
struct Batch {
  T* data;
  int64_t n;
  int64_t width;
  bool on_device;

  int64_t size() const { return n * width; }
};

/// `object`, which must be a numpy array or a DeviceArray of type T (TypeError) that holds rows of `width`
/// values, n of them unless n is negative (ShapeError).
template <class T>
Batch<T> batch_of(const py::object& object, const char* call, const char* name, int64_t width,
                  int64_t n = -1) {
  using Value = std::remove_const_t<T>;
  const auto batch_at = [&](T* data, const auto* shape, py::ssize_t rank, bool on_device) {
    int64_t size = 1;
    for (py::ssize_t i = 0; i < rank; ++i) size *= shape[i];
    const Batch<T> batch{data, rank ? shape[0] : 0, width, on_device};
    if (rank == 0 || size != batch.size() || (n >= 0 && n != batch.n)) {
      fail<ShapeError>(call, "expected ", name, " of ", n >= 0 ? std::to_string(n) : "N", " rows of ", width,
                       " values, got shape ", shape_text({shape, shape + rank}));
    }
    return batch;
  };
  if (py::isinstance<py::array>(object)) {
    auto array = py::reinterpret_borrow<py::array>(object);
    require<Value>(array, call, name);
    if constexpr (std::is_const<T>::value) {
      return batch_at(static_cast<T*>(array.data()), array.shape(), array.ndim(), false);
    } else {
      return batch_at(static_cast<T*>(array.mutable_data()), array.shape(), array.ndim(), false);
    }
  }
  const auto& array = object.cast<const DeviceArray&>();
  if (name_of(array.dtype) != dtype_name<Value>()) {
    fail<py::type_error>(call, "expected ", name, " to be of dtype ", dtype_name<Value>(), ", got ",
                         name_of(array.dtype));
  }
  return batch_at(reinterpret_cast<T*>(array.data), array.shape.data(),
                  static_cast<py::ssize_t>(array.shape.size()), true);
}

/// Holds what a call needs while it computes: a context, and the call's arrays on the context's device. An
/// array in main memory is copied to a GPU; an array that is on the device is used where it is. Python's lock
/// is released meanwhile.
class OnDevice {
 public:
  /// first_row: number of the first row in error texts.
  explicit OnDevice(ContextPool& contexts, int64_t first_row = 0)
      : lease_(contexts), ctx_(lease_), rows_(ctx_, first_row), scope_(ctx_) {}

  Context& ctx() { return ctx_; }

  /// An array to read.
  template <class T>
  const T* in(const Batch<const T>& batch) {
    return lies_there(batch.on_device) ? batch.data : copied(batch);
  }
  template <class T>
  View<const T> in(const Batch<const T>& batch, const Shape& shape) {
    return View<const T>(in(batch), shape.with_batch(batch.n));
  }
  /// An array to write; bring() takes the results home.
  template <class T>
  T* out(const Batch<T>& batch) {
    if (lies_there(batch.on_device)) return batch.data;
    T* there = scope_.take<T>(batch.size());
    home(batch, there);
    return there;
  }
  template <class T>
  View<T> out(const Batch<T>& batch, const Shape& shape) {
    return View<T>(out(batch), shape.with_batch(batch.n));
  }
  template <class T>
  T* in_out(const Batch<T>& batch) {
    if (lies_there(batch.on_device)) return batch.data;
    T* there = copied(Batch<const T>{batch.data, batch.n, batch.width, batch.on_device});
    home(batch, there);
    return there;
  }
  void bring() {
    for (const Way& way : ways_) ctx_.to_host(way.home, way.there, way.bytes);
  }

 private:
  struct Way {
    void* home;
    const void* there;
    size_t bytes;
  };

  bool lies_there(bool on_device) {
    if (!on_device) return ctx_.on_host();
    if (ctx_.on_host()) fail<DeviceError>("arrays", "expected arrays in main memory, got one on a device");
    if (!follows_) ctx_.device()->follow(Exchange::of(ctx_.device_name()).device());
    follows_ = true;
    return true;
  }
  template <class T>
  T* copied(const Batch<const T>& batch) {
    T* there = scope_.take<T>(batch.size());
    ctx_.to_device(there, batch.data, static_cast<size_t>(batch.size()) * sizeof(T));
    return there;
  }
  template <class T>
  void home(const Batch<T>& batch, const T* there) {
    ways_.push_back({batch.data, there, static_cast<size_t>(batch.size()) * sizeof(T)});
  }

  Unlock unlock_;
  ContextPool::Lease lease_;
  Context& ctx_;
  RowsScope rows_;
  WorkspaceScope scope_;
  std::vector<Way> ways_;
  bool follows_ = false;
};

/// The checked arguments of a call besides its batch (ShapeError, TypeError). given: None, labels (n) int32,
/// or a context (n, C) of T. dcontext: receives the gradient by the context, or None. sample_weight: (n)
/// float64, or None.
template <class T>
class GivenArrays {
 public:
  GivenArrays(const char* call, int64_t context, const py::object& given, int64_t n,
              const py::object& dcontext = py::none(), const py::object& sample_weight = py::none(),
              const MaskSeed& masks = {})
      : masks_(masks) {
    if (!sample_weight.is_none()) sample_weight_ = rows_of<double>(sample_weight, call, "sample weights", n);
    if (given.is_none()) return;
    if (context) {
      context_ = batch_of<const T>(given, call, "context", context, n);
      if (!dcontext.is_none()) dcontext_ = batch_of<T>(dcontext, call, "dcontext", context, n);
    } else {
      labels_ = rows_of<int32_t>(given, call, "labels", n);
    }
  }

  /// The same where the call computes.
  Given<T> on(OnDevice& arrays) const {
    Given<T> given(labels_);
    if (context_.data) {
      given = Given<T>(arrays.in(context_), dcontext_.data ? arrays.out(dcontext_) : nullptr);
    }
    given.sample_weight = sample_weight_;
    given.masks = masks_;
    return given;
  }

 private:
  /// n numbers in main memory.
  template <class Number>
  static const Number* rows_of(const py::object& object, const char* call, const char* name, int64_t n) {
    if (!py::isinstance<py::array>(object)) {
      fail<py::type_error>(call, "expected ", name, " as a numpy array, got ", type_name(object));
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    const Number* numbers = data_of<Number>(array, call, name);
    if (array.shape(0) != n) fail<ShapeError>(call, "expected ", n, " ", name, ", got ", array.shape(0));
    return numbers;
  }

  const int32_t* labels_ = nullptr;
  const double* sample_weight_ = nullptr;
  MaskSeed masks_;
  Batch<const T> context_{nullptr, 0, 0, false};
  Batch<T> dcontext_{nullptr, 0, 0, false};
};

}  // namespace evenflow::python
