#include "evenflow/error.hpp"
#include "evenflow/prior.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

const char* to_string(Base base) {
  switch (base) {
    case Base::logistic:
      return "logistic";
    case Base::uniform:
      return "uniform";
    default:
      return "gaussian";
  }
}

template <class T>
ClassHead<T>::ClassHead(Shape in, int64_t classes, double weight)
    : in_(in.with_batch(0)), classes_(classes), weight_(weight) {}

template <class T>
void ClassHead<T>::declare(const Scope& scope) {
  w_ = scope.add("weight", {in_.c, classes_}, Group::no_decay);
  bias_ = scope.add("bias", {classes_}, Group::no_decay);
  logs_ = scope.add("logs", {classes_}, Group::no_decay);
}

template <class T>
void ClassHead<T>::log_prob(Context& ctx, const Params<T>& params, View<const T> x, double* out) const {
  WorkspaceScope scope(ctx);
  double* pooled = scope.take<double>(x.shape.n * in_.c);
  double* raw = scope.take<double>(x.shape.n * classes_);
  ctx.kernels<T>().prior.head_log_prob(ctx, x, classes_, params.value(w_), params.value(bias_),
                                       params.value(logs_), pooled, raw, out);
}

template <class T>
void ClassHead<T>::backward(Context& ctx, const Params<T>& params, View<const T> x, double scale,
                            const double* sample_weight, View<T> dx, double* results) const {
  const int64_t n = x.shape.n;
  if (!params.given.labels) fail<ConfigError>("class_head", "expected ", n, " labels, got none");
  WorkspaceScope scope(ctx);
  double* pooled = scope.take<double>(n * in_.c);
  double* raw = scope.take<double>(n * classes_);
  double* logp = scope.take<double>(n * classes_);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  kernels.prior.head_log_prob(ctx, x, classes_, params.value(w_), params.value(bias_), params.value(logs_),
                              pooled, raw, logp);
  kernels.prior.head_backward(ctx, classes_, params.given.labels, sample_weight, params.value(w_),
                              params.value(logs_), weight_ * scale, pooled, raw, logp, params.grad(w_),
                              params.grad(bias_), params.grad(logs_), dx, results);
}

template class ClassHead<float>;
template class ClassHead<double>;

}  // namespace evenflow
