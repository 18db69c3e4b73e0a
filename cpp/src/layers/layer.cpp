#include "evenflow/layer.hpp"

#include "evenflow/error.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

template <class T>
Layer<T>::Layer(const char* kind, Shape in, Shape out, bool in_place)
    : kind_(kind), in_(in.with_batch(0)), out_(out.with_batch(0)), in_place_(in_place) {}

template <class T>
Layer<T>::~Layer() = default;

template <class T>
void Layer<T>::check(const char* call, const char* name, const Shape& expected, const Shape& got) const {
  if (expected != got) {
    fail<ShapeError>(kind_ + "." + call, "expected ", name, " of shape ", to_string(expected), ", got ",
                     to_string(got));
  }
}

template <class T>
void Layer<T>::forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                       double* logdet) const {
  check("forward", "x", in_.with_batch(x.shape.n), x.shape);
  check("forward", "z", out_.with_batch(x.shape.n), z.shape);
  do_forward(ctx, params, x, z, logdet);
}

template <class T>
void Layer<T>::inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                       double* logdet) const {
  check("inverse", "z", out_.with_batch(z.shape.n), z.shape);
  check("inverse", "x", in_.with_batch(z.shape.n), x.shape);
  do_inverse(ctx, params, z, x, logdet);
}

template <class T>
void Layer<T>::backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                        const double* dlogdet, View<T> x, View<T> dx) const {
  check("backward", "z", out_.with_batch(z.shape.n), z.shape);
  check("backward", "dz", z.shape, dz.shape);
  check("backward", "x", in_.with_batch(z.shape.n), x.shape);
  check("backward", "dx", x.shape, dx.shape);
  do_backward(ctx, params, z, dz, dlogdet, x, dx);
}

template <class T>
void Layer<T>::inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                                const double* dlogdet, View<T> z, View<T> dz) const {
  check("inverse_backward", "x", in_.with_batch(x.shape.n), x.shape);
  check("inverse_backward", "dx", x.shape, dx.shape);
  check("inverse_backward", "z", out_.with_batch(x.shape.n), z.shape);
  check("inverse_backward", "dz", z.shape, dz.shape);
  do_inverse_backward(ctx, params, x, dx, dlogdet, z, dz);
}

template <class T>
void Layer<T>::add_inverse_gradients(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                                     const double* dlogdet) const {
  if (!params.grads) return;
  const int64_t n = z.shape.n, size = z.shape.size();
  WorkspaceScope scope(ctx);
  View<T> minus_dz(scope.take<T>(size), z.shape);
  ctx.kernels<T>().move.copy(ctx, dz, minus_dz);
  ctx.kernels<T>().move.scale(ctx, size, T(-1), minus_dz.data);
  double* minus_dlogdet = scope.take<double>(n);
  ctx.kernels<T>().move.scale_doubles(ctx, n, -1, dlogdet, minus_dlogdet);
  const Shape in = in_.with_batch(n);
  const View<T> x(scope.take<T>(size), in), dx(scope.take<T>(size), in);
  do_backward(ctx, params, z, minus_dz, minus_dlogdet, x, dx);
}

template class Layer<float>;
template class Layer<double>;

}  // namespace evenflow
