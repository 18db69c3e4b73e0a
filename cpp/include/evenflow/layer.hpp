#pragma once

#include "evenflow/context.hpp"
#include "evenflow/params.hpp"
#include "evenflow/rng.hpp"
#include "evenflow/types.hpp"

namespace evenflow {

/// One invertible step of a flow. Immutable once declared: parameters live in an arena, everything else is
/// an argument, so one layer may serve many threads.
///
/// `forward` goes from data to latent. `logdet` (N) receives += log|det d out / d in| of that call, in
/// double; `backward` takes the loss's derivative by it, so that no loss sign lives in a layer.
///
/// `kept` is null or kept_size() values: forward leaves there what backward would otherwise recompute.
template <class T>
class EVENFLOW_API Layer {
 public:
  virtual ~Layer();

  const Shape& input_shape() const { return in_; }    ///< n is 0
  const Shape& output_shape() const { return out_; }  ///< n is 0
  /// Whether z may alias x and dx may alias dz.
  bool in_place() const { return in_place_; }

  /// Adds the parameters.
  virtual void declare(const Scope&) {}
  virtual void init(ParamArena<T>&, Rng&) const {}
  /// Data-dependent initialisation from a batch of this layer's inputs. Called explicitly, once.
  virtual void init_from_data(Context&, ParamArena<T>&, View<const T>) const {}
  /// NumericError where fixed parameters, as read from a file, are none that the layer could have written.
  virtual void check_parameters(const ParamArena<T>&) const {}
  /// NumericError where no call can be computed with the parameters. On the CPU a call finds that itself; on
  /// a device it gives numbers that are not finite, and this is asked afterwards.
  virtual void check_values(Context&, const Params<T>&) const {}
  /// NumericError from `call` where forward has no finite results for some of these inputs, which are finite.
  virtual void check_inputs(Context&, const char* /*call*/, View<const T>) const {}
  /// How many numbers of the flow's context it reads; 0: it needs none.
  virtual int64_t context() const { return 0; }
  /// Whether fixed numbers bring the data to where errors are judged: to a spread of 1, or to no bounds.
  virtual bool standardizes() const { return false; }
  /// Values of `kept` for a batch of n.
  virtual int64_t kept_size(int64_t) const { return 0; }

  void forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet,
               T* kept = nullptr) const;
  void inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x, double* logdet) const;
  /// Gets the outputs z and the loss's gradient by them; rebuilds x; writes dx; adds to params.grads.
  void backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                const double* dlogdet, View<T> x, View<T> dx, T* kept = nullptr) const;
  /// The same for a loss of inverse's outputs: gets x, and the loss's gradient by x and by inverse's log-det;
  /// rebuilds z; writes dz; adds to params.grads. z may alias x, and dz dx, where in_place().
  void inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                        const double* dlogdet, View<T> z, View<T> dz) const;

 protected:
  Layer(const char* kind, Shape in, Shape out, bool in_place);

  /// Adds the inverse's parameter gradients: those of backward for -dz and -dlogdet, since the inverse's dz
  /// and log-det move against forward's when a parameter moves.
  void add_inverse_gradients(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                             const double* dlogdet) const;

 private:
  virtual void do_forward(Context&, const Params<T>&, View<const T> x, View<T> z, double* logdet,
                          T* kept) const = 0;
  virtual void do_inverse(Context&, const Params<T>&, View<const T> z, View<T> x, double* logdet) const = 0;
  virtual void do_backward(Context&, const Params<T>&, View<const T> z, View<const T> dz,
                           const double* dlogdet, View<T> x, View<T> dx, T* kept) const = 0;
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
