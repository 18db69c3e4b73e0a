#include "common.hpp"

namespace evenflow::python {
namespace {

Rule rule_of(const std::string& name) {
  for (const Rule rule : {Rule::sgd, Rule::rmsprop, Rule::adam, Rule::adamax}) {
    if (name == to_string(rule)) return rule;
  }
  fail<ConfigError>("optimizer", "expected rule sgd, rmsprop, adam or adamax, got ", name);
}

template <class T>
void bind_optimizer(py::module_& m, const char* name) {
  using namespace py::literals;
  using O = PyOptimizer<T>;
  py::class_<O, std::shared_ptr<O>> cls(m, name);
  cls.def(
      py::init([](std::shared_ptr<PyFlow<T>> flow, const std::string& rule, double lr, double momentum,
                  double beta1, double beta2, double decay, double eps, double weight_decay, double shrink) {
        const OptimizerConfig c{rule_of(rule), lr, momentum, beta1, beta2, decay, eps, weight_decay, shrink};
        Optimizer<T> optimizer(flow->flow.layout(), c, flow->arena.device());
        return std::make_shared<O>(O{std::move(flow), std::move(optimizer)});
      }),
      "flow"_a, "rule"_a, py::kw_only(), "lr"_a = 1e-3, "momentum"_a = 0.0, "beta1"_a = 0.9,
      "beta2"_a = 0.999, "decay"_a = 0.95, "eps"_a = 1e-8, "weight_decay"_a = 0.0, "shrink"_a = 1.0);
  const auto setting = [&](const char* attribute, double OptimizerConfig::* member) {
    cls.def_property(
        attribute, [member](O& o) { return o.optimizer.config().*member; },
        [member](O& o, double value) { o.optimizer.config().*member = value; });
  };
  setting("lr", &OptimizerConfig::lr);
  setting("momentum", &OptimizerConfig::momentum);
  setting("beta1", &OptimizerConfig::beta1);
  setting("beta2", &OptimizerConfig::beta2);
  setting("decay", &OptimizerConfig::decay);
  setting("eps", &OptimizerConfig::eps);
  setting("weight_decay", &OptimizerConfig::weight_decay);
  setting("shrink", &OptimizerConfig::shrink);
  cls.def_property(
      "steps", [](O& o) { return o.optimizer.steps(); }, [](O& o, int64_t n) { o.optimizer.set_steps(n); });
  cls.def("moments", [](py::object self) {
    py::list list;
    for (SharedBuffer<T>& moment : self.cast<O&>().optimizer.moments()) {
      list.append(py::array_t<T>(std::vector<py::ssize_t>{moment.size()}, moment.data(), self));
    }
    return list;
  });
  cls.def("step", [](O& o) {
    Unlock unlock;
    ContextPool::Lease ctx(o.owner->contexts);
    o.optimizer.step(ctx, o.owner->arena);
  });
  m.def(
      "clip_grad_norm",
      [](PyFlow<T>& flow, double max_norm) {
        Unlock unlock;
        ContextPool::Lease ctx(flow.contexts);
        return clip_grad_norm<T>(ctx, flow.arena, max_norm);
      },
      "flow"_a, "max_norm"_a);
}

template <class T>
void bind_average(py::module_& m, const char* name) {
  using namespace py::literals;
  using A = PyAverage<T>;
  py::class_<A, std::shared_ptr<A>> cls(m, name);
  cls.def(py::init([](std::shared_ptr<PyFlow<T>> flow) {
            SharedBuffer<T> values(flow->flow.layout()->total_size(), flow->arena.device());
            return std::make_shared<A>(A{std::move(flow), std::move(values)});
          }),
          "flow"_a);
  cls.def_property_readonly("values", [](py::object self) {
    SharedBuffer<T>& values = self.cast<A&>().values;
    return py::array_t<T>(std::vector<py::ssize_t>{values.size()}, values.data(), self);
  });
  cls.def(
      "update",
      [](A& a, double decay) {
        Unlock unlock;
        ContextPool::Lease ctx(a.owner->contexts);
        update_average<T>(ctx, a.owner->arena, a.values.data(), decay);
      },
      "decay"_a);
}

}  // namespace

void bind_optim(py::module_& m) {
  bind_optimizer<float>(m, "Optimizer32");
  bind_optimizer<double>(m, "Optimizer64");
  bind_average<float>(m, "Average32");
  bind_average<double>(m, "Average64");
}

}  // namespace evenflow::python
