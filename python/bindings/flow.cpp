#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "arrays.hpp"
#include "kernels/kernel_set.hpp"
#include "models/settings.hpp"

namespace evenflow::python {
namespace {

template <class T>
void forward(PyFlow<T>& self, const py::object& x, const py::object& z, const py::object& logdet,
             const py::object& given, int64_t first_row, const char* call) {
  const int64_t dims = self.flow.dims();
  const auto in = batch_of<const T>(x, call, "x", dims);
  const auto out = batch_of<T>(z, call, "z", dims, in.n);
  const auto det = batch_of<double>(logdet, call, "logdet", 1, in.n);
  const GivenArrays<T> known(call, self.flow.context(), given, in.n);
  OnDevice arrays(self.contexts, first_row);
  self.flow.forward(arrays.ctx(), self.arena, arrays.in(in, self.flow.sample_shape()), known.on(arrays),
                    arrays.out(out), arrays.out(det), call);
  arrays.bring();
}

template <class T>
void inverse(PyFlow<T>& self, const py::object& z, const py::object& x, const py::object& logdet,
             const py::object& given, int64_t first_row, const char* call) {
  const int64_t dims = self.flow.dims();
  const auto in = batch_of<const T>(z, call, "z", dims);
  const auto out = batch_of<T>(x, call, "x", dims, in.n);
  const auto det = batch_of<double>(logdet, call, "logdet", 1, in.n);
  const GivenArrays<T> known(call, self.flow.context(), given, in.n);
  OnDevice arrays(self.contexts, first_row);
  self.flow.inverse(arrays.ctx(), self.arena, arrays.in(in), in.n, known.on(arrays),
                    arrays.out(out, self.flow.sample_shape()), arrays.out(det), call);
  arrays.bring();
}

template <class T>
void log_prob(PyFlow<T>& self, const py::object& x, const py::object& result, const py::object& given,
              int64_t first_row, const std::string& name) {
  const char* call = name.c_str();
  const auto in = batch_of<const T>(x, call, "x", self.flow.dims());
  const auto out = batch_of<double>(result, call, "result", 1, in.n);
  const GivenArrays<T> known(call, self.flow.context(), given, in.n);
  OnDevice arrays(self.contexts, first_row);
  self.flow.log_prob(arrays.ctx(), self.arena, arrays.in(in, self.flow.sample_shape()), known.on(arrays),
                     arrays.out(out), call);
  arrays.bring();
}

template <class T>
bool sample(PyFlow<T>& self, const py::object& x, double temperature, uint64_t seed, const py::object& given,
            int64_t first, int64_t first_row, const py::object& log_prob, bool overflow) {
  const char* call = "sample";
  const auto out = batch_of<T>(x, call, "x", self.flow.dims());
  std::optional<Batch<double>> density;
  if (!log_prob.is_none()) density = batch_of<double>(log_prob, call, "log_prob", 1, out.n);
  const GivenArrays<T> known(call, self.flow.context(), given, out.n);
  OnDevice arrays(self.contexts, first_row);
  bool finite = true;
  self.flow.sample(arrays.ctx(), self.arena, first, temperature, seed, known.on(arrays),
                   arrays.out(out, self.flow.sample_shape()), density ? arrays.out(*density) : nullptr,
                   overflow ? &finite : nullptr);
  arrays.bring();
  return finite;
}

template <class T>
void base_sample(PyFlow<T>& self, const py::object& z, double temperature, uint64_t seed, int64_t first) {
  const auto out = batch_of<T>(z, "base_sample", "z", self.flow.dims());
  OnDevice arrays(self.contexts);
  self.flow.base_sample(arrays.ctx(), first, temperature, seed, out.n, arrays.out(out));
  arrays.bring();
}

template <class T>
void base_log_prob(PyFlow<T>& self, const py::object& z, const py::object& result) {
  const char* call = "base_log_prob";
  const auto in = batch_of<const T>(z, call, "z", self.flow.dims());
  const auto out = batch_of<double>(result, call, "result", 1, in.n);
  OnDevice arrays(self.contexts);
  self.flow.base_log_prob(arrays.ctx(), arrays.in(in), in.n, arrays.out(out));
  arrays.bring();
}

template <class T>
void class_log_prob(PyFlow<T>& self, const py::object& x, const py::object& result, int64_t first_row) {
  const char* call = "class_log_prob";
  const auto in = batch_of<const T>(x, call, "x", self.flow.dims());
  const auto out = batch_of<double>(result, call, "result", self.flow.classes(), in.n);
  OnDevice arrays(self.contexts, first_row);
  self.flow.class_log_prob(arrays.ctx(), self.arena, arrays.in(in, self.flow.sample_shape()),
                           arrays.out(out));
  arrays.bring();
}

template <class T>
double backward(PyFlow<T>& self, const py::object& z, const py::object& dz, const py::object& dlogdet,
                const py::object& x, const py::object& dx, const py::object& given,
                const py::object& dcontext, const py::object& truth) {
  const char* call = "backward";
  const int64_t dims = self.flow.dims();
  const auto in = batch_of<const T>(z, call, "z", dims), din = batch_of<const T>(dz, call, "dz", dims, in.n);
  const auto ddet = batch_of<const double>(dlogdet, call, "dlogdet", 1, in.n);
  const auto out = batch_of<T>(x, call, "x", dims, in.n), dout = batch_of<T>(dx, call, "dx", dims, in.n);
  const GivenArrays<T> known(call, self.flow.context(), given, in.n, dcontext);
  const bool measured = !truth.is_none();
  const auto wanted = measured ? batch_of<const T>(truth, call, "truth", dims, in.n) : Batch<const T>{};
  const Shape shape = self.flow.sample_shape();
  OnDevice arrays(self.contexts);
  const double drift = self.flow.backward(
      arrays.ctx(), self.arena, arrays.in(in), arrays.in(din), arrays.in(ddet), known.on(arrays),
      arrays.out(out, shape), arrays.out(dout, shape), measured ? arrays.in(wanted, shape) : View<const T>());
  arrays.bring();
  return drift;
}

template <class T>
double inverse_backward(PyFlow<T>& self, const py::object& x, const py::object& dx, const py::object& dlogdet,
                        const py::object& z, const py::object& dz, const py::object& given,
                        const py::object& dcontext, const py::object& known_z) {
  const char* call = "inverse_backward";
  const int64_t dims = self.flow.dims();
  const auto in = batch_of<const T>(x, call, "x", dims), din = batch_of<const T>(dx, call, "dx", dims, in.n);
  const auto ddet = batch_of<const double>(dlogdet, call, "dlogdet", 1, in.n);
  const auto out = batch_of<T>(z, call, "z", dims, in.n), dout = batch_of<T>(dz, call, "dz", dims, in.n);
  const GivenArrays<T> known(call, self.flow.context(), given, in.n, dcontext);
  const bool has_z = !known_z.is_none();
  const auto latents = has_z ? batch_of<const T>(known_z, call, "z", dims, in.n) : Batch<const T>{};
  const Shape shape = self.flow.sample_shape();
  OnDevice arrays(self.contexts);
  Context& ctx = arrays.ctx();
  const double distance = self.flow.inverse_backward(
      ctx, self.arena, arrays.in(in, shape), arrays.in(din, shape), arrays.in(ddet), known.on(arrays),
      arrays.out(out), arrays.out(dout), has_z ? arrays.in(latents) : nullptr);
  arrays.bring();
  return distance;
}

template <class T>
void log_prob_and_grad(PyFlow<T>& self, const py::object& x, const py::object& log_prob,
                       const py::object& grad, const py::object& given, int64_t first_row,
                       const py::object& dcontext) {
  const char* call = "log_prob_and_grad";
  const int64_t dims = self.flow.dims();
  const auto in = batch_of<const T>(x, call, "x", dims);
  const auto out = batch_of<double>(log_prob, call, "log_prob", 1, in.n);
  const auto dx = batch_of<T>(grad, call, "grad", dims, in.n);
  const GivenArrays<T> known(call, self.flow.context(), given, in.n, dcontext);
  const Shape shape = self.flow.sample_shape();
  OnDevice arrays(self.contexts, first_row);
  self.flow.log_prob_and_grad(arrays.ctx(), self.arena, arrays.in(in, shape), known.on(arrays),
                              arrays.out(out), arrays.out(dx, shape));
  arrays.bring();
}

/// A Python function that adds up an array in place.
class PyRanks final : public Ranks {
 public:
  explicit PyRanks(py::object sum) : sum_(std::move(sum)) {}
  void sum(double* values, int64_t count) override {
    py::gil_scoped_acquire lock;
    sum_(py::array_t<double>({static_cast<py::ssize_t>(count)}, values, py::none()));  // no copy
  }

 private:
  py::object sum_;
};

/// grad_norm: whether the dict has that too, which train_step alone computes.
py::dict as_dict(const StepResult& r, bool grad_norm = false) {
  // Making the strings would take almost as long as a small step. They are made once and never released.
  static const auto* const names =
      new std::array<py::str, 9>{"loss",     "nll",         "class_nll",      "class_error", "drift",
                                 "fallback", "drift_layer", "drift_in_layer", "grad_norm"};
  py::dict out;
  auto name = names->begin();
  const auto add = [&](const auto& value) { out[*name++] = value; };
  add(r.loss);
  add(r.nll);
  add(r.class_nll);
  add(r.class_error);
  add(r.drift.value);
  add(r.drift.fallback);
  add(r.drift.layer);
  add(r.drift.layer_value);
  if (grad_norm) add(r.grad_norm);
  return out;
}

template <class T>
py::dict loss_and_grad(PyFlow<T>& self, const py::object& x, const py::object& given, int64_t budget,
                       double weight, const py::object& sum_over_ranks, const py::object& dcontext,
                       const py::object& sample_weight, uint64_t seed, uint64_t first,
                       const py::object& nll) {
  const auto in = batch_of<const T>(x, "loss_and_grad", "x", self.flow.dims());
  double* const each =
      nll.is_none() ? nullptr : batch_of<double>(nll.cast<py::array>(), "loss_and_grad", "nll", 1, in.n).data;
  const GivenArrays<T> known("loss_and_grad", self.flow.context(), given, in.n, dcontext, sample_weight,
                             {seed, first});
  StepResult r;
  PyRanks ranks(sum_over_ranks);
  {
    OnDevice arrays(self.contexts);
    Context& ctx = arrays.ctx();
    const RanksScope with(ctx, sum_over_ranks.is_none() ? nullptr : &ranks);
    r = self.flow.loss_and_grad(ctx, self.arena, arrays.in(in, self.flow.sample_shape()), known.on(arrays),
                                budget, weight, each);
    arrays.bring();
  }
  return as_dict(r);
}

template <class T>
py::dict train_step(PyFlow<T>& self, const py::object& x, PyOptimizer<T>& optimizer, const py::object& given,
                    int64_t budget, double max_norm, PyAverage<T>* average, double decay,
                    const py::object& sample_weight, uint64_t seed) {
  const char* call = "train_step";
  const auto in = batch_of<const T>(x, call, "x", self.flow.dims());
  const GivenArrays<T> known(call, self.flow.context(), given, in.n, py::none(), sample_weight, {seed, 0});
  StepResult r;
  {
    OnDevice arrays(self.contexts);
    r = self.flow.train_step(
        arrays.ctx(), self.arena, arrays.in(in, self.flow.sample_shape()), known.on(arrays), budget,
        {optimizer.optimizer, max_norm, average ? average->values.data() : nullptr, decay});
  }
  return as_dict(r, true);
}

template <class T>
void dequantize(PyFlow<T>& self, const py::object& x, int bits, const py::object& seed, int64_t first,
                const py::object& levels) {
  const int64_t dims = self.flow.dims();
  const auto in = batch_of<const uint8_t>(x, "dequantize", "x", dims);
  const auto out = batch_of<T>(levels, "dequantize", "levels", dims, in.n);
  if (bits < 1 || bits > 8) fail<ConfigError>("dequantize", "expected 1 <= bits <= 8, got ", bits);
  const bool noise = !seed.is_none();
  const uint64_t key = noise ? seed.cast<uint64_t>() : 0;
  OnDevice arrays(self.contexts);
  Context& ctx = arrays.ctx();
  ctx.kernels<T>().prior.dequantize(ctx, in.n, dims, arrays.in(in), bits, noise, key,
                                    static_cast<uint64_t>(first), arrays.out(out));
  arrays.bring();
}

template <class T>
void init(PyFlow<T>& self, const py::object& x, const py::object& given) {
  const auto in = batch_of<const T>(x, "init", "x", self.flow.dims());
  const GivenArrays<T> known("init", self.flow.context(), given, in.n);
  OnDevice arrays(self.contexts);
  self.flow.init_from_data(arrays.ctx(), self.arena, arrays.in(in, self.flow.sample_shape()),
                           known.on(arrays));
}

template <class Value, class T>
int64_t first_not_finite_of(PyFlow<T>& self, const DeviceArray& array) {
  const int64_t size = array.size();
  const Batch<const Value> in{reinterpret_cast<const Value*>(array.data), size, 1, true};
  OnDevice arrays(self.contexts);
  Context& ctx = arrays.ctx();
  HostScope host(ctx);
  WorkspaceScope scope(ctx);
  const Value* values = arrays.in(in);
  double* bad = scope.take<double>(1);
  ctx.kernels<Value>().optim.count_not_finite(ctx, View<const Value>(values, {1, 1, 1, size}), bad);
  if (*host.read(bad, 1) == 0) return -1;
  const Value* here = host.read(values, size);
  return std::find_if(here, here + size, [](Value v) { return !std::isfinite(v); }) - here;
}

/// The index of the first value that is not finite; -1: there is none.
template <class T>
int64_t first_not_finite(PyFlow<T>& self, const DeviceArray& array) {
  const std::string type = name_of(array.dtype);
  return type == "float32"   ? first_not_finite_of<float>(self, array)
         : type == "float64" ? first_not_finite_of<double>(self, array)
                             : -1;
}

/// array *= factor.
template <class T>
void scale(PyFlow<T>& self, const py::object& array, double factor) {
  const auto values = batch_of<double>(array, "scale", "array", 1);
  OnDevice arrays(self.contexts);
  Context& ctx = arrays.ctx();
  double* there = arrays.in_out(values);
  ctx.kernels<T>().move.scale_doubles(ctx, values.n, factor, there, there);
  arrays.bring();
}

const char* group_name(Group group) {
  constexpr const char* kNames[] = {"decay", "no_decay", "stats", "fixed"};
  return kNames[static_cast<int>(group)];
}

py::tuple image_shape(const Shape& s) {
  return py::make_tuple(s.h, s.w, s.c);
}

template <class T>
py::list entries(PyFlow<T>& self) {
  py::list list;
  for (const ParamLayout::Entry& e : self.flow.layout()->entries()) {
    list.append(py::make_tuple(e.name, py::tuple(py::cast(e.shape)), group_name(e.group), e.offset, e.size));
  }
  return list;
}

template <class T>
py::list levels(PyFlow<T>& self) {
  py::list list;
  for (const Level& level : self.flow.levels())
    list.append(py::make_tuple(level.offset, image_shape(level.shape)));
  return list;
}

template <class T>
void bind_flow_class(py::module_& m, const char* name) {
  using namespace py::literals;
  using F = PyFlow<T>;
  py::class_<F, std::shared_ptr<F>> cls(m, name);
  // A writable numpy array of the flow's memory, and an array where kernels see it. Both keep the flow alive.
  const auto array = [&](const std::string& attribute, T* (*data)(F&), int64_t (ParamLayout::*size)() const) {
    cls.def_property_readonly(attribute.c_str(), [=](py::object self) {
      F& f = self.cast<F&>();
      return py::array_t<T>(std::vector<py::ssize_t>{(*f.flow.layout().*size)()}, data(f), self);
    });
    cls.def_property_readonly(("device_" + attribute).c_str(), [=](const std::shared_ptr<F>& f) {
      return DeviceArray{Exchange::of(f->arena.device()), f, reinterpret_cast<char*>(data(*f)), type_of<T>(),
                         std::vector<int64_t>(1, (*f->flow.layout().*size)())};
    });
  };
  const auto values = [](F& f) { return f.arena.values(); };
  array("values", values, &ParamLayout::total_size);
  array("params", values, &ParamLayout::trainable_size);
  array("grads", [](F& f) { return f.arena.grads(); }, &ParamLayout::trainable_size);
  cls.def_property_readonly("config", [](F& f) { return to_json(f.config); })
      .def_property_readonly("device", [](F& f) { return f.arena.device(); })
      .def_property_readonly("dtype", [](F&) { return dtype_name<T>(); })
      .def_property_readonly("sample_shape", [](F& f) { return image_shape(f.flow.sample_shape()); })
      .def_property_readonly("dims", [](F& f) { return f.flow.dims(); })
      .def_property_readonly("classes", [](F& f) { return f.flow.classes(); })
      .def_property_readonly("context", [](F& f) { return f.flow.context(); })
      .def_property_readonly("base", [](F& f) { return to_string(f.flow.base()); })
      .def_property_readonly("initialized", [](F& f) { return f.flow.initialized(f.arena); })
      .def("check_parameters", [](F& f) { f.flow.check_parameters(f.arena); })
      .def("levels", &levels<T>)
      .def("entries", &entries<T>)
      .def("zero_grad",
           [](F& f) {
             Unlock unlock;
             ContextPool::Lease lease(f.contexts);
             Context& ctx = lease;
             zero_grad(ctx, f.arena);
           })
      .def(
          "reset",
          [](F& f, uint64_t seed) {
            Unlock unlock;
            f.flow.init(f.arena, seed);
          },
          "seed"_a)
      .def("scale", &scale<T>, "array"_a, "factor"_a)
      .def("first_not_finite", &first_not_finite<T>, "array"_a)
      .def("init", &init<T>, "x"_a, "given"_a = py::none())
      .def("forward", &forward<T>, "x"_a, "z"_a, "logdet"_a, "given"_a = py::none(), "first_row"_a = 0,
           "call"_a = "forward")
      .def("inverse", &inverse<T>, "z"_a, "x"_a, "logdet"_a, "given"_a = py::none(), "first_row"_a = 0,
           "call"_a = "inverse")
      .def("log_prob", &log_prob<T>, "x"_a, "result"_a, "given"_a = py::none(), "first_row"_a = 0,
           "call"_a = "log_prob")
      .def("sample", &sample<T>, "x"_a, "temperature"_a = 1.0, "seed"_a = 0, "given"_a = py::none(),
           "first"_a = 0, "first_row"_a = 0, "log_prob"_a = py::none(), "overflow"_a = false)
      .def("base_sample", &base_sample<T>, "z"_a, "temperature"_a = 1.0, "seed"_a = 0, "first"_a = 0)
      .def("base_log_prob", &base_log_prob<T>, "z"_a, "result"_a)
      .def("class_log_prob", &class_log_prob<T>, "x"_a, "result"_a, "first_row"_a = 0)
      .def("backward", &backward<T>, "z"_a, "dz"_a, "dlogdet"_a, "x"_a, "dx"_a, "given"_a = py::none(),
           "dcontext"_a = py::none(), "truth"_a = py::none())
      .def("inverse_backward", &inverse_backward<T>, "x"_a, "dx"_a, "dlogdet"_a, "z"_a, "dz"_a,
           "given"_a = py::none(), "dcontext"_a = py::none(), "known_z"_a = py::none())
      .def("log_prob_and_grad", &log_prob_and_grad<T>, "x"_a, "log_prob"_a, "grad"_a, "given"_a = py::none(),
           "first_row"_a = 0, "dcontext"_a = py::none())
      .def("train_step", &train_step<T>, "x"_a, "optimizer"_a, "given"_a = py::none(),
           "activation_budget"_a = -1, "max_norm"_a = 0.0, "average"_a = py::none(), "decay"_a = 0.0,
           "sample_weight"_a = py::none(), "seed"_a = 0)
      .def("loss_and_grad", &loss_and_grad<T>, "x"_a, "given"_a = py::none(), "activation_budget"_a = -1,
           "weight"_a = 1.0, "sum_over_ranks"_a = py::none(), "dcontext"_a = py::none(),
           "sample_weight"_a = py::none(), "seed"_a = 0, "first"_a = 0, "nll"_a = py::none())
      .def("dequantize", &dequantize<T>, "x"_a, "bits"_a, "seed"_a, "first"_a, "levels"_a);
}

py::object build_flow(const std::string& settings, const std::string& device, int threads) {
  const ModelConfig config = parse_config(settings);
  const auto built = [&](auto t) {
    using T = decltype(t);
    return py::cast(std::make_shared<PyFlow<T>>(config, device, threads));
  };
  return config.dtype == Dtype::float32 ? built(float()) : built(double());
}

}  // namespace

void bind_flow(py::module_& m) {
  using namespace py::literals;
  bind_flow_class<float>(m, "Flow32");
  bind_flow_class<double>(m, "Flow64");
  m.def("build", &build_flow, "settings"_a, "device"_a = "cpu", "threads"_a = 0,
        "The flow that a model's settings, as JSON, describe.");
  m.def(
      "settings", [] { return py::module_::import("json").attr("loads")(settings_as_json()); },
      "The declared settings of the models, as dicts.");
}

}  // namespace evenflow::python
