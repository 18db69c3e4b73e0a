#include <cstring>

#include "common.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow::python {
namespace {

using Unlock = py::gil_scoped_release;

template <class T>
py::array_t<T> batch(const Shape& s) {
  return py::array_t<T>(std::vector<py::ssize_t>{s.n, s.h, s.w, s.c});
}

/// A writable numpy view of `size` values inside the flow, which it keeps alive.
template <class T>
py::array_t<T> borrowed(const py::object& owner, T* data, int64_t size) {
  return py::array_t<T>(std::vector<py::ssize_t>{size}, data, owner);
}

template <class T>
py::tuple forward(PyFlow<T>& self, const py::array& x, const py::object& labels) {
  const View<const T> in = view_of<T>(x, "forward");
  const int32_t* label = labels_of(labels, in.shape.n, "forward");
  py::array_t<T> z({static_cast<py::ssize_t>(in.shape.n), static_cast<py::ssize_t>(self.flow.dims())});
  py::array_t<double> logdet(in.shape.n);
  T* out = z.mutable_data();
  double* det = logdet.mutable_data();
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    const int64_t n = in.shape.n, size = in.shape.size();
    T* z_there = arrays.out(out, size);
    double* det_there = arrays.out(det, n);
    self.flow.forward(ctx, self.arena, arrays.in(in), label, z_there, det_there);
    arrays.bring(out, z_there, size);
    arrays.bring(det, det_there, n);
  }
  return py::make_tuple(z, logdet);
}

template <class T>
const T* latents(PyFlow<T>& self, const py::array& z, const char* call, const char* name) {
  const T* data = data_of<T>(z, call, name, 2);
  if (z.shape(1) != self.flow.dims()) {
    fail<ShapeError>(call, "expected ", name, " of shape (N, ", self.flow.dims(), "), got (", z.shape(0),
                     ", ", z.shape(1), ")");
  }
  return data;
}

template <class T>
py::tuple inverse(PyFlow<T>& self, const py::array& z, const py::object& labels) {
  const T* in = latents(self, z, "inverse", "z");
  const int64_t n = z.shape(0);
  const int32_t* label = labels_of(labels, n, "inverse");
  const Shape shape = self.flow.sample_shape().with_batch(n);
  py::array_t<T> x = batch<T>(shape);
  py::array_t<double> logdet(n);
  View<T> out(x.mutable_data(), shape);
  double* det = logdet.mutable_data();
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    const View<T> there(arrays.out(out.data, shape.size()), shape);
    double* det_there = arrays.out(det, n);
    self.flow.inverse(ctx, self.arena, arrays.in(in, shape.size()), n, label, there, det_there);
    arrays.bring(out.data, there.data, shape.size());
    arrays.bring(det, det_there, n);
  }
  return py::make_tuple(x, logdet);
}

template <class T>
py::array_t<double> log_prob(PyFlow<T>& self, const py::array& x, const py::object& labels) {
  const View<const T> in = view_of<T>(x, "log_prob");
  const int32_t* label = labels_of(labels, in.shape.n, "log_prob");
  py::array_t<double> result(in.shape.n);
  double* out = result.mutable_data();
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    double* there = arrays.out(out, in.shape.n);
    self.flow.log_prob(ctx, self.arena, arrays.in(in), label, there);
    arrays.bring(out, there, in.shape.n);
  }
  return result;
}

template <class T>
py::array_t<T> sample(PyFlow<T>& self, int64_t n, double temperature, uint64_t seed, const py::object& labels,
                      int64_t first) {
  if (n < 1) fail<ConfigError>("sample", "expected n >= 1, got ", n);
  const int32_t* label = labels_of(labels, n, "sample");
  const Shape shape = self.flow.sample_shape().with_batch(n);
  py::array_t<T> x = batch<T>(shape);
  View<T> out(x.mutable_data(), shape);
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    const View<T> there(arrays.out(out.data, shape.size()), shape);
    self.flow.sample(ctx, self.arena, first, temperature, seed, label, there);
    arrays.bring(out.data, there.data, shape.size());
  }
  return x;
}

template <class T>
py::array_t<double> class_log_prob(PyFlow<T>& self, const py::array& x) {
  const View<const T> in = view_of<T>(x, "class_log_prob");
  py::array_t<double> result(
      {static_cast<py::ssize_t>(in.shape.n), static_cast<py::ssize_t>(self.flow.classes())});
  double* out = result.mutable_data();
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    const int64_t count = in.shape.n * self.flow.classes();
    double* there = arrays.out(out, count);
    self.flow.class_log_prob(ctx, self.arena, arrays.in(in), there);
    arrays.bring(out, there, count);
  }
  return result;
}

template <class T>
py::tuple backward(PyFlow<T>& self, const py::array& z, const py::array& dz, const py::array& dlogdet,
                   const py::object& labels) {
  const T* in = latents(self, z, "backward", "z");
  const T* din = latents(self, dz, "backward", "dz");
  const double* ddet = data_of<double>(dlogdet, "backward", "dlogdet", 1);
  const int64_t n = z.shape(0);
  if (dz.shape(0) != n || dlogdet.shape(0) != n) {
    fail<ShapeError>("backward", "expected ", n, " rows in dz and dlogdet, got ", dz.shape(0), " and ",
                     dlogdet.shape(0));
  }
  const int32_t* label = labels_of(labels, n, "backward");
  const Shape shape = self.flow.sample_shape().with_batch(n);
  py::array_t<T> x = batch<T>(shape), dx = batch<T>(shape);
  View<T> out(x.mutable_data(), shape), dout(dx.mutable_data(), shape);
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    const int64_t size = shape.size();
    const View<T> there(arrays.out(out.data, size), shape), dthere(arrays.out(dout.data, size), shape);
    self.flow.backward(ctx, self.arena, arrays.in(in, size), arrays.in(din, size), arrays.in(ddet, n), label,
                       there, dthere);
    arrays.bring(out.data, there.data, size);
    arrays.bring(dout.data, dthere.data, size);
  }
  return py::make_tuple(x, dx);
}

template <class T>
py::tuple inverse_backward(PyFlow<T>& self, const py::array& x, const py::array& dx, const py::array& dlogdet,
                           const py::object& labels) {
  const char* call = "inverse_backward";
  const View<const T> in = view_of<T>(x, call), din = view_of<T>(dx, call);
  const double* ddet = data_of<double>(dlogdet, call, "dlogdet", 1);
  const int64_t n = in.shape.n;
  if (din.shape != in.shape || dlogdet.shape(0) != n) {
    fail<ShapeError>(call, "expected dx of shape ", to_string(in.shape), " and ", n, " rows in dlogdet, got ",
                     to_string(din.shape), " and ", dlogdet.shape(0));
  }
  const int32_t* label = labels_of(labels, n, call);
  const std::vector<py::ssize_t> flat{n, self.flow.dims()};
  py::array_t<T> z(flat), dz(flat);
  T* out = z.mutable_data();
  T* dout = dz.mutable_data();
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    const int64_t size = in.shape.size();
    T* there = arrays.out(out, size);
    T* dthere = arrays.out(dout, size);
    self.flow.inverse_backward(ctx, self.arena, arrays.in(in), arrays.in(din), arrays.in(ddet, n), label,
                               there, dthere);
    arrays.bring(out, there, size);
    arrays.bring(dout, dthere, size);
  }
  return py::make_tuple(z, dz);
}

template <class T>
py::tuple log_prob_and_grad(PyFlow<T>& self, const py::array& x, const py::object& labels) {
  const View<const T> in = view_of<T>(x, "log_prob_and_grad");
  const int32_t* label = labels_of(labels, in.shape.n, "log_prob_and_grad");
  py::array_t<double> log_prob(in.shape.n);
  py::array_t<T> gradient = batch<T>(in.shape);
  double* out = log_prob.mutable_data();
  T* dx = gradient.mutable_data();
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    const int64_t n = in.shape.n, size = in.shape.size();
    double* there = arrays.out(out, n);
    const View<T> dx_there(arrays.out(dx, size), in.shape);
    self.flow.log_prob_and_grad(ctx, self.arena, arrays.in(in), label, there, dx_there);
    arrays.bring(out, there, n);
    arrays.bring(dx, dx_there.data, size);
  }
  return py::make_tuple(log_prob, gradient);
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

template <class T>
py::dict loss_and_grad(PyFlow<T>& self, const py::array& x, const py::object& labels, int64_t budget,
                       double weight, const py::object& sum_over_ranks, const py::object& complete,
                       int64_t least) {
  const View<const T> in = view_of<T>(x, "loss_and_grad");
  const int32_t* label = labels_of(labels, in.shape.n, "loss_and_grad");
  StepResult r;
  PyRanks ranks(sum_over_ranks);
  GradientWatch watch;
  if (!complete.is_none()) watch.parts = self.flow.gradient_parts(least);
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    const RanksScope with(ctx, sum_over_ranks.is_none() ? nullptr : &ranks);
    OnDevice arrays(ctx);
    watch.complete = [&](size_t part) {
      ctx.synchronize();
      py::gil_scoped_acquire lock;
      complete(part);
    };
    r = self.flow.loss_and_grad(ctx, self.arena, arrays.in(in), label, budget, weight,
                                complete.is_none() ? nullptr : &watch);
  }
  using namespace py::literals;
  return py::dict("loss"_a = r.loss, "nll"_a = r.nll, "class_nll"_a = r.class_nll,
                  "class_error"_a = r.class_error, "drift"_a = r.drift.value, "fallback"_a = r.drift.fallback,
                  "drift_layer"_a = r.drift.layer);
}

template <class T>
py::array_t<T> dequantize(PyFlow<T>& self, const py::array& x, int bits, const py::object& seed,
                          int64_t first) {
  const View<const uint8_t> in = view_of<uint8_t>(x, "dequantize");
  if (bits < 1 || bits > 8) fail<ConfigError>("dequantize", "expected 1 <= bits <= 8, got ", bits);
  const bool noise = !seed.is_none();
  const uint64_t key = noise ? seed.cast<uint64_t>() : 0;
  py::array_t<T> result = batch<T>(in.shape);
  T* out = result.mutable_data();
  {
    Unlock unlock;
    ContextPool::Lease lease(self.contexts);
    Context& ctx = lease;
    OnDevice arrays(ctx);
    T* there = arrays.out(out, in.shape.size());
    ctx.kernels<T>().dequantize(ctx, in.shape.n, in.shape.per_sample(), arrays.in(in).data, bits, noise, key,
                                static_cast<uint64_t>(first), there);
    arrays.bring(out, there, in.shape.size());
  }
  return result;
}

template <class T>
void init(PyFlow<T>& self, const py::array& x) {
  const View<const T> in = view_of<T>(x, "init");
  Unlock unlock;
  ContextPool::Lease lease(self.contexts);
  Context& ctx = lease;
  OnDevice arrays(ctx);
  self.flow.init_from_data(ctx, self.arena, arrays.in(in));
}

const char* group_name(Group group) {
  switch (group) {
    case Group::decay:
      return "decay";
    case Group::no_decay:
      return "no_decay";
    case Group::stats:
      return "stats";
    default:
      return "fixed";
  }
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
py::list gradient_parts(PyFlow<T>& self, int64_t least) {
  py::list list;
  for (const GradientPart& part : self.flow.gradient_parts(least)) {
    list.append(py::make_tuple(part.first, part.end));
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
void bind_class(py::module_& m, const char* name) {
  using namespace py::literals;
  using F = PyFlow<T>;
  py::class_<F, std::shared_ptr<F>>(m, name)
      .def_property_readonly("device", [](F& f) { return f.arena.device(); })
      .def_property_readonly("dtype", [](F&) { return dtype_name<T>(); })
      .def_property_readonly("sample_shape", [](F& f) { return image_shape(f.flow.sample_shape()); })
      .def_property_readonly("dims", [](F& f) { return f.flow.dims(); })
      .def_property_readonly("classes", [](F& f) { return f.flow.classes(); })
      .def_property_readonly("base", [](F& f) { return to_string(f.flow.base()); })
      .def_property_readonly("initialized", [](F& f) { return f.flow.initialized(f.arena); })
      .def("check_parameters", [](F& f) { f.flow.check_parameters(f.arena); })
      .def("levels", &levels<T>)
      .def("entries", &entries<T>)
      .def_property_readonly("values",
                             [](py::object self) {
                               F& f = self.cast<F&>();
                               return borrowed(self, f.arena.values(), f.flow.layout()->total_size());
                             })
      .def_property_readonly("params",
                             [](py::object self) {
                               F& f = self.cast<F&>();
                               return borrowed(self, f.arena.values(), f.flow.layout()->trainable_size());
                             })
      .def_property_readonly("grads",
                             [](py::object self) {
                               F& f = self.cast<F&>();
                               return borrowed(self, f.arena.grads(), f.flow.layout()->trainable_size());
                             })
      .def("zero_grad",
           [](F& f) {
             Unlock unlock;
             ContextPool::Lease lease(f.contexts);
             Context& ctx = lease;
             zero_grad(ctx, f.arena);
           })
      .def("init", &init<T>, "x"_a)
      .def("forward", &forward<T>, "x"_a, "labels"_a = py::none())
      .def("inverse", &inverse<T>, "z"_a, "labels"_a = py::none())
      .def("log_prob", &log_prob<T>, "x"_a, "labels"_a = py::none())
      .def("sample", &sample<T>, "n"_a, "temperature"_a = 1.0, "seed"_a = 0, "labels"_a = py::none(),
           "first"_a = 0)
      .def("class_log_prob", &class_log_prob<T>, "x"_a)
      .def("backward", &backward<T>, "z"_a, "dz"_a, "dlogdet"_a, "labels"_a = py::none())
      .def("inverse_backward", &inverse_backward<T>, "x"_a, "dx"_a, "dlogdet"_a, "labels"_a = py::none())
      .def("log_prob_and_grad", &log_prob_and_grad<T>, "x"_a, "labels"_a = py::none())
      .def("loss_and_grad", &loss_and_grad<T>, "x"_a, "labels"_a = py::none(), "activation_budget"_a = -1,
           "weight"_a = 1.0, "sum_over_ranks"_a = py::none(), "complete"_a = py::none(), "least"_a = 0)
      .def("gradient_parts", &gradient_parts<T>, "least"_a)
      .def("dequantize", &dequantize<T>, "x"_a, "bits"_a, "seed"_a, "first"_a = 0);
}

/// Builds the flow for a dtype: `build` is called with a value of that type.
template <class Build>
py::object make(const std::string& dtype, uint64_t seed, const std::string& device, int threads,
                const Build& build) {
  if (dtype == "float32") {
    return py::cast(std::make_shared<PyFlow<float>>(build(float()), seed, device, threads));
  }
  if (dtype == "float64") {
    return py::cast(std::make_shared<PyFlow<double>>(build(double()), seed, device, threads));
  }
  throw py::type_error("[flow] expected dtype float32 or float64, got " + dtype);
}

using HeightWidthChannels = std::array<int64_t, 3>;

Shape shape_of(const HeightWidthChannels& s) {
  return {0, s[0], s[1], s[2]};
}

NetDtype net_dtype(const std::string& name) {
  return name == "bfloat16" ? NetDtype::bfloat16 : NetDtype::same;
}

void bind_makers(py::module_& m) {
  using namespace py::literals;
  m.def(
      "make_glow",
      [](const std::string& dtype, HeightWidthChannels shape, int64_t levels, int64_t steps, int64_t hidden,
         const std::string& coupling, const std::string& permutation, bool learn_top, int64_t classes,
         double class_weight, int64_t bits, const std::string& conditioner_dtype, uint64_t seed,
         const std::string& device, int threads) {
        const GlowConfig c{shape_of(shape),
                           levels,
                           steps,
                           hidden,
                           coupling,
                           permutation,
                           learn_top,
                           classes,
                           class_weight,
                           bits,
                           net_dtype(conditioner_dtype)};
        return make(dtype, seed, device, threads, [&](auto t) { return glow<decltype(t)>(c); });
      },
      "dtype"_a, "shape"_a, py::kw_only(), "levels"_a, "steps"_a, "hidden"_a, "coupling"_a, "permutation"_a,
      "learn_top"_a, "classes"_a, "class_weight"_a, "bits"_a, "conditioner_dtype"_a, "seed"_a,
      "device"_a = "cpu", "threads"_a = 0);
  m.def(
      "make_real_nvp_image",
      [](const std::string& dtype, HeightWidthChannels shape, int64_t scales, int64_t base_dim,
         int64_t residual_blocks, bool bottleneck, bool skip, bool batch_norm, bool weight_norm,
         const std::string& coupling, int64_t recursion, int64_t bits, uint64_t seed,
         const std::string& device, int threads) {
        const RealNvpImageConfig c{shape_of(shape), scales,      base_dim, residual_blocks, bottleneck, skip,
                                   batch_norm,      weight_norm, coupling, recursion,       bits};
        return make(dtype, seed, device, threads, [&](auto t) { return real_nvp<decltype(t)>(c); });
      },
      "dtype"_a, "shape"_a, py::kw_only(), "scales"_a, "base_dim"_a, "residual_blocks"_a, "bottleneck"_a,
      "skip"_a, "batch_norm"_a, "weight_norm"_a, "coupling"_a, "recursion"_a, "bits"_a, "seed"_a,
      "device"_a = "cpu", "threads"_a = 0);
  m.def(
      "make_real_nvp_table",
      [](const std::string& dtype, int64_t dims, int64_t couplings, const std::vector<int64_t>& hidden,
         const std::string& coupling, const std::string& mask, const std::string& permutation,
         const std::string& preprocess, bool batch_norm, bool actnorm, const std::string& prior,
         const std::string& conditioner_dtype, uint64_t seed, const std::string& device, int threads) {
        const RealNvpTableConfig c{dims,
                                   couplings,
                                   hidden,
                                   coupling,
                                   mask,
                                   permutation,
                                   preprocess,
                                   batch_norm,
                                   actnorm,
                                   prior,
                                   net_dtype(conditioner_dtype)};
        return make(dtype, seed, device, threads, [&](auto t) { return real_nvp<decltype(t)>(c); });
      },
      "dtype"_a, "dims"_a, py::kw_only(), "couplings"_a, "hidden"_a, "coupling"_a, "mask"_a, "permutation"_a,
      "preprocess"_a, "batch_norm"_a, "actnorm"_a, "prior"_a, "conditioner_dtype"_a, "seed"_a,
      "device"_a = "cpu", "threads"_a = 0);
  m.def(
      "make_nice",
      [](const std::string& dtype, HeightWidthChannels shape, int64_t couplings,
         const std::vector<int64_t>& hidden, const std::string& prior, const std::string& order,
         const std::string& preprocess, int64_t bits, const std::string& conditioner_dtype, uint64_t seed,
         const std::string& device, int threads) {
        const NiceConfig c{shape_of(shape), couplings,  hidden, prior,
                           order,           preprocess, bits,   net_dtype(conditioner_dtype)};
        return make(dtype, seed, device, threads, [&](auto t) { return nice<decltype(t)>(c); });
      },
      "dtype"_a, "shape"_a, py::kw_only(), "couplings"_a, "hidden"_a, "prior"_a, "order"_a, "preprocess"_a,
      "bits"_a, "conditioner_dtype"_a, "seed"_a, "device"_a = "cpu", "threads"_a = 0);
}

}  // namespace

void bind_flow(py::module_& m) {
  bind_class<float>(m, "Flow32");
  bind_class<double>(m, "Flow64");
  bind_makers(m);
}

}  // namespace evenflow::python
