#include "common.hpp"
#include "evenflow/error.hpp"

namespace evenflow::python {
namespace {

/// An exception class with `Error` and a builtin as bases, so that either catches it.
template <class E>
void bind_error(py::module_& m, const char* name, const py::object& base, PyObject* builtin,
                const char* doc) {
  static PyObject* type = nullptr;
  py::object bases = base ? py::object(py::make_tuple(base, py::reinterpret_borrow<py::object>(builtin)))
                          : py::object(py::make_tuple(py::reinterpret_borrow<py::object>(builtin)));
  type = PyErr_NewExceptionWithDoc(("evenflow." + std::string(name)).c_str(), doc, bases.ptr(), nullptr);
  if (!type) throw py::error_already_set();
  m.attr(name) = py::reinterpret_borrow<py::object>(type);
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const E& e) {
      // The text may hold a file name that is not valid UTF-8.
      const std::string text = e.what();
      const py::object said = py::reinterpret_steal<py::object>(
          PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace"));
      if (said) PyErr_SetObject(type, said.ptr());
    }
  });
}

void set_matmul_precision(const std::string& precision) {
  if (precision != "highest" && precision != "high") {
    fail<ConfigError>("set_matmul_precision", "expected highest or high, got ", precision);
  }
  matmul_precision = precision == "high" ? MatmulPrecision::high : MatmulPrecision::highest;
}

std::string matmul_precision_name() {
  return matmul_precision == MatmulPrecision::high ? "high" : "highest";
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  using namespace py::literals;
  m.doc() = "Compiled core of evenflow; use the names of the package instead.";
  m.attr("version") = EVENFLOW_VERSION;
  // Translators are tried in reverse order of registration: derived classes come last.
  bind_error<Error>(m, "Error", py::object(), PyExc_Exception,
                    "Root of the errors of evenflow. Their texts read [where] expected ..., got ....");
  const py::object error = m.attr("Error");
  bind_error<ShapeError>(m, "ShapeError", error, PyExc_ValueError,
                         "An array whose shape does not fit the model or the operation.");
  bind_error<ConfigError>(m, "ConfigError", error, PyExc_ValueError,
                          "A setting, column or label outside its documented range.");
  bind_error<DeviceError>(m, "DeviceError", error, PyExc_RuntimeError,
                          "A device that is absent or not in this build.");
  bind_error<IoError>(m, "IoError", error, PyExc_OSError,
                      "A file that is missing, truncated, foreign or not writable.");
  bind_error<NumericError>(m, "NumericError", error, PyExc_ArithmeticError,
                           "A value that is not finite, or a transform that can't be inverted.");
  m.def(
      "isa", [] { return std::string(Context().isa()); },
      "The instruction set of the kernels: 'baseline', 'avx2', 'avx512', 'avx512_bf16', 'amx' or 'neon'.");
  m.def("set_matmul_precision", &set_matmul_precision, "precision"_a,
        "How a GPU multiplies the nets of float32 models: 'highest' or 'high'.");
  m.def("matmul_precision", &matmul_precision_name, "What set_matmul_precision was last given.");
  bind_arrays(m);
  bind_flow(m);
  bind_optim(m);
  bind_io(m);
}

}  // namespace evenflow::python
