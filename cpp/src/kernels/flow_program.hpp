#pragma once

#include <cstdint>
#include <memory>

#include "evenflow/context.hpp"
#include "evenflow/optim.hpp"
#include "evenflow/params.hpp"
#include "evenflow/prior.hpp"
#include "evenflow/types.hpp"
#include "kernels/derived.hpp"

namespace evenflow {

struct ConvDims;
struct CouplingDims;

/// What a step of a FlowProgram does to a row of a table.
enum class FlowOp : int16_t {
  dense,        ///< a unit of a net; parameters: weight, bias
  coupling,     ///< the net's outputs change channels; parameters: slope and offset of the gain
  log_scale,    ///< y = (x + bias) exp(factor * logs); parameters: bias, logs
  standard,     ///< y = (x - mean) / std; parameters: mean, std
  moments,      ///< y = (x - mean) / sqrt(var + factor); parameters: mean, var
  center,       ///< y = x - mean, before a matrix; parameters: mean, the matrix's log |det|
  matrix,       ///< y = x M; parameters: M, its inverse, or none where M is a derived one
  permutation,  ///< y[c] = x[order[c]]; parameter: order
  bounds,       ///< y = log(x - low) - log(high - x), between `ends`; factor: log(high - low)
};

/// Plain data, so that steps are a kernel's argument.
struct FlowStep {
  enum Dense { relu = 1, half = 2 };  ///< bits; half: the net is of bfloat16 numbers

  FlowOp op = FlowOp::dense;
  int16_t first = 0;     ///< of the channels that are read (dense) or changed: first, first + stride, ...
  int16_t stride = 1;    ///< 0: a dense unit reads the outputs of the one before
  int16_t count = 0;     ///< how many; a dense unit's inputs
  int16_t width = 0;     ///< a dense unit's outputs
  int16_t h_step = 1;    ///< of a coupling, as in CouplingDims
  int16_t r_offset = 0;  ///< of a coupling, as in CouplingDims
  int16_t option =
      0;  ///< dense: bits of Dense; coupling: its law; matrix: the number of a derived one, or -1
  union {
    int64_t at[2] = {-1, -1};  ///< parameters' ids, in a complete program their offsets; -1: there is no such
    double ends[2];            ///< bounds, which have no parameters: low, high, infinite where open
  };
  double factor = 1;
};

/// A flow on rows of a table as a list of steps, data -> latent, small enough for a block of threads to hold
/// a tile of rows.
struct FlowSteps {
  static constexpr int64_t kDims = 128;   ///< channels of a row at most
  static constexpr int64_t kWidth = 256;  ///< inputs and outputs of a dense unit at most
  static constexpr int kSteps = 96;       ///< a kernel's arguments have 4 kB

  int32_t dims = 0;
  int32_t count = 0;
  Base base = Base::gaussian;
  int64_t initialized = 0;  ///< offset of a parameter: where it is 0, results are NaN
  FlowStep steps[kSteps];
};

/// Layers add their steps when they are declared; a layer that adds none has none.
struct FlowProgram : FlowSteps {
  bool fits = true;  ///< every layer has steps, and there was room for them

  /// An empty one for samples of this shape; null: they are too wide, or images.
  static void begin(const Shape& sample, Base base, std::shared_ptr<FlowProgram>& program);
  /// All layers are declared: ids become offsets, -1 stays.
  void complete(const ParamLayout& layout, ParamId initialized_flag);
};

// Steps for the program that a layer is declared for, if there is any. -1: no such parameter.

int step_count(const Scope&);
/// option: of FlowStep::Dense.
void add_dense(const Scope&, int64_t in, int64_t out, int option, ParamId weight, ParamId bias);
/// After the net's steps, from net_begin on, which reads channels from pass_first on; without any: none.
void add_coupling(const Scope&, int net_begin, int64_t pass_first, int64_t first, const CouplingDims& dims,
                  ParamId slope, ParamId offset);
void add_scale(const Scope&, FlowOp op, int64_t first, int64_t count, ParamId a, ParamId b, double factor);
/// y = (x - mean) M, with M^-1 and log |det M| among the parameters.
void add_whitening(const Scope&, int64_t count, ParamId mean, ParamId matrix, ParamId inverse,
                   ParamId logdet);
/// y = x W, whose number add_derived_matrix gave.
void add_learned_matrix(const Scope&, int64_t count, int matrix);
void add_permutation(const Scope&, int64_t count, ParamId order);
/// Columns of the same ends.
void add_bounds(const Scope&, int64_t first, int64_t count, double low, double high, double log_width);
/// Steps from `begin` on are of channels of which even ones come first, and become those of the channels in
/// their own order.
void interleave_steps(const Scope&, int begin);

/// A training step's pass on a device, and what is updated where it was good. Arrays are the device's.
template <class T>
struct StepEnd {
  // What the pass left.
  const double* not_finite;  ///< (1): densities that are not
  const double* found;       ///< (4): KernelSet::distance's, twice
  const double* square;      ///< (1): of the gradient's norm
  const double* head;        ///< the class head's loss, or null
  const T* initialized;      ///< (1): not 0
  double tolerance;          ///< of the drift
  // What the program says, and what it reads: the same places in every step, so that steps can be recorded.
  enum Settings { lr, max_norm, average_rate, kSettings };
  enum Verdict { taken, clipped, factor, kVerdict };
  const double*
      settings;     ///< (kSettings): the rate with bias correction, 0 or the norm's bound, the average's
  double* verdict;  ///< (kVerdict): 1 or 0; whether the gradient is multiplied, and by what
  // What is updated, if the step is taken.
  OptimizerConfig config;
  int64_t trainable, decay_size, total;
  T *grads, *m, *v, *values;
  T* average;  ///< of the values, or null
  int64_t stats;
  double stats_rate;
  const T* batch_stats;
  T* running;
};

/// What a device does without asking the program on the way: whole flows in one kernel each, with learned
/// matrices in some more, what layers derive from parameters, and the end of a training step. A row's density
/// or sample does not depend on the rows beside it; false: some are not finite, for which the layers have an
/// error.
template <class T>
class FlowKernels {
 public:
  virtual ~FlowKernels() = default;
  /// out (n) = log p(x), x (n, dims). copy (n, or null): the same in the program's memory.
  virtual bool log_prob(Context&, const FlowProgram&, const DerivedPlan&, const T* params, View<const T> x,
                        double* out, double* copy) const = 0;
  /// x (n, dims) from the base distribution's draws first, first + 1, ... times `scale`.
  virtual bool sample(Context&, const FlowProgram&, const DerivedPlan&, const T* params, T scale,
                      uint64_t seed, uint64_t first, View<T> x) const = 0;
  /// Fills the arrays that `to` has, for a plan that is not empty.
  virtual void derive(Context&, const T* params, const Derived<T>& to) const = 0;
  /// Of a 1x1 convolution z = x w by a derived matrix: x = z w^-1, dx = dz w^T, and of its dmatrices
  /// dw (channels, channels) = x^T dz.
  virtual void matrix_backward(Context&, const ConvDims&, View<const T> z, View<const T> dz, const T* w,
                               const T* inverse, View<T> x, View<T> dx, double* dw) const = 0;
  /// grads += from dmatrices and dlogdet.
  virtual void add_matrix_gradients(Context&, const T* params, const Derived<T>& of, T* grads) const = 0;
  /// Decides whether the step is taken, and takes it.
  virtual void finish_step(Context&, const StepEnd<T>&) const = 0;
};

}  // namespace evenflow
