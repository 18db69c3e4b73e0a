#include "arrays.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace evenflow::python {
namespace {

using namespace dlpack;
int64_t size_of(const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (const int64_t extent : shape) size *= extent;
  return size;
}

}  // namespace

Exchange& Exchange::of(const std::string& device) {
  if (device == "cpu") fail<DeviceError>("arrays", "expected a device with memory of its own, got the CPU");
  static Exchange* const exchange = new Exchange(device);  // there is one backend
  return *exchange;
}

std::shared_ptr<void> Exchange::allocate(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {device().allocate(bytes ? bytes : 1), [this](void* memory) { release(memory); }};
}

void Exchange::release(void* memory) noexcept {
  // Our own calls have finished with an array when they return. Another library may call DLPack's deleter
  // while its kernels still read the array, on queues that we do not know. So memory is released when the
  // whole device is idle. Python's lock is released meanwhile, because the queued work may need it.
  std::optional<Unlock> unlock;
  if (Py_IsInitialized() && PyGILState_Check()) unlock.emplace();
  std::vector<void*> free;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    free.swap(waiting_);
  }
  free.push_back(memory);
  const bool idle = device().wait_for_all();
  const std::lock_guard<std::mutex> lock(mutex_);
  for (void* block : free) {
    if (idle) {
      device().release(block);
    } else {
      waiting_.push_back(block);
    }
  }
}

void Exchange::to_host(void* to, const void* from, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  device().to_host(to, from, bytes);
}

int64_t DeviceArray::size() const {
  return size_of(shape);
}

std::string name_of(DLDataType type) {
  static constexpr const char* kNames[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
  std::string name =
      type.code < std::size(kNames) ? kNames[type.code] : "type " + std::to_string(type.code) + " of ";
  if (name != "bool") name += std::to_string(type.bits);
  return type.lanes == 1 ? name : name + " in groups of " + std::to_string(type.lanes);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return py::str(py::tuple(py::cast(shape)));
}

namespace {

// Arrays of other libraries.

/// A tensor taken out of its capsule, given back when nobody holds it.
template <class Managed>
std::shared_ptr<Managed> taken(PyObject* capsule) {
  auto* tensor = static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::name));
  if (!tensor || PyCapsule_SetName(capsule, Managed::used_name) != 0) throw py::error_already_set();
  return {tensor, [](Managed* managed) {
            if (!managed->deleter) return;
            const py::gil_scoped_acquire lock;  // some libraries' deleters rely on it
            managed->deleter(managed);
          }};
}

bool contiguous(const DLTensor& tensor) {
  int64_t step = 1;
  for (int i = tensor.ndim; tensor.strides && i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != step) return false;
    step *= tensor.shape[i];
  }
  return true;
}

/// The values of a tensor of `owner`, which must be of the device, of one of the types and C-contiguous.
DeviceArray array_of(const std::string& where, const DLTensor& tensor, std::shared_ptr<void> owner,
                     Exchange& exchange, const std::vector<std::string>& dtypes) {
  const auto refuse = [&](const std::string& expected, const std::string& got) {
    fail<py::type_error>(where, "expected ", expected, ", got ", got);
  };
  const DLDevice at = tensor.device;
  if ((at.device_type != kDLCUDA && at.device_type != kDLCUDAManaged) ||
      at.device_id != exchange.device().id()) {
    refuse("a DLPack tensor on the device that the array told of",
           "one on " + shape_text({at.device_type, at.device_id}));
  }
  const std::string dtype = name_of(tensor.dtype);
  if (std::find(dtypes.begin(), dtypes.end(), dtype) == dtypes.end()) {
    refuse(dtypes[0] + (dtypes.size() > 1 ? " or " + dtypes[1] : "") + " values on the GPU",
           "dtype " + dtype + "; convert them there, with x.to(...) in torch");
  }
  if (tensor.ndim < 0 || (tensor.ndim > 0 && !tensor.shape)) refuse("a DLPack tensor with a shape", "none");
  const std::vector<int64_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  int64_t values = 1;
  bool possible = true;
  for (const int64_t extent : shape) {
    possible = possible && extent >= 0 && !__builtin_mul_overflow(values, extent, &values);
  }
  if (!possible || values > INT64_MAX / 16) refuse("a shape that memory can have", shape_text(shape));
  char* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  if (values > 0 && !tensor.data) refuse("a DLPack tensor with data", "none");
  if (values > 0 && !contiguous(tensor)) {
    refuse("a C-contiguous array on the GPU",
           "strides " + shape_text({tensor.strides, tensor.strides + tensor.ndim}) + " of shape " +
               shape_text(shape) + "; lay it out anew, with x.contiguous() in torch");
  }
  if (reinterpret_cast<uintptr_t>(data) % (tensor.dtype.bits / 8)) {
    refuse("values at multiples of their size", "others");
  }
  return {exchange, std::move(owner), data, tensor.dtype, shape};
}

DeviceArray borrow(const std::string& where, const py::object& capsule, const std::string& device,
                   const std::vector<std::string>& dtypes) {
  Exchange& exchange = Exchange::of(device);
  if (PyCapsule_IsValid(capsule.ptr(), DLManagedTensorVersioned::name)) {
    const auto tensor = taken<DLManagedTensorVersioned>(capsule.ptr());
    if (tensor->version.major != 1) {
      fail<py::type_error>(where, "expected DLPack of version 1, got ", tensor->version.major);
    }
    return array_of(where, tensor->dl_tensor, tensor, exchange, dtypes);
  }
  if (PyCapsule_IsValid(capsule.ptr(), DLManagedTensor::name)) {
    const auto tensor = taken<DLManagedTensor>(capsule.ptr());
    return array_of(where, tensor->dl_tensor, tensor, exchange, dtypes);
  }
  fail<py::type_error>(where, "expected a DLPack capsule from __dlpack__, got ",
                       std::string(py::repr(capsule)));
}

// Our arrays for other libraries.

/// What a capsule holds: the tensor, and what it points to.
template <class Managed>
struct Loan {
  Managed managed{};
  std::shared_ptr<void> owner;
  std::vector<int64_t> shape, strides;
};

template <class Managed>
void end_loan(Managed* managed) {
  delete static_cast<Loan<Managed>*>(managed->manager_ctx);
}

/// The destructor of a capsule. It releases the tensor unless somebody has taken it.
template <class Managed>
void end_capsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, Managed::name)) return;
  end_loan(static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::name)));
}

template <class Managed>
std::unique_ptr<Loan<Managed>> loan_of(const DeviceArray& array) {
  auto loan = std::make_unique<Loan<Managed>>();
  loan->owner = array.owner;
  loan->shape = array.shape;
  loan->strides.resize(array.shape.size(), 1);
  for (size_t i = array.shape.size(); i-- > 1;) loan->strides[i - 1] = loan->strides[i] * array.shape[i];
  // Parameters lie in managed memory, whose type few libraries know. The GPU can access it like its own.
  const DLDevice place{kDLCUDA, array.exchange.device().id()};
  loan->managed.dl_tensor = {
      array.data,           place, static_cast<int32_t>(array.shape.size()), array.dtype, loan->shape.data(),
      loan->strides.data(), 0};
  loan->managed.manager_ctx = loan.get();
  loan->managed.deleter = &end_loan<Managed>;
  return loan;
}

template <class Managed>
py::object capsule_of(std::unique_ptr<Loan<Managed>> loan) {
  PyObject* capsule = PyCapsule_New(&loan->managed, Managed::name, &end_capsule<Managed>);
  if (!capsule) throw py::error_already_set();
  loan.release();
  return py::reinterpret_steal<py::object>(capsule);
}

py::tuple dlpack_device(const DeviceArray& array) {
  return py::make_tuple(static_cast<int>(kDLCUDA), array.exchange.device().id());
}

[[noreturn]] void no_export(const std::string& got) {
  PyErr_SetString(PyExc_BufferError, ("[DeviceArray] expected an export of the memory itself, got " + got +
                                      "; numpy.asarray(x) copies")
                                         .c_str());
  throw py::error_already_set();
}

/// Our calls return when their results are complete, so the consumer's stream has nothing to wait for.
py::object to_dlpack(const DeviceArray& array, const py::object& /*stream*/, const py::object& max_version,
                     const py::object& dl_device, const py::object& copy) {
  if (!dl_device.is_none() && !dl_device.equal(dlpack_device(array))) {
    no_export("dl_device=" + std::string(py::str(dl_device)));
  }
  if (!copy.is_none() && copy.cast<bool>()) no_export("copy=True");
  if (max_version.is_none() || py::tuple(max_version)[0].cast<int>() < 1) {
    return capsule_of(loan_of<DLManagedTensor>(array));
  }
  auto loan = loan_of<DLManagedTensorVersioned>(array);
  loan->managed.version = {1, 0};
  return capsule_of(std::move(loan));
}

// Arrays on the device as numpy and Python see them.

py::dtype numpy_dtype(const DeviceArray& array) {
  return py::dtype(name_of(array.dtype));
}

py::object to_numpy(const DeviceArray& array, const py::object& dtype, const py::object& copy) {
  if (!copy.is_none() && !copy.cast<bool>()) {
    fail<py::value_error>("DeviceArray",
                          "expected copy=None or True, since values are copied from the GPU, got copy=False");
  }
  py::array values(numpy_dtype(array), array.shape);
  void* to = values.mutable_data();
  {
    const Unlock unlock;
    array.exchange.to_host(to, array.data, static_cast<size_t>(array.bytes()));
  }
  return dtype.is_none() ? py::object(std::move(values)) : values.attr("astype")(dtype);
}

DeviceArray rows(const DeviceArray& array, const py::slice& slice) {
  py::ssize_t start, stop, step, length;
  if (array.shape.empty() || !slice.compute(array.shape[0], &start, &stop, &step, &length) || step != 1) {
    fail<py::type_error>("DeviceArray", "expected a slice of rows of step 1, got ",
                         std::string(py::repr(slice)), " of shape ", shape_text(array.shape));
  }
  DeviceArray part = array;
  part.shape[0] = length;
  part.data += start * (array.bytes() / std::max<int64_t>(array.shape[0], 1));
  return part;
}

std::string repr(const DeviceArray& array) {
  return "<DeviceArray " + shape_text(array.shape) + " " + name_of(array.dtype) + " on " +
         array.exchange.device().name() + ":" + std::to_string(array.exchange.device().id()) + ">";
}

DeviceArray empty(const std::string& device, std::vector<int64_t> shape, const py::dtype& dtype) {
  const DLDataType type = dtype.kind() == 'u'     ? type_of<uint8_t>()
                          : dtype.itemsize() == 4 ? type_of<float>()
                                                  : type_of<double>();
  Exchange& exchange = Exchange::of(device);
  std::shared_ptr<void> memory = exchange.allocate(static_cast<size_t>(size_of(shape) * type.bits / 8));
  char* data = static_cast<char*>(memory.get());
  return {exchange, std::move(memory), data, type, std::move(shape)};
}

/// The index of the first of `size` values that is not finite; -1: there is none.
template <class T>
int64_t first_not_finite_of(const T* values, int64_t size) {
  constexpr int64_t kPiece = 4096;
  for (int64_t begin = 0; begin < size; begin += kPiece) {
    const int64_t end = std::min(size, begin + kPiece);
    int bad = 0;  // the compiler vectorises a loop without an exit
    for (int64_t i = begin; i < end; ++i) bad |= !(std::abs(values[i]) <= std::numeric_limits<T>::max());
    if (!bad) continue;
    return std::find_if(values + begin, values + end, [](T v) { return !std::isfinite(v); }) - values;
  }
  return -1;
}

/// The same for a C-contiguous array of float32 or float64. The index is that of the flat array.
int64_t first_not_finite(const py::array& array) {
  const char* call = "first_not_finite";
  if (py::isinstance<py::array_t<float>>(array)) {
    require<float>(array, call, "array");
    return first_not_finite_of(static_cast<const float*>(array.data()), array.size());
  }
  require<double>(array, call, "array");
  return first_not_finite_of(static_cast<const double*>(array.data()), array.size());
}

}  // namespace

void bind_arrays(py::module_& m) {
  using namespace py::literals;
  py::class_<DeviceArray> type(m, "DeviceArray", R"(Values on the GPU: what calls return that were given some.

torch.from_dlpack(x), or the like of another library, makes it an array of that library in the same memory;
numpy.asarray(x) copies it. Given to a model on the same device, it is taken where it is. x[a:b] is some of its
rows, in the same memory. The memory is released when neither it nor an array made from it is left.)");
  type.attr("__module__") = "evenflow";
  type.def_property_readonly(
          "shape", [](const DeviceArray& a) { return py::tuple(py::cast(a.shape)); }, "A tuple of its sizes.")
      .def_property_readonly("dtype", &numpy_dtype, "A numpy dtype.")
      .def_property_readonly(
          "ndim", [](const DeviceArray& a) { return a.shape.size(); }, "The number of its axes.")
      .def_property_readonly("size", &DeviceArray::size, "The number of its values.")
      .def_property_readonly(
          "device", [](const DeviceArray& a) { return a.exchange.device().name(); },
          "Of the model whose result it is: \"cuda\".")
      .def("__len__", [](const DeviceArray& a) { return a.shape.empty() ? 0 : a.shape[0]; })
      .def("__getitem__", &rows, "rows"_a)
      .def("__repr__", &repr)
      .def("__array__", &to_numpy, "dtype"_a = py::none(), "copy"_a = py::none())
      .def("__dlpack__", &to_dlpack, py::kw_only(), "stream"_a = py::none(), "max_version"_a = py::none(),
           "dl_device"_a = py::none(), "copy"_a = py::none())
      .def("__dlpack_device__", &dlpack_device);
  m.def("empty", &empty, "device"_a, "shape"_a, "dtype"_a);
  m.def("borrow", &borrow, "where"_a, "capsule"_a, "device"_a, "dtypes"_a);
  m.def("first_not_finite", &first_not_finite, "array"_a);
  m.def(
      "gpu_and_stream",
      [](const std::string& device) {
        const Device& there = Exchange::of(device).device();
        return py::make_tuple(there.id(), there.handle());
      },
      "device"_a);
}

}  // namespace evenflow::python
