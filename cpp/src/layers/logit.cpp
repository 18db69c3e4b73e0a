#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

template <class T>
class Logit final : public Layer<T> {
 public:
  explicit Logit(Shape in) : Layer<T>("logit", in, in, true) {}

 private:
  void do_forward(Context& ctx, const Params<T>&, View<const T> x, View<T> z, double* logdet,
                  T*) const override {
    ctx.kernels<T>().logit_forward(ctx, x, z, logdet);
  }
  void do_inverse(Context& ctx, const Params<T>&, View<const T> z, View<T> x, double* logdet) const override {
    ctx.kernels<T>().logit_inverse(ctx, z, x, logdet);
  }
  void do_backward(Context& ctx, const Params<T>&, View<const T> z, View<const T> dz, const double* dlogdet,
                   View<T> x, View<T> dx, T*) const override {
    ctx.kernels<T>().logit_backward(ctx, z, dz, dlogdet, x, dx);
  }
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> logit(Shape in) {
  return std::make_unique<Logit<T>>(in);
}

template std::unique_ptr<Layer<float>> logit<float>(Shape);
template std::unique_ptr<Layer<double>> logit<double>(Shape);

}  // namespace evenflow
