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

/// What the drift guard saw in a step.
struct Drift {
  /// max |rebuilt x - x| / max(1, max |x|), or the same of what a standardising layer makes of x, if that is
  /// more: beside a column of large numbers, errors of the others do not show in x.
  double value = 0;
  bool fallback = false;   ///< the step was repeated from checkpoints
  std::string layer;       ///< with fallback: the layer whose own inverse was worst
  double layer_value = 0;  ///< with fallback: how far that layer's rebuilt input was off, likewise
};

/// Where samples have weights, all means are sums of their terms times the weights, over the number of
/// samples.
struct StepResult {
  double loss = 0;         ///< mean negative log-likelihood in nats, plus class_weight times class_nll
  double nll = 0;          ///< mean negative log-likelihood in nats
  double class_nll = 0;    ///< mean classification loss in nats, 0 without a class head
  double class_error = 0;  ///< share of wrong predictions
  double grad_norm = 0;    ///< train_step: of all trained gradients, before clipping
  Drift drift;
};

/// What a training step does with its gradient.
template <class T>
struct Update {
  Optimizer<T>& optimizer;
  double max_norm = 0;       ///< of the gradient, as clip_grad_norm takes it; 0: any
  T* average = nullptr;      ///< update_average's, or none
  double average_decay = 0;  ///< of it
};

/// Values [first, end) of a gradient, complete once a backward pass is through with a layer of the chain.
struct GradientPart {
  int64_t first;
  int64_t end;
  size_t layer;
};

/// Reports to its caller, during a backward pass, which parts of the gradient (Flow::gradient_parts) are
/// complete, one by one in their order. On a device their values can be read after Context::synchronize().
/// If the pass is repeated (Drift::fallback) or fails, the parts reported so far are invalid. A batch that
/// goes by tiles reports nothing.
struct GradientWatch {
  std::vector<GradientPart> parts;
  std::function<void(size_t part)> complete;
};

/// A chain of layers with a factorised base distribution. Latents that are factored out on the way, and the
/// last output, form one flat row of D values a sample.
///
/// Arrays lie where the context computes, and so does the arena (DeviceError otherwise); labels and sample
/// weights are the program's. Results are complete after Context::synchronize(). ConfigError for a call that
/// is not given what the density is conditioned on, or is given a context without.
template <class T>
class EVENFLOW_API Flow {
 public:
  Flow(Shape sample_shape, Base base);
  ~Flow();
  Flow(Flow&&) noexcept;
  Flow& operator=(Flow&&) noexcept;

  // Construction, in the order data -> latent.
  void add(const std::string& name, std::unique_ptr<Layer<T>> layer);
  /// Channels [keep, C) of the present output become latents; the chain goes on with the others.
  void factor_out(int64_t keep);
  /// Trains a linear softmax classifier on the mean-pooled present output along with the flow (Glow's
  /// --weight_y); `weight` multiplies its loss in nats.
  void classify(int64_t classes, double weight);
  /// Fixes names and offsets; no layer may be added afterwards.
  void finalize();

  Shape sample_shape() const;
  Shape output_shape() const;  ///< of the chain so far
  int64_t dims() const { return sample_shape().per_sample(); }
  const std::vector<Level>& levels() const;
  Base base() const;
  /// Number of classes of a conditional model, 0 otherwise.
  int64_t classes() const;
  void set_classes(int64_t classes);
  /// How many numbers a sample's density is given, 0 otherwise. init_from_data standardises each by the
  /// batch's mean and deviation; one that does not vary there is ignored ever after.
  int64_t context() const;
  /// Before finalize(), which refuses layers that read another number of them; see layers.hpp.
  void set_context(int64_t numbers);
  const std::shared_ptr<const ParamLayout>& layout() const;

  /// Random initialisation; the same seed gives the same bits.
  void init(ParamArena<T>& arena, uint64_t seed) const;
  /// Data-dependent initialisation, layer by layer; marks the model as initialised.
  void init_from_data(Context&, ParamArena<T>& arena, View<const T> x, const Given<T>& given = {}) const;
  bool initialized(const ParamArena<T>& arena) const;
  /// NumericError, naming the layer, where fixed parameters are none that this flow could have written: a
  /// permutation that is none, signs other than 1 and -1.
  void check_parameters(const ParamArena<T>& arena) const;

  /// x (N, H, W, C) -> z (N, D); logdet (N) is overwritten. call: the name that errors carry.
  void forward(Context&, const ParamArena<T>&, View<const T> x, const Given<T>& given, T* z, double* logdet,
               const char* call = "forward") const;
  void inverse(Context&, const ParamArena<T>&, const T* z, int64_t n, const Given<T>& given, View<T> x,
               double* logdet, const char* call = "inverse") const;
  /// log p(x) (N), nats, in the units of x.
  void log_prob(Context&, const ParamArena<T>&, View<const T> x, const Given<T>& given, double* out,
                const char* call = "log_prob") const;
  /// log p(x) (N) and its gradient by x. Where rebuilt inputs drift, the pass is repeated from the real ones.
  void log_prob_and_grad(Context&, const ParamArena<T>&, View<const T> x, const Given<T>& given,
                         double* log_prob, View<T> dx) const;
  /// Sample i depends on (seed, first + i) alone. temperature multiplies the base draw at every level.
  void sample(Context&, const ParamArena<T>&, int64_t first, double temperature, uint64_t seed,
              const Given<T>& given, View<T> x) const;
  /// The class head's log p(label | x), (N, classes), from the present chain.
  void class_log_prob(Context&, const ParamArena<T>&, View<const T> x, double* out) const;

  /// Reversible backward for a loss L(z, logdet): rebuilds x, writes dx, adds to the arena's gradients. With
  /// the batch that z was computed from, `truth`, returns how far the rebuilt one is off (Drift::value), else
  /// 0.
  double backward(Context&, ParamArena<T>&, const T* z, const T* dz, const double* dlogdet,
                  const Given<T>& given, View<T> x, View<T> dx, View<const T> truth = {}) const;

  /// The same for a loss L(x, logdet) of inverse's outputs: rebuilds z, writes dz (N, D), adds to the arena's
  /// gradients.
  void inverse_backward(Context&, ParamArena<T>&, View<const T> x, View<const T> dx, const double* dlogdet,
                        const Given<T>& given, T* z, T* dz) const;

  /// One training step's gradient: mean negative log-likelihood times `weight`, added to the arena's
  /// gradients; updates running statistics. With sample weights w the mean is sum(w nll) / n, and batch
  /// norm's moments are of all samples alike; NumericError, ConfigError for a w that is not finite, or
  /// negative. activation_budget: bytes of conditioner activations that may be kept instead of recomputed;
  /// negative: 64 MiB, or half of the free memory if they need more.
  StepResult loss_and_grad(Context&, ParamArena<T>&, View<const T> x, const Given<T>& given,
                           int64_t activation_budget, double weight = 1.0,
                           const GradientWatch* watch = nullptr) const;
  /// A whole training step: loss_and_grad in place of the gradients that are there, clip_grad_norm, the
  /// optimiser's step and update_average. NumericError, also where the loss is not finite: no value is
  /// updated, running statistics neither, and gradients are zero. ConfigError: nothing is changed.
  StepResult train_step(Context&, ParamArena<T>&, View<const T> x, const Given<T>& given,
                        int64_t activation_budget, const Update<T>& update) const;
  /// The whole gradient, in parts of at least `least` values where a group of the layout has that many left.
  std::vector<GradientPart> gradient_parts(int64_t least) const;

 private:
  std::unique_ptr<Chain<T>> chain_;
};

extern template class Flow<float>;
extern template class Flow<double>;

}  // namespace evenflow
