#pragma once

#include "evenflow/layer.hpp"

namespace evenflow {

/// The parameter-free base distribution of z, the same for every dimension.
enum class Base {
  gaussian,
  logistic,
  uniform  ///< on [0, 1]
};

/// "gaussian", "logistic" or "uniform".
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
  /// Adds the gradient of weight * scale * (sum of losses) to dx and params.grads. results (2): the sum of
  /// the losses in nats and the number of wrong predictions. sample_weight (n): each sample's factor in both
  /// sums; null: 1.
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
