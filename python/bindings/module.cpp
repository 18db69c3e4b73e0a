#include "common.hpp"

namespace evenflow::python {
namespace {

/// An exception class with `Error` and a builtin as bases, so that either catches it.
template <class E>
void bind_error(py::module_& m, const char* name, const py::object& base, PyObject* builtin) {
  static PyObject* type = nullptr;
  py::object bases = base ? py::object(py::make_tuple(base, py::reinterpret_borrow<py::object>(builtin)))
                          : py::object(py::make_tuple(py::reinterpret_borrow<py::object>(builtin)));
  type = PyErr_NewException(("evenflow." + std::string(name)).c_str(), bases.ptr(), nullptr);
  if (!type) throw py::error_already_set();
  m.attr(name) = py::reinterpret_borrow<py::object>(type);
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const E& e) {
      PyErr_SetString(type, e.what());
    }
  });
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled core of evenflow; use the names of the package instead.";
  m.attr("version") = EVENFLOW_VERSION;
  // Translators are tried in reverse order of registration: derived classes come last.
  bind_error<Error>(m, "Error", py::object(), PyExc_Exception);
  const py::object error = m.attr("Error");
  bind_error<ShapeError>(m, "ShapeError", error, PyExc_ValueError);
  bind_error<ConfigError>(m, "ConfigError", error, PyExc_ValueError);
  bind_error<DeviceError>(m, "DeviceError", error, PyExc_RuntimeError);
  bind_error<IoError>(m, "IoError", error, PyExc_OSError);
  bind_error<NumericError>(m, "NumericError", error, PyExc_ArithmeticError);
  m.def(
      "isa", [] { return std::string(Context().isa()); },
      "The instruction set of the kernels: 'baseline', 'avx2' or 'avx512'.");
  bind_arrays(m);
  bind_flow(m);
  bind_optim(m);
  bind_io(m);
  bind_bench(m);
  bind_wire(m);
  bind_collective(m);
}

}  // namespace evenflow::python
