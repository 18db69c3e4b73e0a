#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "arenas.hpp"
#include "check_layer.hpp"

// Batches that go by tiles: what a repeated pass leaves, and what each row of them is given.

namespace evenflow::test {
namespace {

/// Channel 0 grows by e^log_scale, is mixed into the others and shrinks: where it is not zero, float32 loses
/// the others beside it, and a pass is repeated from its inputs.
template <class T>
struct Stretched {
  /// A class head comes after that many layers; 0: there is none.
  explicit Stretched(T log_scale, size_t head_after = 0) : flow({0, 1, 1, 4}, Base::gaussian) {
    const Shape shape = flow.sample_shape();
    size_t layers = 0;
    const auto add = [&](const char* name, std::unique_ptr<Layer<T>> layer) {
      flow.add(name, std::move(layer));
      if (++layers == head_after) flow.classify(3, 0.5);
    };
    add("up", scaling<T>(shape));
    add("mix", plain_conv1x1<T>(shape));
    add("down", scaling<T>(shape));
    flow.finalize();
    arena = std::make_unique<ParamArena<T>>(flow.layout());
    flow.init(*arena, 1);
    tensor(*arena, "initialized")[0] = T(1);
    tensor(*arena, "up.logs")[0] = log_scale;
    tensor(*arena, "down.logs")[0] = -log_scale;
    if (!head_after) return;
    const Values<T> weight = tensor(*arena, "class_head.weight");
    for (int64_t i = 0; i < weight.size; ++i) weight[i] = T(1e-6) * static_cast<T>(i * i % 7);
  }

  StepResult pass(const std::vector<T>& x) {
    const Shape shape{static_cast<int64_t>(x.size()) / 4, 1, 1, 4};
    std::vector<int32_t> labels;  // of the head
    for (int32_t i = 0; i < shape.n; ++i) labels.push_back(i % 3);
    return flow.loss_and_grad(ctx, *arena, View<const T>(x.data(), shape), labels.data(), -1);
  }
  /// To read: who could write gradients would make them unknown.
  std::vector<double> grads() const {
    const T* from = static_cast<const ParamArena<T>&>(*arena).grads();
    return std::vector<double>(from, from + flow.layout()->trainable_size());
  }
  double norm() { return clip_grad_norm(ctx, *arena, 0); }

  Context ctx{"cpu", 1};
  Flow<T> flow;
  std::unique_ptr<ParamArena<T>> arena;
};

/// Rows whose channel 0 is zero before row `first`.
std::vector<double> rows(int64_t n, int64_t first) {
  std::vector<double> x = random_values(4 * n, 4, -1, 1);
  for (int64_t i = 0; i < first; ++i) x[static_cast<size_t>(4 * i)] = 0;
  return x;
}

double norm_of(const std::vector<double>& values) {
  return std::sqrt(std::inner_product(values.begin(), values.end(), values.begin(), 0.0));
}

/// The step of float32 numbers against the same one of float64 numbers, which needs no guard. `before` is
/// what the gradients are added to.
void check_repeated(int64_t n, int64_t first, size_t head_after = 0, float before = 0) {
  CAPTURE(n);
  CAPTURE(head_after);
  Stretched<float> s(13, head_after);
  Stretched<double> exact(13, head_after);
  const std::vector<double> wide = rows(n, first);
  const std::vector<float> x(wide.begin(), wide.end());
  const std::vector<double> same(x.begin(), x.end());
  const float* values = s.arena->values();
  std::copy(values, values + s.flow.layout()->total_size(), exact.arena->values());
  if (before != 0) std::fill_n(s.arena->grads(), s.flow.layout()->trainable_size(), before);
  const StepResult repeated = s.pass(x);
  CHECK(repeated.drift.fallback);
  CHECK(repeated.drift.value > 1e-3);
  CHECK_FALSE(repeated.drift.layer.empty());
  CHECK_FALSE(exact.pass(same).drift.fallback);
  const std::vector<double> got = s.grads(), wanted = exact.grads();
  for (const ParamLayout::Entry& e : s.flow.layout()->entries()) {  // gradients of very different sizes
    CAPTURE(e.name);
    double error = 0, largest = 0;
    for (size_t i = e.offset; e.group != Group::fixed && i < static_cast<size_t>(e.offset + e.size); ++i) {
      error = larger(error, std::abs(got[i] - static_cast<double>(before) - wanted[i]));
      largest = std::max(largest, std::abs(wanted[i]));
    }
    CHECK(error <= 1e-3 * largest);
  }
  CHECK(s.norm() == doctest::Approx(norm_of(got)).epsilon(1e-12));

  // The gradient by x needs no inverse.
  const Shape shape{n, 1, 1, 4};
  std::vector<float> dx(x.size());
  std::vector<double> exact_dx(x.size()), density(static_cast<size_t>(n));
  s.flow.log_prob_and_grad(s.ctx, *s.arena, {x.data(), shape}, nullptr, density.data(), {dx.data(), shape});
  exact.flow.log_prob_and_grad(exact.ctx, *exact.arena, {same.data(), shape}, nullptr, density.data(),
                               {exact_dx.data(), shape});
  double error = 0, largest = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error = larger(error, std::abs(dx[i] - exact_dx[i]));
    largest = std::max(largest, std::abs(exact_dx[i]));
  }
  CHECK(error <= 1e-3 * largest);
}

TEST_CASE("a pass that is repeated leaves its own gradient alone, whichever tile it is repeated for") {
  check_repeated(8, 0);
  check_repeated(8, 0, 0, 0.25f);
  check_repeated(300, 250);
  for (const size_t head_after : {1, 2, 3}) check_repeated(8, 0, head_after);  // with a class head's
}

TEST_CASE("the drift guard is quiet on a sound flow, and names a layer that float32 can't invert") {
  const std::vector<double> wide = rows(8, 0);
  const std::vector<float> x(wide.begin(), wide.end());
  Stretched<float> s(0.5f);
  const Drift quiet = s.pass(x).drift;
  CHECK_FALSE(quiet.fallback);
  CHECK(quiet.value > 0);
  CHECK(quiet.value < 1e-4);
  CHECK(quiet.layer_value == 0);
  std::fill_n(s.arena->grads(), s.flow.layout()->trainable_size(), 0.25f);
  const std::vector<double> before = s.grads();
  const Values<float> weight = tensor(*s.arena, "mix.weight");
  for (int64_t i = 0; i < weight.size; ++i) weight[i] = i % 5 ? 1.0f : 1.0f + 1e-6f;
  CHECK_THROWS_WITH_AS(s.pass(x), doctest::Contains("got layer mix"), NumericError);
  CHECK(s.grads() == before);
}

TEST_CASE("a sample's weight is finite and not negative") {
  Stretched<double> s(0);
  const std::vector<double> x = rows(3, 0);
  const View<const double> batch(x.data(), {3, 1, 1, 4});
  double weights[] = {1, 0, 0};
  Given<double> given;
  given.sample_weight = weights;
  CHECK(s.flow.loss_and_grad(s.ctx, *s.arena, batch, given, -1).loss > 0);
  weights[2] = -1;
  CHECK_THROWS_WITH_AS(s.flow.loss_and_grad(s.ctx, *s.arena, batch, given, -1),
                       doctest::Contains("sample weights >= 0, got -1 for sample 2"), ConfigError);
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    weights[2] = bad;
    CHECK_THROWS_AS(s.flow.loss_and_grad(s.ctx, *s.arena, batch, given, -1), NumericError);
  }
}

TEST_CASE("an arena whose gradients are zeroed has none of the norm that was known") {
  Stretched<double> s(0);
  s.pass(rows(300, 0));
  CHECK(s.norm() == doctest::Approx(norm_of(s.grads())).epsilon(1e-12));
  zero_grad(s.ctx, *s.arena);
  CHECK(s.norm() == 0);
}

/// A class head, of this weight, keeps a batch from going by tiles.
void check_labels_of_rows(double class_weight) {
  GlowConfig config;
  config.shape = {0, 4, 4, 2};
  config.levels = 2;
  config.steps = 1;
  config.hidden = 4;
  config.classes = 3;
  config.class_weight = class_weight;
  const Flow<double> flow = glow<double>(config);
  ParamArena<double> arena(flow.layout());
  Context ctx("cpu", 1);
  const Shape shape{300, 4, 4, 2};
  const int64_t n = shape.n, d = flow.dims();
  const std::vector<double> x = random_values(n * d, 4, 0, 255), latents = random_values(n * d, 5, -1, 1);
  const View<const double> batch(x.data(), shape);
  std::vector<int32_t> labels;
  for (int32_t i = 0; i < n; ++i) labels.push_back(i % 7 % 3);
  flow.init(arena, 1);
  flow.init_from_data(ctx, arena, batch);
  add_noise(arena, 0.1);
  std::vector<double> density(static_cast<size_t>(n)), logdet(density), back(x.size()), row(back),
      classes(3 * density.size());
  flow.log_prob(ctx, arena, batch, labels.data(), density.data());
  if (class_weight > 0) flow.class_log_prob(ctx, arena, batch, classes.data());
  flow.inverse(ctx, arena, latents.data(), n, labels.data(), View<double>(back.data(), shape), logdet.data());
  double nll = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Shape one = shape.with_batch(1);
    const View<const double> image(&x[i * d], one);
    double alone, det;
    flow.log_prob(ctx, arena, image, &labels[i], &alone);
    CHECK(density[i] == alone);
    nll -= alone / static_cast<double>(n);
    flow.inverse(ctx, arena, &latents[i * d], 1, &labels[i], View<double>(row.data(), one), &det);
    CHECK(std::equal(row.begin(), row.begin() + d, &back[i * d]));
  }
  CHECK(flow.loss_and_grad(ctx, arena, batch, labels.data(), -1).nll == doctest::Approx(nll).epsilon(1e-12));

  if (class_weight == 0) return;
  for (int64_t i = 0; i < n; ++i) {
    double of[3];
    flow.class_log_prob(ctx, arena, View<const double>(&x[i * d], shape.with_batch(1)), of);
    CHECK(std::equal(of, of + 3, &classes[3 * i]));
    CHECK(std::exp(of[0]) + std::exp(of[1]) + std::exp(of[2]) == doctest::Approx(1).epsilon(1e-12));
  }
  ctx.set_first_row(40);
  tensor(arena, "class_head.bias").fill(HUGE_VAL);
  CHECK_THROWS_WITH_AS(flow.class_log_prob(ctx, arena, batch, classes.data()),
                       doctest::Contains("got nan from layer class_head, channel 0, for sample 40"),
                       NumericError);
  tensor(arena, "level0.step0.actnorm.logs")[1] = HUGE_VAL;
  CHECK_THROWS_WITH_AS(flow.class_log_prob(ctx, arena, batch, classes.data()),
                       doctest::Contains("from layer level0.step0.actnorm, channel 1, for sample 40"),
                       NumericError);
}

TEST_CASE("a row has its label in any tile") {
  check_labels_of_rows(0);
  check_labels_of_rows(0.1);
}

TEST_CASE("an error of a training step names it, whether the batch goes by tiles or not") {
  for (const size_t head_after : {0, 2}) {
    Stretched<double> s(0, head_after);
    Optimizer<double> optimizer(s.flow.layout(), {});
    std::vector<double> x = rows(6, 0);
    const std::vector<int32_t> labels(6);
    const auto step = [&](int64_t n) {
      s.flow.train_step(s.ctx, *s.arena, View<const double>(x.data(), {n, 1, 1, 4}), labels.data(), -1,
                        {optimizer});
    };
    step(6);
    CHECK_THROWS_WITH_AS(step(0), doctest::Contains("[train_step] expected at least one sample"), ShapeError);
    x[4] = HUGE_VAL;
    const std::string text = "expected finite inputs, got inf in channel 0 of sample 1";
    CHECK_THROWS_WITH_AS(step(6), ("[train_step] " + text).c_str(), NumericError);
    CHECK_THROWS_WITH_AS(s.pass(x), ("[loss_and_grad] " + text).c_str(), NumericError);
  }
}

TEST_CASE("a flow takes no other model's parameters") {
  Stretched<double> own(0), other(0, 2);  // which also has a class head
  const std::vector<double> x = rows(6, 0);
  std::vector<double> z(24), logdet(6);
  const View<const double> batch(x.data(), {6, 1, 1, 4});
  const doctest::Contains text("expected the parameters of this flow, ");
  for (const bool init : {false, true}) {
    own.flow.init(*own.arena, 1);
    if (init) own.flow.init_from_data(own.ctx, *own.arena, batch);
    const auto refused = [&](const auto& call) {
      CHECK_THROWS_WITH_AS(call(*other.arena), text, ConfigError);
    };
    refused([&](auto& a) { own.flow.forward(own.ctx, a, batch, nullptr, z.data(), logdet.data()); });
    refused([&](auto& a) { own.flow.log_prob(own.ctx, a, batch, nullptr, logdet.data()); });
    refused([&](auto& a) { own.flow.loss_and_grad(own.ctx, a, batch, nullptr, -1); });
    refused([&](auto& a) { own.flow.init_from_data(own.ctx, a, batch); });
  }
}

}  // namespace
}  // namespace evenflow::test
