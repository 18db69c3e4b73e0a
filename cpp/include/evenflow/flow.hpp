#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "evenflow/layer.hpp"
#include "evenflow/layers.hpp"
#include "evenflow/optim.hpp"
#include "evenflow/prior.hpp"

namespace evenflow {

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

/// Who is told, in a backward pass, which parts of the gradient (Flow::gradient_parts) are complete: part by
/// part, in their order. On a device the values are there after Context::synchronize(). Where the pass has to
/// be repeated (Drift::fallback) or fails, what was told does not hold; a batch that goes by tiles tells
/// nothing.
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
  Flow(Flow&&) = default;
  Flow& operator=(Flow&&) = default;

  // Construction, in the order data -> latent.
  void add(const std::string& name, std::unique_ptr<Layer<T>> layer);
  /// Channels [keep, C) of the present output become latents; the chain goes on with the others.
  void factor_out(int64_t keep);
  /// Trains a linear softmax classifier on the mean-pooled present output along with the flow (Glow's
  /// --weight_y); `weight` multiplies its loss in nats.
  void classify(int64_t classes, double weight);
  /// Fixes names and offsets; no layer may be added afterwards.
  void finalize();

  Shape sample_shape() const { return sample_shape_; }
  Shape output_shape() const { return current_; }  ///< of the chain so far
  int64_t dims() const { return sample_shape_.per_sample(); }
  const std::vector<Level>& levels() const { return levels_; }
  Base base() const { return base_; }
  /// Number of classes of a conditional model, 0 otherwise.
  int64_t classes() const { return classes_; }
  void set_classes(int64_t classes) { classes_ = classes; }
  /// How many numbers a sample's density is given, 0 otherwise. init_from_data standardises each by the
  /// batch's mean and deviation; one that does not vary there is ignored ever after.
  int64_t context() const { return context_; }
  /// Before finalize(), which refuses layers that read another number of them; see layers.hpp.
  void set_context(int64_t numbers);
  const std::shared_ptr<const ParamLayout>& layout() const { return layout_; }

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
  struct Node {
    std::string name;
    std::unique_ptr<Layer<T>> layer;
    int64_t keep = 0;      ///< channels that go on after this layer; 0: all
    size_t end_param = 0;  ///< entries of the layout up to this layer's last
  };
  /// What a training step adds to a pass: kept activations by node, the class head's results (2, null: the
  /// head is left out), the samples' weights (n, null: 1), and who is told of complete gradients.
  struct Step {
    std::vector<T*> kept;
    T* standardised = nullptr;  ///< (n, D): what standardised_ nodes make of the batch; null: there are none
    double head_scale = 0;
    double* head_results = nullptr;
    const double* sample_weight = nullptr;
    const GradientWatch* watch = nullptr;
    size_t told = 0;
  };
  /// What a gradient's pass of n samples fills: latents and the gradient there (n, D), the gradient of
  /// log-determinants and log p (n), the rebuilt batch and dx, and what KernelSet::distance finds between x
  /// and the former, and behind standardised_ nodes (4).
  struct PassArrays {
    T* z;
    T* dz;
    double* dlogdet;
    double* log_prob;
    View<T> rebuilt;
    View<T> dx;
    double* found;
  };
  enum class Pass : uint64_t { gradient, log_prob, sample };
  /// What Context::repeat has to know of a pass: what its kernels' arguments depend on, `arrays` besides x.
  EVENFLOW_LOCAL std::vector<uint64_t> key_of(Pass, const Params<T>&, View<const T> x,
                                              std::initializer_list<const void*> arrays) const;
  EVENFLOW_LOCAL std::vector<uint64_t> key_of(Pass, const Params<T>&, View<const T> x, double weight,
                                              const PassArrays&, const Step&) const;
  /// f(), which queues kernels: on a device through Context::repeat.
  template <class F>
  EVENFLOW_LOCAL void queue(Context&, Pass, const Params<T>&, View<const T> x,
                            std::initializer_list<const void*> arrays, const F& f) const;

  EVENFLOW_LOCAL void check_input(const char* call, const Shape& x) const;
  EVENFLOW_LOCAL void check_given(const char* call, const Given<T>& given, int64_t n) const;
  /// ShapeError where batch norm would see a single row, which has no variance.
  EVENFLOW_LOCAL void check_moments(Context&, const char* call, int64_t n) const;
  /// The parameters for a call on n samples, with what it is given where layers read it.
  EVENFLOW_LOCAL Params<T> with(Context&, WorkspaceScope&, HostScope&, Params<T>, const Given<T>&,
                                int64_t n) const;
  /// Mean and deviation of n samples' contexts, to the arena.
  EVENFLOW_LOCAL void init_context(Context&, ParamArena<T>&, const T* context, int64_t n) const;
  /// For a pass that adds to params.dcontext, and from the gradient by standardised numbers to that by those
  /// of the call.
  EVENFLOW_LOCAL void begin_dcontext(Context&, const Params<T>&, int64_t n) const;
  EVENFLOW_LOCAL void end_dcontext(Context&, const Params<T>&, int64_t n) const;
  EVENFLOW_LOCAL void check_ready(Context&, const char* call, const ParamArena<T>&) const;
  EVENFLOW_LOCAL void check_arena(Context&, const char* call, const ParamArena<T>&) const;
  EVENFLOW_LOCAL void check_initialized(Context&, const char* call, const T* values) const;
  /// Whether n numbers and, where there are any, `values` are finite.
  EVENFLOW_LOCAL bool all_finite(Context&, int64_t n, const double* numbers, View<const T> values = {}) const;
  /// NumericError naming the first of nodes [0, end) whose results for x are not finite, or x.
  EVENFLOW_LOCAL void check_layers(Context&, const Params<T>&, const char* call, View<const T> x,
                                   size_t end) const;
  /// Of all nodes, where a density (n) of x is not finite.
  [[noreturn]] EVENFLOW_LOCAL void fail_not_finite(Context&, const Params<T>&, const char* call,
                                                   View<const T> x, const double* log_prob) const;
  /// Value, layer, channel and sample of the first result on the way back from z that is not finite.
  EVENFLOW_LOCAL std::string not_finite_inverse(Context&, const Params<T>&, const T* z, int64_t n) const;

  EVENFLOW_LOCAL void put_level(Context&, View<const T> piece, const Level&, T* z) const;
  EVENFLOW_LOCAL void get_level(Context&, const T* z, const Level&, View<T> piece) const;

  /// Whether a batch goes tile by tile.
  EVENFLOW_LOCAL bool by_tiles(Context& ctx) const { return tile_rows_ > 0 && ctx.on_host(); }
  /// Whether n samples are worth several threads.
  EVENFLOW_LOCAL bool worth_threads(int64_t n) const;
  EVENFLOW_LOCAL Params<T> rows_of(Params<T> params, int64_t first) const;
  EVENFLOW_LOCAL View<T> rows_of(View<T> x, int64_t first, int64_t end) const;
  EVENFLOW_LOCAL View<const T> rows_of(View<const T> x, int64_t first, int64_t end) const;

  EVENFLOW_LOCAL void run_forward(Context&, const Params<T>&, View<const T> x, T* z, double* logdet,
                                  const Step* step) const;
  EVENFLOW_LOCAL void run_inverse(Context&, const Params<T>&, const T* z, int64_t n, View<T> x,
                                  double* logdet) const;
  /// What nodes [0, end) make of x one after another, in memory of the scope. through(node, x of its layer,
  /// result) computes the latter.
  EVENFLOW_LOCAL View<const T> walk_forward(
      WorkspaceScope&, View<const T> x, size_t end,
      const std::function<void(const Node&, View<const T>, View<T>)>& through) const;
  /// run_inverse of a batch that is not divided. go_on(node, result of its layer): false ends the walk.
  template <class GoOn>
  EVENFLOW_LOCAL void walk_back(Context&, const Params<T>&, const T* z, int64_t n, View<T> x, double* logdet,
                                const GoOn& go_on) const;
  /// truth: the batch that x rebuilds, or none; found (4): see PassArrays.
  EVENFLOW_LOCAL void run_backward(Context&, const Params<T>&, const T* z, const T* dz, const double* dlogdet,
                                   View<T> x, View<T> dx, Step* step, View<const T> truth = {},
                                   double* found = nullptr) const;
  /// found (2): KernelSet::distance between `rebuilt` and what the first standardised_ nodes made of x, or
  /// make.
  EVENFLOW_LOCAL void measure_standardised(Context&, const Params<T>&, View<const T> x, const Step*,
                                           View<const T> rebuilt, double* found) const;
  /// For a step's pass of n samples.
  EVENFLOW_LOCAL void keep_standardised(WorkspaceScope& scope, int64_t n, Step& step) const {
    if (standardised_) step.standardised = scope.take<T>(n * dims());
  }
  EVENFLOW_LOCAL void run_backward_checkpointed(Context&, const Params<T>&, View<const T> x, const T* dz,
                                                const double* dlogdet, View<T> dx, Step& step,
                                                Drift& drift) const;
  /// All that a pass on x fills, from the scope.
  EVENFLOW_LOCAL PassArrays pass_arrays(WorkspaceScope&, const Shape& x, double* log_prob,
                                        double* found) const;
  /// log p(x), and the gradient at the latents of its sum times `weight`, each term times the step's sample
  /// weight.
  EVENFLOW_LOCAL void pass_forward(Context&, const Params<T>&, View<const T> x, double weight,
                                   const PassArrays&, const Step&) const;
  /// From there to the rebuilt batch and dx; params.grads +=.
  EVENFLOW_LOCAL void pass_backward(Context&, const Params<T>&, View<const T> x, const PassArrays&,
                                    Step&) const;
  /// log p(x) (N), and the gradient of its sum times `weight`: params.grads +=, dx is overwritten. square (1,
  /// or null): the sum of squares of params.grads then. undo() takes back what was added before the drift
  /// guard repeats the pass.
  EVENFLOW_LOCAL Drift differentiate(Context&, const Params<T>&, View<const T> x, int64_t activation_budget,
                                     double weight, Step& step, double* log_prob, View<T> dx, double* square,
                                     const std::function<void()>& undo, const char* call) const;
  EVENFLOW_LOCAL void head_backward(Context&, const Params<T>&, View<const T> x, View<T> dx,
                                    Step& step) const;
  EVENFLOW_LOCAL void keep_activations(Context&, WorkspaceScope&, int64_t n, int64_t budget,
                                       Step& step) const;
  /// For a pass that adds to params.grads, which may hold anything: clears what is added to.
  EVENFLOW_LOCAL void begin_gradient(Context&, Params<T>& params) const;
  /// NumericError where a layer's own inverse is too far off for gradients.
  EVENFLOW_LOCAL void check_drift(const char* call, const Drift&) const;
  /// loss_and_grad, with `replace` in place of the gradients that are there. Running statistics stay; those
  /// of the batch go to batch_stats (stats_size() + 1).
  EVENFLOW_LOCAL StepResult gradient(Context&, const char* call, ParamArena<T>&, View<const T> x,
                                     const Given<T>& given, int64_t activation_budget, double weight,
                                     const GradientWatch* watch, bool replace, T* batch_stats) const;
  EVENFLOW_LOCAL bool step_by_tiles(Context&, const char* call, ParamArena<T>&, View<const T> x,
                                    const Given<T>& given, int64_t budget, double weight, bool replace,
                                    StepResult& result) const;
  /// One tile's pass: how far its rebuilt rows are off.
  EVENFLOW_LOCAL double pass_tile(Context&, const Params<T>&, View<const T> x, int64_t budget, double weight,
                                  const double* sample_weight, double* log_prob) const;

  uint64_t id_;  ///< of all flows of the process
  Shape sample_shape_;
  Shape current_;
  Base base_;
  int64_t classes_ = 0;
  int64_t context_ = 0;
  std::vector<Node> nodes_;
  std::vector<Level> levels_;
  std::unique_ptr<ClassHead<T>> head_;
  size_t head_at_ = 0;  ///< the head sees the input of this node
  int64_t moments_of_ =
      0;  ///< fewest pixels of a sample that batch norms take moments over; 0: there are none
  size_t standardised_ = 0;  ///< nodes up to a layer that standardizes(); 0: there is none
  std::shared_ptr<const ParamLayout> layout_;
  ParamId initialized_ = 0;
  ParamId context_mean_ = -1;
  ParamId context_std_ = -1;
  int64_t tile_rows_ =
      0;  ///< samples of a tile; 0: too wide for a core's cache, or samples depend on each other
};

extern template class Flow<float>;
extern template class Flow<double>;

}  // namespace evenflow
