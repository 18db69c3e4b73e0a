#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

template <class T>
class Logit final : public Layer<T> {
 public:
  explicit Logit(Shape in) : Layer<T>("logit", in, in, true) {}

 private:
  void do_forward(Context& ctx, const Params<T>&, View<const T> x, View<T> z, double* logdet) const override {
    ctx.kernels<T>().channel.logit_forward(ctx, x, z, logdet);
  }
  void do_inverse(Context& ctx, const Params<T>&, View<const T> z, View<T> x, double* logdet) const override {
    ctx.kernels<T>().channel.logit_inverse(ctx, z, x, logdet);
  }
  void do_backward(Context& ctx, const Params<T>&, View<const T> z, View<const T> dz, const double* dlogdet,
                   View<T> x, View<T> dx) const override {
    ctx.kernels<T>().channel.logit_backward(ctx, z, dz, dlogdet, x, dx);
  }
  // backward returns slope * dz + dlogdet * bend, where bend = d logdet / dx. Two calls yield slope and bend
  // separately.
  void do_inverse_backward(Context& ctx, const Params<T>&, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    const int64_t n = x.shape.n, size = x.shape.size();
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    const auto take = [&] { return View<T>(scope.take<T>(size), x.shape); };
    const View<T> unit = take(), slope = take(), bend = take(), unused = take(), pulled = take();
    double* det = scope.take<double>(n);
    kernels.move.fill_doubles(ctx, n, 0, det);
    kernels.move.copy(ctx, dx, pulled);
    kernels.channel.logit_forward(ctx, x, z, det);
    kernels.move.fill_doubles(ctx, n, 0, det);
    kernels.move.fill(ctx, size, T(1), unit.data);
    kernels.channel.logit_backward(ctx, z, unit, det, unused, slope);
    kernels.move.zero(ctx, size, unit.data);
    kernels.channel.logit_backward(ctx, z, unit, dlogdet, unused, bend);
    kernels.channel.logit_pull(ctx, pulled, bend.data, slope.data, dz);
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
