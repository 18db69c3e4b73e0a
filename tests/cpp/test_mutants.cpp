#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <type_traits>

#include "arenas.hpp"
#include "check_layer.hpp"
#include "laws.hpp"

// The harness is itself tested: an affine coupling with one planted bug at a time must fail, and fail the
// check that is there for that bug.

namespace evenflow::test {
namespace {

template <class T>
class Mutant final : public Layer<T> {
 public:
  Mutant(std::unique_ptr<Layer<T>> inner, const char* bug)
      : Layer<T>("mutant", inner->input_shape(), inner->output_shape(), true),
        inner_(std::move(inner)),
        bug_(bug) {}

  void declare(const Scope& scope) override { inner_->declare(scope); }
  void init(ParamArena<T>& arena, Rng& rng) const override { inner_->init(arena, rng); }
  int64_t context() const override { return inner_->context(); }
  int64_t kept_size(int64_t n) const override { return inner_->kept_size(n); }

 private:
  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    const bool kept = mode_of(params).kept;
    std::vector<double> det(static_cast<size_t>(x.shape.n), 0.0);
    inner_->forward(ctx, params, x, z, det.data());
    for (int64_t i = 0; i < x.shape.n; ++i) {
      if (bug_ == "logdet_overwritten") logdet[i] = 0;
      logdet[i] += bug_ == "logdet_sign" ? -det[i] : bug_ == "logdet_scaled" ? det[i] / 2 : det[i];
    }
    for (int64_t r = 0; r < z.shape.pixels(); ++r) {
      T& value = z.data[r * z.stride + z.shape.c - 1];
      if (bug_ == "single_precision_inside") value = static_cast<T>(static_cast<float>(value));
      if (bug_ == "float32_inaccurate" && std::is_same<T, float>::value) value *= T(1.01);
      if (bug_ == "depends_on_threads" && ctx.threads() == 2)
        value *= T(1) + std::numeric_limits<T>::epsilon();
      if (bug_ == "writes_beyond_its_view" && z.stride > z.shape.c) (&value)[1] = T(0);
      if (bug_ == "kept_output_off" && kept) value += T(1e-3);
    }
    if (bug_ == "kept_logdet_off" && kept) logdet[0] += 1e-3;
    if (bug_ == "nan_in_output") z.data[0] = kNan;
    if (bug_ == "nan_in_logdet") logdet[0] = std::numeric_limits<double>::quiet_NaN();
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    std::vector<double> det(static_cast<size_t>(z.shape.n), 0.0);
    inner_->inverse(ctx, params, z, x, det.data());
    for (int64_t i = 0; i < z.shape.n; ++i) {
      const double sign = bug_ == "logdet_sign" ? -1 : 1;
      const double scale = bug_ == "logdet_of_inverse_missing" ? 0 : bug_ == "logdet_scaled" ? 0.5 : 1;
      logdet[i] += sign * scale * det[i];
    }
    if (bug_ == "inverse_with_eps") x.data[x.shape.c - 1] += T(1e-6);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    T* kept = mode_of(params).kept;
    const int64_t n = z.shape.n, trainable = params.grads ? params.layout->trainable_size() : 0;
    std::vector<double> det(dlogdet, dlogdet + n);
    if (bug_ == "dlogdet_ignored") std::fill(det.begin(), det.end(), 0.0);
    if (bug_ == "kept_activations_wrong" && kept) kept[0] += T(0.1);
    std::vector<T> before(params.grads, params.grads + trainable);
    if (bug_ == "gradients_overwritten") std::fill(params.grads, params.grads + trainable, T(0));
    if (bug_ == "reads_after_overwriting" && x.data == z.data) {
      for (int64_t i = 0; i < n * z.shape.per_sample(); ++i) dx.data[i] *= T(1.5);
    }
    inner_->backward(ctx, params, z, dz, det.data(), x, dx);
    if (bug_ == "gradient_missing" && trainable) {
      const ParamLayout::Entry& last = params.layout->entries().back();
      std::copy_n(&before[last.offset], last.size, params.grads + last.offset);
    }
    if (bug_ == "x_not_rebuilt") {
      for (int64_t r = 0; r < z.shape.pixels(); ++r) x.data[r * x.stride] += T(1e-3);
    }
    if (bug_ == "dx_slightly_off") {
      for (int64_t r = 0; r < z.shape.pixels(); ++r) dx.data[r * dx.stride] *= T(1.0001);
    }
    if (bug_ == "strided_dx_off" && dx.stride > dx.shape.c) dx.data[0] += T(1e-3);
    if (bug_ == "dx_alone_off" && !params.grads) dx.data[0] *= T(1.0001);
    if (bug_ == "context_gradient_off" && params.given.dcontext) params.given.dcontext[0] *= T(1.0001);
    if (bug_ == "nan_in_rebuilt_x") x.data[0] = kNan;
    if (bug_ == "nan_in_dx") dx.data[0] = kNan;
    if (bug_ == "nan_in_gradient" && trainable) params.grads[params.layout->entries().front().offset] = kNan;
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    const int64_t trainable = params.layout->trainable_size();
    const std::vector<T> before(params.grads, params.grads + trainable);
    inner_->inverse_backward(ctx, params, x, dx, dlogdet, z, dz);
    if (bug_ == "inverse_gradient_sign") {
      for (int64_t i = 0; i < trainable; ++i) params.grads[i] = 2 * before[i] - params.grads[i];
    }
    if (bug_ == "known_dz_off" && mode_of(params).known) dz.data[0] *= T(1.0001);
    if (bug_ == "known_gradient_missing" && mode_of(params).known) {
      std::copy(before.begin(), before.end(), params.grads);
    }
    if (bug_ == "dz_slightly_off") {
      for (int64_t r = 0; r < dz.shape.pixels(); ++r) dz.data[r * dz.stride] *= T(1.0001);
    }
  }

  static constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  std::unique_ptr<Layer<T>> inner_;
  std::string_view bug_;
};

Report report_of(const char* bug, bool context = false) {
  const Shape shape{0, 2, 3, 4};
  const auto make = [=](auto t) -> std::unique_ptr<Layer<decltype(t)>> {
    using T = decltype(t);
    auto net = mlp<T>(shape.with_channels(2 + context), 4, {5}, MlpInit::uniform_zero);
    return std::make_unique<Mutant<T>>(
        coupling<T>(shape, Mask::second_half, std::move(net), law_options("glow", true)), bug);
  };
  LayerCase c;
  c.make64 = [=] { return make(double()); };
  c.make32 = [=] { return make(float()); };
  c.context = context;
  return check_layer(c);
}

TEST_CASE("NaN is the largest error, whatever comes after it") {
  double worst = 0;
  for (const double error : {1.0, std::nan(""), 2.0, 0.0}) worst = larger(worst, error);
  CHECK(worst == HUGE_VAL);
  CHECK(larger(larger(0, 3), 2) == 3);
}

TEST_CASE(
    "the harness passes a correct layer, and catches planted bugs by the check that is there for them") {
  CHECK_MESSAGE(report_of("none").empty(), joined(report_of("none")));
  const std::pair<const char*, std::string> bugs[] = {
      {"logdet_sign", "5 log-det against the probed Jacobian"},
      {"logdet_scaled", "5 log-det against differences"},
      {"logdet_overwritten", "1 log-dets are added"},
      {"logdet_of_inverse_missing", "1 log-dets cancel"},
      {"inverse_with_eps", "1 inverse(forward(x))"},
      {"x_not_rebuilt", "2 backward rebuilds x"},
      {"dlogdet_ignored", "4 gradient of layer.dense1.bias"},
      {"dx_slightly_off", "3 dx"},
      {"gradients_overwritten", "6 backward twice"},
      {"gradient_missing", "4 gradient of"},
      {"kept_activations_wrong", "6 kept activations"},
      {"reads_after_overwriting", "7 backward in place"},
      {"single_precision_inside", "1 inverse(forward(x))"},
      {"writes_beyond_its_view", "7 strided views leave"},
      {"float32_inaccurate", "8 float32"},
      {"depends_on_threads", "8 two threads"},
      {"dz_slightly_off", "9 dz of the inverse"},
      {"inverse_gradient_sign", "9 gradient of the inverse by layer.dense1.bias"},
      {"kept_output_off", "6 keeping activations changes no output"},
      {"kept_logdet_off", "6 keeping activations changes no log-det"},
      {"strided_dx_off", "7 strided views of backward, dx"},
      {"dx_alone_off", "6 without parameter gradients"},
      {"known_dz_off", "9 with known z the same dz"},
      {"known_gradient_missing", "9 with known z the same gradients"},
      {"context_gradient_off", "3 gradient of the context"},
      // In the first place: what comes after it must not hide it.
      {"nan_in_output", "1 inverse(forward(x))"},
      {"nan_in_logdet", "1 log-dets cancel"},
      {"nan_in_rebuilt_x", "2 backward rebuilds x"},
      {"nan_in_dx", "3 dx"},
      {"nan_in_gradient", "4 gradient of layer.dense0.weight"}};
  for (const auto& planted : bugs) {
    const std::string& by = planted.second;
    const Report report = report_of(planted.first, by == "3 gradient of the context");
    const bool named = std::any_of(report.begin(), report.end(),
                                   [&](const std::string& line) { return starts_with(line, by); });
    CHECK_MESSAGE(named, planted.first, ": expected check '", by, "' to fail, got:\n", joined(report));
  }
}

}  // namespace
}  // namespace evenflow::test
