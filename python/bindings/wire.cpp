#include "common.hpp"
#include "evenflow/error.hpp"
#include "kernels/bf16.hpp"

// Gradients that ranks exchange as bfloat16, the upper half of a float32. numpy sees uint16.

namespace evenflow::python {
namespace {

template <class T>
using Vector = py::array_t<T, py::array::c_style>;
using Halves = Vector<uint16_t>;

void check_size(const char* call, py::ssize_t expected, py::ssize_t got) {
  if (got != expected) fail<ShapeError>(call, "expected ", expected, " values, got ", got);
}

Bf16* halves(uint16_t* bits) {
  static_assert(sizeof(Bf16) == sizeof(uint16_t), "a view of the same memory");
  return reinterpret_cast<Bf16*>(bits);
}

/// out = values, rounded to nearest even.
template <class T>
void to_bfloat16(const Vector<T>& values, Halves& out) {
  check_size("to_bfloat16", values.size(), out.size());
  const T* from = values.data();
  Bf16* to = halves(out.mutable_data());
  const py::ssize_t n = out.size();
  const py::gil_scoped_release unlock;
  for (py::ssize_t i = 0; i < n; ++i) to[i] = to_bf16(static_cast<float>(from[i]));
}

/// out (n) = the sum of parts (p, n), added in float32 in the order of the parts.
void sum_bfloat16(const Halves& parts, Halves& out) {
  if (parts.ndim() != 2) fail<ShapeError>("sum_bfloat16", "expected 2 axes, got ", parts.ndim());
  const py::ssize_t p = parts.shape(0), n = parts.shape(1);
  check_size("sum_bfloat16", n, out.size());
  const uint16_t* from = parts.data();
  Bf16* to = halves(out.mutable_data());
  const py::gil_scoped_release unlock;
  for (py::ssize_t i = 0; i < n; ++i) {
    float sum = 0;
    for (py::ssize_t k = 0; k < p; ++k) sum += to_float(Bf16{from[k * n + i]});
    to[i] = to_bf16(sum);
  }
}

template <class T>
void from_bfloat16(const Halves& values, Vector<T>& out) {
  check_size("from_bfloat16", values.size(), out.size());
  const uint16_t* from = values.data();
  T* to = out.mutable_data();
  const py::ssize_t n = out.size();
  const py::gil_scoped_release unlock;
  for (py::ssize_t i = 0; i < n; ++i) to[i] = static_cast<T>(to_float(Bf16{from[i]}));
}

}  // namespace

void bind_wire(py::module_& m) {
  using namespace py::literals;
  m.def("to_bfloat16", &to_bfloat16<float>, "values"_a.noconvert(), "out"_a.noconvert());
  m.def("to_bfloat16", &to_bfloat16<double>, "values"_a.noconvert(), "out"_a.noconvert());
  m.def("sum_bfloat16", &sum_bfloat16, "parts"_a.noconvert(), "out"_a.noconvert());
  m.def("from_bfloat16", &from_bfloat16<float>, "values"_a.noconvert(), "out"_a.noconvert());
  m.def("from_bfloat16", &from_bfloat16<double>, "values"_a.noconvert(), "out"_a.noconvert());
}

}  // namespace evenflow::python
