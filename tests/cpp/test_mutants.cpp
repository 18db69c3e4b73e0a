#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "check_layer.hpp"
#include "laws.hpp"

// The harness is itself tested: an affine coupling with one planted bug at a time must fail, and fail the
// check that is there for that bug.

namespace evenflow::test {
namespace {

enum class Bug {
  none,
  logdet_sign,
  logdet_overwritten,
  logdet_of_inverse_missing,
  logdet_scaled,
  inverse_with_eps,
  x_not_rebuilt,
  dlogdet_ignored,
  dx_slightly_off,
  gradients_overwritten,
  gradient_missing,
  kept_activations_wrong,
  reads_after_overwriting,
  single_precision_inside,
  writes_beyond_its_view,
  float32_inaccurate,
  depends_on_threads,
  dz_slightly_off,
  inverse_gradient_sign,
  kept_output_off,
  kept_logdet_off,
  strided_dx_off,
  context_gradient_off,
  // In the first place: what comes after it must not hide it.
  nan_in_output,
  nan_in_logdet,
  nan_in_rebuilt_x,
  nan_in_dx,
  nan_in_gradient
};

template <class T>
class Mutant final : public Layer<T> {
 public:
  Mutant(std::unique_ptr<Layer<T>> inner, Bug bug)
      : Layer<T>("mutant", inner->input_shape(), inner->output_shape(), true),
        inner_(std::move(inner)),
        bug_(bug) {}

  void declare(const Scope& scope) override { inner_->declare(scope); }
  void init(ParamArena<T>& arena, Rng& rng) const override { inner_->init(arena, rng); }
  int64_t context() const override { return inner_->context(); }
  int64_t kept_size(int64_t n) const override { return inner_->kept_size(n); }

 private:
  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet,
                  T* kept) const override {
    std::vector<double> det(static_cast<size_t>(x.shape.n), 0.0);
    inner_->forward(ctx, params, x, z, det.data(), kept);
    for (int64_t i = 0; i < x.shape.n; ++i) {
      if (bug_ == Bug::logdet_overwritten) logdet[i] = 0;
      logdet[i] += bug_ == Bug::logdet_sign ? -det[i] : bug_ == Bug::logdet_scaled ? det[i] / 2 : det[i];
    }
    for (int64_t r = 0; r < z.shape.pixels(); ++r) {
      T& value = z.data[r * z.stride + z.shape.c - 1];
      if (bug_ == Bug::single_precision_inside) value = static_cast<T>(static_cast<float>(value));
      if (bug_ == Bug::float32_inaccurate && std::is_same<T, float>::value) value *= T(1.01);
      if (bug_ == Bug::depends_on_threads && ctx.threads() == 2)
        value *= T(1) + std::numeric_limits<T>::epsilon();
      if (bug_ == Bug::writes_beyond_its_view && z.stride > z.shape.c) (&value)[1] = T(0);
      if (bug_ == Bug::kept_output_off && kept) value += T(1e-3);
    }
    if (bug_ == Bug::kept_logdet_off && kept) logdet[0] += 1e-3;
    if (bug_ == Bug::nan_in_output) z.data[0] = kNan;
    if (bug_ == Bug::nan_in_logdet) logdet[0] = std::numeric_limits<double>::quiet_NaN();
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    std::vector<double> det(static_cast<size_t>(z.shape.n), 0.0);
    inner_->inverse(ctx, params, z, x, det.data());
    for (int64_t i = 0; i < z.shape.n; ++i) {
      const double sign = bug_ == Bug::logdet_sign ? -1 : 1;
      const double scale = bug_ == Bug::logdet_of_inverse_missing ? 0 : bug_ == Bug::logdet_scaled ? 0.5 : 1;
      logdet[i] += sign * scale * det[i];
    }
    if (bug_ == Bug::inverse_with_eps) x.data[x.shape.c - 1] += T(1e-6);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx, T* kept) const override {
    const int64_t n = z.shape.n, trainable = params.layout->trainable_size();
    std::vector<double> det(dlogdet, dlogdet + n);
    if (bug_ == Bug::dlogdet_ignored) std::fill(det.begin(), det.end(), 0.0);
    if (bug_ == Bug::kept_activations_wrong && kept) kept[0] += T(0.1);
    std::vector<T> before(params.grads, params.grads + trainable);
    if (bug_ == Bug::gradients_overwritten) std::fill(params.grads, params.grads + trainable, T(0));
    if (bug_ == Bug::reads_after_overwriting && x.data == z.data) {
      for (int64_t i = 0; i < n * z.shape.per_sample(); ++i) dx.data[i] *= T(1.5);
    }
    inner_->backward(ctx, params, z, dz, det.data(), x, dx, kept);
    if (bug_ == Bug::gradient_missing) {
      const ParamLayout::Entry& last = params.layout->entries().back();
      std::copy_n(&before[last.offset], last.size, params.grads + last.offset);
    }
    if (bug_ == Bug::x_not_rebuilt) {
      for (int64_t r = 0; r < z.shape.pixels(); ++r) x.data[r * x.stride] += T(1e-3);
    }
    if (bug_ == Bug::dx_slightly_off) {
      for (int64_t r = 0; r < z.shape.pixels(); ++r) dx.data[r * dx.stride] *= T(1.0001);
    }
    if (bug_ == Bug::strided_dx_off && dx.stride > dx.shape.c) dx.data[0] += T(1e-3);
    if (bug_ == Bug::context_gradient_off && params.dcontext) params.dcontext[0] *= T(1.0001);
    if (bug_ == Bug::nan_in_rebuilt_x) x.data[0] = kNan;
    if (bug_ == Bug::nan_in_dx) dx.data[0] = kNan;
    if (bug_ == Bug::nan_in_gradient) params.grads[params.layout->entries().front().offset] = kNan;
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    const int64_t trainable = params.layout->trainable_size();
    const std::vector<T> before(params.grads, params.grads + trainable);
    inner_->inverse_backward(ctx, params, x, dx, dlogdet, z, dz);
    if (bug_ == Bug::inverse_gradient_sign) {
      for (int64_t i = 0; i < trainable; ++i) params.grads[i] = 2 * before[i] - params.grads[i];
    }
    if (bug_ == Bug::dz_slightly_off) {
      for (int64_t r = 0; r < dz.shape.pixels(); ++r) dz.data[r * dz.stride] *= T(1.0001);
    }
  }

  static constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  std::unique_ptr<Layer<T>> inner_;
  Bug bug_;
};

Report report_of(Bug bug) {
  const Shape shape{0, 2, 3, 4};
  const int64_t context = bug == Bug::context_gradient_off ? 1 : 0;
  const auto make = [=](auto t) -> std::unique_ptr<Layer<decltype(t)>> {
    using T = decltype(t);
    auto net = mlp<T>(shape.with_channels(2 + context), 4, {5}, MlpInit::uniform_zero);
    return std::make_unique<Mutant<T>>(
        coupling<T>(shape, Mask::second_half, std::move(net), law_options("glow", true)), bug);
  };
  LayerCase c;
  c.name = "mutant";
  c.make64 = [=] { return make(double()); };
  c.make32 = [=] { return make(float()); };
  c.context = context;
  return check_layer(c);
}

void caught(Bug bug, const std::string& by) {
  const Report report = report_of(bug);
  const bool named = std::any_of(report.begin(), report.end(), [&](const std::string& line) {
    return line.compare(0, by.size(), by) == 0;
  });
  CHECK_MESSAGE(named, "expected check '", by, "' to fail, got:\n", joined(report));
}

TEST_CASE("NaN is the largest error, whatever comes after it") {
  double worst = 0;
  for (const double error : {1.0, std::nan(""), 2.0, 0.0}) worst = larger(worst, error);
  CHECK(worst == HUGE_VAL);
  CHECK(larger(larger(0, 3), 2) == 3);
}

TEST_CASE("the harness passes a correct layer") {
  CHECK_MESSAGE(report_of(Bug::none).empty(), joined(report_of(Bug::none)));
}

TEST_CASE("the harness catches planted bugs") {
  caught(Bug::logdet_sign, "5 log-det against the probed Jacobian");
  caught(Bug::logdet_scaled, "5 log-det against differences");
  caught(Bug::logdet_overwritten, "1 log-dets are added");
  caught(Bug::logdet_of_inverse_missing, "1 log-dets cancel");
  caught(Bug::inverse_with_eps, "1 inverse(forward(x))");
  caught(Bug::x_not_rebuilt, "2 backward rebuilds x");
  caught(Bug::dlogdet_ignored, "4 gradient of layer.dense1.bias");
  caught(Bug::dx_slightly_off, "3 dx");
  caught(Bug::gradients_overwritten, "6 backward twice");
  caught(Bug::gradient_missing, "4 gradient of");
  caught(Bug::kept_activations_wrong, "6 kept activations");
  caught(Bug::reads_after_overwriting, "7 backward in place");
  caught(Bug::single_precision_inside, "1 inverse(forward(x))");
  caught(Bug::writes_beyond_its_view, "7 strided views leave");
  caught(Bug::float32_inaccurate, "8 float32");
  caught(Bug::depends_on_threads, "8 two threads");
  caught(Bug::dz_slightly_off, "9 dz of the inverse");
  caught(Bug::inverse_gradient_sign, "9 gradient of the inverse by layer.dense1.bias");
  caught(Bug::kept_output_off, "6 keeping activations changes no output");
  caught(Bug::kept_logdet_off, "6 keeping activations changes no log-det");
  caught(Bug::strided_dx_off, "7 strided views of backward, dx");
  caught(Bug::context_gradient_off, "3 gradient of the context");
  caught(Bug::nan_in_output, "1 inverse(forward(x))");
  caught(Bug::nan_in_logdet, "1 log-dets cancel");
  caught(Bug::nan_in_rebuilt_x, "2 backward rebuilds x");
  caught(Bug::nan_in_dx, "3 dx");
  caught(Bug::nan_in_gradient, "4 gradient of layer.dense0.weight");
}

}  // namespace
}  // namespace evenflow::test
