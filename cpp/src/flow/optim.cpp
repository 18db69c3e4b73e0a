#include "evenflow/optim.hpp"

#include <cmath>
#include <utility>

#include "evenflow/config.hpp"
#include "evenflow/error.hpp"
#include "flow/diagnose.hpp"

namespace evenflow {
namespace {

template <class T>
void check_settings(const OptimizerConfig& c) {
  // Check values after rounding to T: a decay that rounds to 1 would never forget, an eps of 0 would divide
  // by zero, and an infinite rate would spoil all parameters.
  const char* dtype = to_string(dtype_of<T>());
  const auto in_unit = [&](const char* name, double v) {
    if (v >= 0 && static_cast<T>(v) < 1) return;
    fail<ConfigError>("optimizer", "expected 0 <= ", name, " < 1 in ", dtype, ", got ", static_cast<T>(v));
  };
  const auto not_negative = [&](const char* name, double v) {
    if (v >= 0 && std::isfinite(static_cast<T>(v))) return;
    fail<ConfigError>("optimizer", "expected finite ", name, " >= 0 in ", dtype, ", got ", v);
  };
  not_negative("lr", c.lr);
  not_negative("eps", c.eps);
  not_negative("weight_decay", c.weight_decay);
  not_negative("shrink", c.shrink);
  in_unit("momentum", c.momentum);
  in_unit("beta1", c.beta1);
  in_unit("beta2", c.beta2);
  in_unit("decay", c.decay);
  if (c.rule != Rule::sgd && !(static_cast<T>(c.eps) > 0)) {
    fail<ConfigError>("optimizer", "expected eps > 0 in ", dtype, ", got ", static_cast<T>(c.eps));
  }
}

/// ConfigError if the rule was changed: the moments belong to the rule at construction.
void check_rule(Rule made_for, Rule rule) {
  if (rule == made_for) return;
  fail<ConfigError>("optimizer", "expected the rule that its moments are of, ", to_string(made_for), ", got ",
                    to_string(rule));
}

template <class T>
double finite_norm(Context& ctx, const ParamArena<T>& arena, const char* call) {
  double square = arena.grads_square();
  if (square < 0) {
    WorkspaceScope scope(ctx);
    double* sum = scope.take<double>(1);
    ctx.kernels<T>().optim.sum_squares(ctx, arena.layout().trainable_size(), arena.grads(), sum);
    square = *HostScope(ctx).read(sum, 1);
  }
  check_gradients(ctx, call, arena.layout(), arena.grads(), square);
  if (!std::isfinite(square)) fail<NumericError>(call, "the norm of the gradients overflows");
  return std::sqrt(square);
}

}  // namespace

const char* to_string(Rule rule) {
  switch (rule) {
    case Rule::sgd:
      return "sgd";
    case Rule::rmsprop:
      return "rmsprop";
    case Rule::adam:
      return "adam";
    case Rule::adamax:
      return "adamax";
  }
  return "";
}

template <class T>
Optimizer<T>::Optimizer(std::shared_ptr<const ParamLayout> layout, const OptimizerConfig& config,
                        const std::string& device)
    : layout_(std::move(layout)), config_(config), rule_(config.rule) {
  check_settings<T>(config);
  const int moments = config.rule == Rule::sgd ? 1 : 2;
  for (int i = 0; i < moments; ++i) moments_.emplace_back(layout_->trainable_size(), device);
}

template <class T>
void Optimizer<T>::set_steps(int64_t steps) {
  if (steps < 0 || steps > kMostSteps) {
    fail<ConfigError>("optimizer", "expected steps in 0 ... ", kMostSteps, ", got ", steps);
  }
  steps_ = steps;
}

template <class T>
double Optimizer<T>::next_rate() const {
  check_settings<T>(config_);
  check_rule(rule_, config_.rule);
  if (rule_ != Rule::adam && rule_ != Rule::adamax) return config_.lr;
  const double t = static_cast<double>(steps_ + 1);
  return config_.lr * std::sqrt(1 - std::pow(config_.beta2, t)) / (1 - std::pow(config_.beta1, t));
}

template <class T>
void Optimizer<T>::check(const ParamArena<T>& arena) const {
  check_settings<T>(config_);
  check_rule(rule_, config_.rule);
  const ParamLayout& layout = arena.layout();
  const int64_t trained = layout.trainable_size(), decayed = layout.decay_size();
  if (trained == layout_->trainable_size() && decayed == layout_->decay_size()) return;
  fail<ConfigError>("optimizer", "expected an arena of ", layout_->trainable_size(), " trained values, ",
                    layout_->decay_size(), " of them in the decay group, got ", trained, " and ", decayed);
}

template <class T>
void Optimizer<T>::step(Context& ctx, ParamArena<T>& arena) {
  check(arena);
  const double lr = next_rate();
  if (!arena.grads_are_finite()) finite_norm(ctx, arena, "optimizer");
  ++steps_;
  T* second = moments_.size() > 1 ? moments_[1].data() : nullptr;
  const T* grads = std::as_const(arena).grads();
  ctx.kernels<T>().optim.step(ctx, config_, layout_->trainable_size(), layout_->decay_size(), lr, grads,
                              moments_[0].data(), second, arena.values());
}

void check_max_norm(double max_norm) {
  if (!(max_norm >= 0)) fail<ConfigError>("clip_grad_norm", "expected max_norm >= 0, got ", max_norm);
}

void check_average_decay(double decay) {
  if (!(decay >= 0 && decay <= 1)) {
    fail<ConfigError>("update_average", "expected 0 <= decay <= 1, got ", decay);
  }
}

template <class T>
void zero_grad(Context& ctx, ParamArena<T>& arena) {
  ctx.kernels<T>().move.zero(ctx, arena.layout().total_size(), arena.grads_.data());
  arena.zero_ = true;
  arena.square_ = -1;
}

template <class T>
double clip_grad_norm(Context& ctx, ParamArena<T>& arena, double max_norm) {
  check_max_norm(max_norm);
  const double norm = finite_norm(ctx, arena, "clip_grad_norm");
  if (max_norm > 0 && norm > max_norm) {
    ctx.kernels<T>().move.scale(ctx, arena.layout().trainable_size(), static_cast<T>(max_norm / norm),
                                arena.params().grads);
    arena.finite_ = true;
  }
  return norm;
}

template <class T>
void update_average(Context& ctx, const ParamArena<T>& arena, T* average, double decay) {
  check_average_decay(decay);
  ctx.kernels<T>().optim.average(ctx, arena.layout().total_size(), arena.values(), static_cast<T>(1 - decay),
                                 average);
}

template class Optimizer<float>;
template class Optimizer<double>;
// Export here: the friend declarations in ParamArena come first, without EVENFLOW_API.
template EVENFLOW_API void zero_grad<float>(Context&, ParamArena<float>&);
template EVENFLOW_API void zero_grad<double>(Context&, ParamArena<double>&);
template EVENFLOW_API double clip_grad_norm<float>(Context&, ParamArena<float>&, double);
template EVENFLOW_API double clip_grad_norm<double>(Context&, ParamArena<double>&, double);
template void update_average<float>(Context&, const ParamArena<float>&, float*, double);
template void update_average<double>(Context&, const ParamArena<double>&, double*, double);

}  // namespace evenflow
