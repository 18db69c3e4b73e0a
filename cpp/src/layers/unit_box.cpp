#include "evenflow/error.hpp"
#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

constexpr const char* kUnitBox = "unit_box";

/// Passes data in [0, 1] on, and makes NaN of other values, which a flow's calls then name.
template <class T>
class UnitBox final : public Layer<T> {
 public:
  explicit UnitBox(Shape in) : Layer<T>(kUnitBox, in, in, true) {}

  void init_from_data(Context& ctx, ParamArena<T>&, View<const T> x) const override {
    check_inputs(ctx, "init", x);
  }

  void check_inputs(Context& ctx, const char* call, View<const T> x) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const View<T> dense(scope.take<T>(x.shape.size()), x.shape);
    ctx.kernels<T>().move.copy(ctx, x, dense);
    const T* values = host.read(static_cast<const T*>(dense.data), x.shape.size());
    for (int64_t i = 0; i < x.shape.size(); ++i) {
      if (values[i] >= T(0) && values[i] <= T(1)) continue;
      fail<NumericError>(call, "expected values in [0, 1] for column ", i % x.shape.c, ", got ", values[i],
                         " for sample ", ctx.first_row() + i / x.shape.per_sample());
    }
  }

 private:
  static void keep(Context& ctx, View<const T> from, View<T> to) {
    ctx.kernels<T>().channel.keep_in_box(ctx, from, to);
  }
  static void copy(Context& ctx, View<const T> from, View<T> to) {
    if (from.data != to.data) ctx.kernels<T>().move.copy(ctx, from, to);
  }

  void do_forward(Context& ctx, const Params<T>&, View<const T> x, View<T> z, double*) const override {
    keep(ctx, x, z);
  }
  void do_inverse(Context& ctx, const Params<T>&, View<const T> z, View<T> x, double*) const override {
    keep(ctx, z, x);
  }
  void do_backward(Context& ctx, const Params<T>&, View<const T> z, View<const T> dz, const double*,
                   View<T> x, View<T> dx) const override {
    keep(ctx, z, x);
    copy(ctx, dz, dx);
  }
  void do_inverse_backward(Context& ctx, const Params<T>&, View<const T> x, View<const T> dx, const double*,
                           View<T> z, View<T> dz) const override {
    keep(ctx, x, z);
    copy(ctx, dx, dz);
  }
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> unit_box(Shape in) {
  return std::make_unique<UnitBox<T>>(in);
}

template std::unique_ptr<Layer<float>> unit_box<float>(Shape);
template std::unique_ptr<Layer<double>> unit_box<double>(Shape);

}  // namespace evenflow
