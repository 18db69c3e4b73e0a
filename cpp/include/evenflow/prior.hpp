#pragma once

#include "evenflow/layer.hpp"

namespace evenflow {

/// The parameter-free base distribution of z, the same for every dimension.
enum class Base { gaussian, logistic };

/// "gaussian" or "logistic".
EVENFLOW_API const char* to_string(Base base);

/// Glow's classifier on the top latents: logits = (mean over pixels of x) W + b, scaled by exp(3 logs), all
/// zero at the start; loss = softmax cross-entropy.
template <class T>
class EVENFLOW_API ClassHead {
 public:
  ClassHead(Shape in, int64_t classes, double weight);

  void declare(const Scope&);
  double weight() const { return weight_; }
  int64_t classes() const { return classes_; }

  /// log p(class | x), (N, classes).
  void log_prob(Context&, const Params<T>&, View<const T> x, double* out) const;
  /// Adds weight * scale * (sum of losses) to the loss that dx and params.grads belong to. results (2): the
  /// sum of the losses in nats, and how many predictions are wrong. sample_weight (n, null: 1): what a sample
  /// counts for in these sums.
  void backward(Context&, const Params<T>&, View<const T> x, double scale, const double* sample_weight,
                View<T> dx, double* results) const;

 private:
  Shape in_;
  int64_t classes_;
  double weight_;
  ParamId w_ = 0;
  ParamId bias_ = 0;
  ParamId logs_ = 0;
};

extern template class ClassHead<float>;
extern template class ClassHead<double>;

}  // namespace evenflow
