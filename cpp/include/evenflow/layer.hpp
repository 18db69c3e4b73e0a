#pragma once

#include "evenflow/context.hpp"
#include "evenflow/params.hpp"
#include "evenflow/rng.hpp"
#include "evenflow/types.hpp"

namespace evenflow {

/// One invertible step of a flow. A layer is immutable once declared: parameters live in an arena and
/// everything else is an argument, so many threads can use one layer.
///
/// `forward` goes from data to latent. Each call adds its own log|det d out / d in| to `logdet` (N), in
/// double. `backward` takes the loss's gradient by it, so no layer depends on the sign of the loss.
template <class T>
class EVENFLOW_API Layer {
 public:
  virtual ~Layer();

  const Shape& input_shape() const { return in_; }    ///< n is 0
  const Shape& output_shape() const { return out_; }  ///< n is 0
  /// Whether z may alias x and dx may alias dz.
  bool in_place() const { return in_place_; }

  /// Adds the layer's parameters to the scope's layout.
  virtual void declare(const Scope&) {}
  virtual void init(ParamArena<T>&, Rng&) const {}
  /// Data-dependent initialisation from a batch of this layer's inputs. Called explicitly, once.
  virtual void init_from_data(Context&, ParamArena<T>&, View<const T>) const {}
  /// NumericError if fixed parameters, as read from a file, are invalid.
  virtual void check_parameters(const ParamArena<T>&) const {}
  /// NumericError if no call can succeed with these parameters. On the CPU a call checks this itself. On a
  /// device it returns numbers that are not finite, and this function then finds the cause.
  virtual void check_values(Context&, const Params<T>&) const {}
  /// NumericError, naming `call`, if forward has no finite result for some of these finite inputs.
  virtual void check_inputs(Context&, const char* /*call*/, View<const T>) const {}
  /// Number of context values that the layer reads; 0: none.
  virtual int64_t context() const { return 0; }
  /// Whether the layer standardises or unbounds the data by constants. The drift guard compares its outputs,
  /// too.
  virtual bool standardizes() const { return false; }
  /// How many values a pass may keep of the layer's intermediate results for n samples.
  virtual int64_t kept_size(int64_t) const { return 0; }

  void forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet) const;
  void inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x, double* logdet) const;
  /// Takes the outputs z and the loss's gradients by z and logdet; rebuilds x, writes dx and adds to
  /// params.grads.
  void backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                const double* dlogdet, View<T> x, View<T> dx) const;
  /// The same for a loss of inverse's outputs: takes x and the loss's gradients by x and by inverse's
  /// log-det; rebuilds z, writes dz and adds to params.grads. If in_place(), z may alias x and dz may alias
  /// dx.
  void inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                        const double* dlogdet, View<T> z, View<T> dz) const;

 protected:
  Layer(const char* kind, Shape in, Shape out, bool in_place);

  /// Adds the inverse's parameter gradients. They equal backward's for -dz and -dlogdet: when a parameter
  /// changes, the inverse's output and log-det change in the opposite direction to forward's.
  void add_inverse_gradients(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                             const double* dlogdet) const;

 private:
  virtual void do_forward(Context&, const Params<T>&, View<const T> x, View<T> z, double* logdet) const = 0;
  virtual void do_inverse(Context&, const Params<T>&, View<const T> z, View<T> x, double* logdet) const = 0;
  virtual void do_backward(Context&, const Params<T>&, View<const T> z, View<const T> dz,
                           const double* dlogdet, View<T> x, View<T> dx) const = 0;
  virtual void do_inverse_backward(Context&, const Params<T>&, View<const T> x, View<const T> dx,
                                   const double* dlogdet, View<T> z, View<T> dz) const = 0;
  void check(const char* call, const char* name, const Shape& expected, const Shape& got) const;

  std::string kind_;
  Shape in_;
  Shape out_;
  bool in_place_;
};

extern template class Layer<float>;
extern template class Layer<double>;

}  // namespace evenflow
