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
  double decay = 0.95;        ///< rmsprop: of the mean square
  double eps = 1e-8;          ///< > 0; adam, adamax: added to the denominator; rmsprop: its floor
  double weight_decay = 0.0;  ///< L2: adds weight_decay * value to gradients of the decay group
  double shrink = 1.0;        ///< multiplies every trained value before the step (Glow's weight_decay)
};

/// Steps that an optimiser may count: more than any training takes, and far from an overflow.
constexpr int64_t kMostSteps = int64_t{1} << 62;

/// A first-order update of the trained part of an arena, one fused kernel a step.
template <class T>
class EVENFLOW_API Optimizer {
 public:
  /// device: the arena's. Throws ConfigError on a setting out of range.
  Optimizer(std::shared_ptr<const ParamLayout> layout, const OptimizerConfig& config,
            const std::string& device = "cpu");

  /// All but the rule may change between steps.
  OptimizerConfig& config() { return config_; }
  const OptimizerConfig& config() const { return config_; }
  Rule rule() const { return rule_; }
  int64_t steps() const { return steps_; }
  /// ConfigError unless 0 <= steps <= kMostSteps.
  void set_steps(int64_t steps);
  /// Moments, each trainable_size() values: adam (m, v), adamax (m, v), rmsprop (velocity, mean square), sgd
  /// (velocity).
  std::vector<SharedBuffer<T>>& moments() { return moments_; }

  /// NumericError, with the tensor's name, if the gradient is not finite, and what check throws; values are
  /// then untouched.
  void step(Context&, ParamArena<T>&);
  /// ConfigError on a setting out of range, another rule than at construction, and an arena with other
  /// numbers of values than the layout.
  void check(const ParamArena<T>&) const;
  /// Learning rate of the next step, with any bias correction. ConfigError on a setting out of range, or
  /// another rule.
  double next_rate() const;

 private:
  std::shared_ptr<const ParamLayout> layout_;
  OptimizerConfig config_;
  Rule rule_;
  int64_t steps_ = 0;
  std::vector<SharedBuffer<T>> moments_;
};

/// Gradients to zero, by all threads.
template <class T>
EVENFLOW_API void zero_grad(Context&, ParamArena<T>&);

/// L2 norm over all trained gradients; scales them down to max_norm where it is larger (0: only measures).
template <class T>
EVENFLOW_API double clip_grad_norm(Context&, ParamArena<T>&, double max_norm);

/// average += (1 - decay) (values - average), over the whole arena.
template <class T>
EVENFLOW_API void update_average(Context&, const ParamArena<T>&, T* average, double decay);

extern template class Optimizer<float>;
extern template class Optimizer<double>;

}  // namespace evenflow
