#pragma once

#include <string>
#include <vector>

#include "evenflow/context.hpp"
#include "evenflow/params.hpp"

namespace evenflow {

enum class Rule { sgd, rmsprop, adam, adamax };

/// "sgd", "rmsprop", "adam" or "adamax".
EVENFLOW_API const char* to_string(Rule rule);

struct OptimizerConfig {
  Rule rule = Rule::adam;
  double lr = 1e-3;
  double momentum = 0.0;      ///< sgd, rmsprop
  double beta1 = 0.9;         ///< adam, adamax
  double beta2 = 0.999;       ///< adam, adamax
  double decay = 0.95;        ///< rmsprop: decay of the mean square
  double eps = 1e-8;          ///< > 0; adam, adamax: added to the denominator; rmsprop: its floor
  double weight_decay = 0.0;  ///< L2: adds weight_decay * value to gradients of the decay group
  double shrink = 1.0;        ///< multiplies every trained value before the step (Glow's weight_decay)
};

/// Largest step count of an optimiser: more than any training takes, and far from overflow.
constexpr int64_t kMostSteps = int64_t{1} << 62;

/// A first-order update of the trained part of an arena, one fused kernel a step.
template <class T>
class EVENFLOW_API Optimizer {
 public:
  /// device: the arena's. ConfigError for a setting out of range.
  Optimizer(std::shared_ptr<const ParamLayout> layout, const OptimizerConfig& config,
            const std::string& device = "cpu");

  /// All settings except the rule may change between steps.
  OptimizerConfig& config() { return config_; }
  const OptimizerConfig& config() const { return config_; }
  Rule rule() const { return rule_; }
  int64_t steps() const { return steps_; }
  /// ConfigError unless 0 <= steps <= kMostSteps.
  void set_steps(int64_t steps);
  /// Moments, each trainable_size() values: adam (m, v), adamax (m, v), rmsprop (velocity, mean square), sgd
  /// (velocity).
  std::vector<SharedBuffer<T>>& moments() { return moments_; }

  /// NumericError, naming the tensor, if the gradient is not finite. Also throws what check() throws.
  /// Parameters are then unchanged.
  void step(Context&, ParamArena<T>&);
  /// ConfigError for a setting out of range, a rule other than at construction, or an arena whose sizes
  /// differ from the layout's.
  void check(const ParamArena<T>&) const;
  /// Learning rate of the next step, including bias correction. ConfigError for a setting out of range or a
  /// rule other than at construction.
  double next_rate() const;

 private:
  std::shared_ptr<const ParamLayout> layout_;
  OptimizerConfig config_;
  Rule rule_;
  int64_t steps_ = 0;
  std::vector<SharedBuffer<T>> moments_;
};

/// Sets all gradients to zero.
template <class T>
EVENFLOW_API void zero_grad(Context&, ParamArena<T>&);

/// Returns the L2 norm of all trained gradients. If it exceeds max_norm, scales them down to that norm; 0:
/// never.
template <class T>
EVENFLOW_API double clip_grad_norm(Context&, ParamArena<T>&, double max_norm);

/// average += (1 - decay) (values - average), over the whole arena.
template <class T>
EVENFLOW_API void update_average(Context&, const ParamArena<T>&, T* average, double decay);

extern template class Optimizer<float>;
extern template class Optimizer<double>;

}  // namespace evenflow
