#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "evenflow/layer.hpp"
#include "evenflow/layers.hpp"
#include "evenflow/optim.hpp"
#include "evenflow/prior.hpp"

namespace evenflow {

template <class T>
struct Chain;

/// One piece of a multi-scale latent: values [offset, offset + shape.per_sample()) of a row of z.
struct Level {
  Shape shape;  ///< n is 0
  int64_t offset = 0;
};

/// What the drift guard measured in a step.
struct Drift {
  /// max |rebuilt x - x| / max(1, max |x|). The output of a standardising layer is compared too, and the
  /// larger error counts: in x, a column of large numbers would hide errors of the others.
  double value = 0;
  bool fallback = false;   ///< the step was repeated from checkpoints
  std::string layer;       ///< with fallback: the layer whose own inverse was worst; couplings take none
  double layer_value = 0;  ///< with fallback: relative error of that layer's rebuilt input
};

/// With sample weights w, every mean is sum(w * term) / n.
struct StepResult {
  double loss = 0;         ///< mean negative log-likelihood in nats, plus class_weight times class_nll
  double nll = 0;          ///< mean negative log-likelihood in nats
  double class_nll = 0;    ///< mean classification loss in nats, 0 without a class head
  double class_error = 0;  ///< share of wrong predictions
  double grad_norm = 0;    ///< train_step: L2 norm of all trained gradients, before clipping
  Drift drift;
};

/// How a training step uses its gradient.
template <class T>
struct Update {
  Optimizer<T>& optimizer;
  double max_norm = 0;       ///< largest gradient norm, see clip_grad_norm; 0: no limit
  T* average = nullptr;      ///< moving average of the parameters, see update_average; or null
  double average_decay = 0;  ///< decay of the moving average
};

/// A chain of layers with a factorised base distribution. The factored-out latents and the last output form
/// one flat row of D values per sample.
///
/// Arrays and the arena must lie on the context's device (DeviceError for an arena that does not). Labels and
/// sample weights are in host memory. Results are complete after Context::synchronize(). ConfigError if a
/// call lacks the labels or the context that the density needs, or passes a context that it does not take.
template <class T>
class EVENFLOW_API Flow {
 public:
  Flow(Shape sample_shape, Base base, const ParamLimit& limit = {});
  ~Flow();
  Flow(Flow&&) noexcept;
  Flow& operator=(Flow&&) noexcept;

  // Construction, in the order data -> latent.
  void add(const std::string& name, std::unique_ptr<Layer<T>> layer);
  /// Turns channels [keep, C) of the current output into latents; the chain continues with the others.
  void factor_out(int64_t keep);
  /// Trains a linear softmax classifier on the mean-pooled current output together with the flow (Glow's
  /// --weight_y). `weight` multiplies its loss in nats.
  void classify(int64_t classes, double weight);
  /// Fixes names and offsets; no layer may be added afterwards.
  void finalize();

  Shape sample_shape() const;
  Shape output_shape() const;  ///< output of the chain so far
  int64_t dims() const { return sample_shape().per_sample(); }
  const std::vector<Level>& levels() const;
  Base base() const;
  /// Number of classes of a conditional model, 0 otherwise.
  int64_t classes() const;
  void set_classes(int64_t classes);
  /// Number of context values per sample; 0: none. init_from_data standardises each by the batch's mean and
  /// standard deviation. A value that is constant in that batch is ignored from then on.
  int64_t context() const;
  /// Must be called before finalize(), which rejects layers that read a different number of context values.
  void set_context(int64_t numbers);
  const std::shared_ptr<const ParamLayout>& layout() const;

  /// Random initialisation; the same seed gives the same bits.
  void init(ParamArena<T>& arena, uint64_t seed) const;
  /// Data-dependent initialisation, layer by layer; marks the model as initialised.
  void init_from_data(Context&, ParamArena<T>& arena, View<const T> x, const Given<T>& given = {}) const;
  bool initialized(const ParamArena<T>& arena) const;
  /// NumericError, naming the layer, if fixed parameters are invalid: an order of channels that is not a
  /// permutation, or a sign other than 1 and -1.
  void check_parameters(const ParamArena<T>& arena) const;

  /// x (N, H, W, C) -> z (N, D); logdet (N) is overwritten. call: the name of the call in error texts.
  void forward(Context&, const ParamArena<T>&, View<const T> x, const Given<T>& given, T* z, double* logdet,
               const char* call = "forward") const;
  void inverse(Context&, const ParamArena<T>&, const T* z, int64_t n, const Given<T>& given, View<T> x,
               double* logdet, const char* call = "inverse") const;
  /// out (N) = log p(x) in nats, for the density in the units of x.
  void log_prob(Context&, const ParamArena<T>&, View<const T> x, const Given<T>& given, double* out,
                const char* call = "log_prob") const;
  /// log p(x) (N) and its gradient dx. If rebuilt inputs drift, the pass is repeated from the real ones.
  void log_prob_and_grad(Context&, const ParamArena<T>&, View<const T> x, const Given<T>& given,
                         double* log_prob, View<T> dx) const;
  /// Sample i depends on (seed, first + i) alone. temperature multiplies the base draw at every level.
  /// log_prob (N): unless null, receives log p(x), the flow's density at any temperature.
  /// finite: unless null, receives whether all results are, which is a NumericError otherwise if they are
  /// not.
  void sample(Context&, const ParamArena<T>&, int64_t first, double temperature, uint64_t seed,
              const Given<T>& given, View<T> x, double* log_prob = nullptr, bool* finite = nullptr) const;
  /// The latents z (n, D) from which sample computes its x.
  void base_sample(Context&, int64_t first, double temperature, uint64_t seed, int64_t n, T* z) const;
  /// out (n) = log p0(z), the base distribution's log density of z (n, D).
  void base_log_prob(Context&, const T* z, int64_t n, double* out) const;
  /// out (N, classes) = log p(label | x) of the class head.
  void class_log_prob(Context&, const ParamArena<T>&, View<const T> x, double* out) const;

  /// Reversible backward for a loss L(z, logdet): rebuilds x, writes dx, adds to the arena's gradients.
  /// truth: the batch that z was computed from, or empty. With it, a batch that can't be rebuilt well is
  /// taken from it. Returns the error that is left (Drift::value), or 0 without `truth`.
  double backward(Context&, ParamArena<T>&, const T* z, const T* dz, const double* dlogdet,
                  const Given<T>& given, View<T> x, View<T> dx, View<const T> truth = {}) const;

  /// The same for a loss L(x, logdet) of inverse's outputs: rebuilds z, writes dz (N, D), adds to the arena's
  /// gradients. known_z: the latents that x came from, or null. With them gradients are those of the values
  /// that inverse computed, also where z can't be rebuilt well from x. Returns how far x is from their
  /// samples, relative to max(1, max |x|), or 0 without them; beyond the drift guard's tolerance gradients
  /// stay what they were.
  double inverse_backward(Context&, ParamArena<T>&, View<const T> x, View<const T> dx, const double* dlogdet,
                          const Given<T>& given, T* z, T* dz, const T* known_z = nullptr) const;

  /// Adds one training step's gradient to the arena's gradients, and updates running statistics. The loss is
  /// the mean negative log-likelihood times `weight`. With sample weights w the mean is sum(w nll) / n, but
  /// batch norm's moments count all samples equally. NumericError for a w that is not finite, ConfigError for
  /// a negative one. activation_budget: bytes of conditioner activations that may be kept instead of
  /// recomputed; negative: 64 MiB, or half of the free memory if they need more. nll (N), in host memory:
  /// unless null, receives each sample's negative log-likelihood in nats.
  StepResult loss_and_grad(Context&, ParamArena<T>&, View<const T> x, const Given<T>& given,
                           int64_t activation_budget, double weight = 1.0, double* nll = nullptr) const;
  /// A whole training step: loss_and_grad, which replaces the gradients here, clip_grad_norm, the optimiser's
  /// step and update_average. NumericError also if the loss is not finite; parameters and running statistics
  /// are then unchanged, and gradients are zero. ConfigError changes nothing.
  StepResult train_step(Context&, ParamArena<T>&, View<const T> x, const Given<T>& given,
                        int64_t activation_budget, const Update<T>& update) const;

 private:
  std::unique_ptr<Chain<T>> chain_;
};

extern template class Flow<float>;
extern template class Flow<double>;

}  // namespace evenflow
