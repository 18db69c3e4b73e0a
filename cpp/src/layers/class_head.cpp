#include <algorithm>
#include <cmath>

#include "evenflow/error.hpp"
#include "evenflow/prior.hpp"

namespace evenflow {
namespace {

constexpr double kLogScale = 3.0;

}  // namespace

const char* to_string(Base base) {
  return base == Base::logistic ? "logistic" : "gaussian";
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
void ClassHead<T>::log_prob(Context&, const Params<T>& params, View<const T> x, double* out) const {
  const int64_t pixels = in_.pixels_per_sample();
  std::vector<double> pooled(static_cast<size_t>(in_.c));
  for (int64_t i = 0; i < x.shape.n; ++i) {
    std::fill(pooled.begin(), pooled.end(), 0.0);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < in_.c; ++c) pooled[c] += x.data[(i * pixels + p) * x.stride + c];
    }
    double* row = out + i * classes_;
    double top = -HUGE_VAL;
    for (int64_t y = 0; y < classes_; ++y) {
      double logit = params.value(bias_)[y];
      for (int64_t c = 0; c < in_.c; ++c) logit += pooled[c] / pixels * params.value(w_)[c * classes_ + y];
      row[y] = logit * std::exp(kLogScale * params.value(logs_)[y]);
      top = std::max(top, row[y]);
    }
    double sum = 0;
    for (int64_t y = 0; y < classes_; ++y) sum += std::exp(row[y] - top);
    for (int64_t y = 0; y < classes_; ++y) row[y] -= top + std::log(sum);
  }
}

template <class T>
double ClassHead<T>::backward(Context& ctx, const Params<T>& params, View<const T> x, double scale,
                              View<T> dx, int64_t* wrong) const {
  const int64_t n = x.shape.n, pixels = in_.pixels_per_sample();
  if (!params.labels) fail<ConfigError>("class_head", "expected ", n, " labels, got none");
  WorkspaceScope scope(ctx);
  double* logp = scope.take<double>(n * classes_);
  double* pooled = scope.take<double>(in_.c);
  double* dlogit = scope.take<double>(classes_);
  log_prob(ctx, params, x, logp);
  double loss = 0;
  *wrong = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double* row = logp + i * classes_;
    const int32_t label = params.labels[i];
    loss -= row[label];
    *wrong += std::max_element(row, row + classes_) - row != label;
    std::fill(pooled, pooled + in_.c, 0.0);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < in_.c; ++c) pooled[c] += x.data[(i * pixels + p) * x.stride + c];
    }
    for (int64_t y = 0; y < classes_; ++y) {
      const double factor = std::exp(kLogScale * params.value(logs_)[y]);
      dlogit[y] = weight_ * scale * (std::exp(row[y]) - (y == label)) * factor;  // by the unscaled logit
      double logit = params.value(bias_)[y];
      for (int64_t c = 0; c < in_.c; ++c) {
        params.grad(w_)[c * classes_ + y] += static_cast<T>(dlogit[y] * pooled[c] / pixels);
        logit += pooled[c] / pixels * params.value(w_)[c * classes_ + y];
      }
      params.grad(bias_)[y] += static_cast<T>(dlogit[y]);
      params.grad(logs_)[y] += static_cast<T>(kLogScale * dlogit[y] * logit);
    }
    for (int64_t c = 0; c < in_.c; ++c) {
      double g = 0;
      for (int64_t y = 0; y < classes_; ++y) g += dlogit[y] * params.value(w_)[c * classes_ + y];
      for (int64_t p = 0; p < pixels; ++p)
        dx.data[(i * pixels + p) * dx.stride + c] += static_cast<T>(g / pixels);
    }
  }
  return loss;
}

template class ClassHead<float>;
template class ClassHead<double>;

}  // namespace evenflow
