#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "check_layer.hpp"
#include "plain_table.hpp"

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
    for (const ParamLayout::Entry& e : flow.layout()->entries()) {
      T* value = arena->values() + e.offset;
      if (e.name == "initialized") value[0] = T(1);
      if (e.name == "up.logs") value[0] = log_scale;
      if (e.name == "down.logs") value[0] = -log_scale;
      if (e.name == "class_head.weight") {
        for (int64_t i = 0; i < e.size; ++i) value[i] = T(1e-6) * static_cast<T>(i * i % 7);
      }
    }
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
  double square = 0;
  for (const double v : values) square += v * v;
  return std::sqrt(square);
}

/// The step of float32 numbers against the same one of float64 numbers, which needs no guard.
void check_repeated(int64_t n, int64_t first, size_t head_after = 0) {
  CAPTURE(n);
  CAPTURE(head_after);
  Stretched<float> s(13, head_after);
  Stretched<double> exact(13, head_after);
  const std::vector<float> x = [&] {
    const std::vector<double> wide = rows(n, first);
    return std::vector<float>(wide.begin(), wide.end());
  }();
  const float* values = s.arena->values();
  std::copy(values, values + s.flow.layout()->total_size(), exact.arena->values());
  CHECK(s.pass(x).drift.fallback);
  CHECK_FALSE(exact.pass(std::vector<double>(x.begin(), x.end())).drift.fallback);
  const std::vector<double> got = s.grads(), wanted = exact.grads();
  for (const ParamLayout::Entry& e : s.flow.layout()->entries()) {  // gradients of very different sizes
    CAPTURE(e.name);
    double error = 0, largest = 0;
    for (size_t i = e.offset; e.group != Group::fixed && i < static_cast<size_t>(e.offset + e.size); ++i) {
      error = larger(error, std::abs(got[i] - wanted[i]));
      largest = std::max(largest, std::abs(wanted[i]));
    }
    CHECK(error <= 1e-3 * largest);
  }
  CHECK(s.norm() == doctest::Approx(norm_of(got)).epsilon(1e-12));
}

}  // namespace

TEST_CASE("a pass that is repeated leaves its own gradient alone, whichever tile it is repeated for") {
  check_repeated(8, 0);
  check_repeated(300, 250);
}

TEST_CASE("a pass that is repeated has the gradient of a class head, wherever that is") {
  for (const size_t head_after : {1, 2, 3}) check_repeated(8, 0, head_after);
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
                       "[loss_and_grad] expected sample weights >= 0, got -1 for sample 2", ConfigError);
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    weights[2] = bad;
    Optimizer<double> optimizer(s.flow.layout(), OptimizerConfig());
    CHECK_THROWS_AS(s.flow.train_step(s.ctx, *s.arena, batch, given, -1, {optimizer}), NumericError);
  }
}

TEST_CASE("an arena whose gradients are zeroed has none of the norm that was known") {
  Stretched<double> s(0);
  s.pass(rows(300, 0));
  CHECK(s.norm() == doctest::Approx(norm_of(s.grads())).epsilon(1e-12));
  zero_grad(s.ctx, *s.arena);
  CHECK(s.norm() == 0);
}

TEST_CASE("a row has its label in any tile") {
  GlowConfig config;
  config.shape = {0, 4, 4, 2};
  config.levels = 2;
  config.steps = 1;
  config.hidden = 4;
  config.classes = 3;
  const Flow<double> flow = glow<double>(config);
  ParamArena<double> arena(flow.layout());
  Context ctx("cpu", 1);
  const Shape shape{300, 4, 4, 2};
  const int64_t n = shape.n, d = flow.dims();
  const std::vector<double> x = random_values(n * d, 4, 0, 255);
  std::vector<int32_t> labels;
  for (int32_t i = 0; i < n; ++i) labels.push_back(i % 7 % 3);
  flow.init(arena, 1);
  flow.init_from_data(ctx, arena, View<const double>(x.data(), shape));
  Rng rng(4, Stream::test);
  for (int64_t i = 0; i < flow.layout()->trainable_size(); ++i) arena.values()[i] += 0.1 * rng.normal();

  std::vector<double> density(static_cast<size_t>(n)), z(x.size()), back(x.size()),
      row(static_cast<size_t>(d));
  flow.log_prob(ctx, arena, View<const double>(x.data(), shape), labels.data(), density.data());
  const std::vector<double> latents = random_values(n * d, 5, -1, 1);
  flow.inverse(ctx, arena, latents.data(), n, labels.data(), View<double>(back.data(), shape), z.data());
  double nll = 0;
  for (int64_t i = 0; i < n; ++i) {
    double alone, logdet;
    flow.log_prob(ctx, arena, View<const double>(&x[i * d], shape.with_batch(1)), &labels[i], &alone);
    CHECK(density[i] == alone);
    nll -= alone / static_cast<double>(n);
    flow.inverse(ctx, arena, &latents[i * d], 1, &labels[i], View<double>(row.data(), shape.with_batch(1)),
                 &logdet);
    CHECK(std::equal(row.begin(), row.end(), &back[i * d]));
  }
  const View<const double> batch(x.data(), shape);
  CHECK(flow.loss_and_grad(ctx, arena, batch, labels.data(), -1).nll == doctest::Approx(nll).epsilon(1e-12));
}

TEST_CASE("log-probabilities of classes are finite, or an error says which are not") {
  const Shape shape{0, 1, 1, 2};
  Flow<float> flow(shape, Base::gaussian);
  flow.add("first", scaling<float>(shape));
  flow.classify(3, 0.5);
  flow.add("second", scaling<float>(shape));
  flow.finalize();
  ParamArena<float> arena(flow.layout());
  flow.init(arena, 1);
  const auto set = [&](const char* name, float value) {
    for (const ParamLayout::Entry& e : flow.layout()->entries()) {
      if (e.name == name) std::fill_n(arena.values() + e.offset, e.size, value);
    }
  };
  set("initialized", 1);
  Context ctx("cpu", 1);
  const RowsScope counted(ctx, 40);
  const auto error = [&](const std::vector<float>& x) -> std::string {
    double out[6];
    try {
      flow.class_log_prob(ctx, arena, View<const float>(x.data(), shape.with_batch(2)), out);
    } catch (const NumericError& e) {
      return e.what();
    }
    CHECK(out[5] == doctest::Approx(-std::log(3.0)));
    return "";
  };
  const std::vector<float> large = {1, 2, 3, 3e38F};
  set("second.logs", 200);  // the head sees nothing of it
  CHECK(error(large).empty());
  CHECK(error({1, 2, std::nanf(""), 4}) ==
        "[class_log_prob] expected finite inputs, got nan in channel 0 of sample 41");
  set("first.logs", 0.5F);
  CHECK(error(large) ==
        "[class_log_prob] expected finite values, got inf from layer first, channel 1, for sample 41");
  set("class_head.bias", HUGE_VALF);
  CHECK(error({1, 2, 3, 4}) ==
        "[class_log_prob] expected finite values, got nan from layer class_head, channel 0, for sample 40");
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
    CHECK_THROWS_WITH_AS(step(0), "[train_step] expected at least one sample, got an empty batch",
                         ShapeError);
    x[4] = HUGE_VAL;
    CHECK_THROWS_WITH_AS(step(6), "[train_step] expected finite inputs, got inf in channel 0 of sample 1",
                         NumericError);
    CHECK_THROWS_WITH_AS(
        s.pass(x), "[loss_and_grad] expected finite inputs, got inf in channel 0 of sample 1", NumericError);
  }
}

TEST_CASE("an error of a model's bits a dimension names that call") {
  CouplingFlowConfig config = plain_table();
  config.dims = 4;
  config.couplings = 2;
  config.hidden = {4};
  Trainable<double> trained(ModelConfig{config, Dtype::float64, 3});
  Context ctx("cpu", 1);
  std::vector<double> x = rows(6, 0);
  trained.flow.init_from_data(ctx, trained.arena, View<const double>(x.data(), {6, 1, 1, 4}));
  const Model model(std::move(trained));
  double bits[6], density[6];
  model.bits_per_dim(ctx, x.data(), 6, bits);
  model.log_prob(ctx, x.data(), 6, density);
  for (size_t i = 0; i < 6; ++i) CHECK(bits[i] == doctest::Approx(-density[i] / (4 * std::log(2.0))));
  CHECK_THROWS_WITH_AS(model.bits_per_dim(ctx, x.data(), 0, bits),
                       "[bits_per_dim] expected at least one sample, got 0", ShapeError);
  x[5] = 1e300;
  CHECK_THROWS_WITH_AS(model.bits_per_dim(ctx, x.data(), 6, bits),
                       doctest::Contains("[bits_per_dim] expected "), NumericError);
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), 6, bits), doctest::Contains("[log_prob] expected "),
                       NumericError);
}

TEST_CASE("a flow takes no other model's parameters") {
  const auto flow_of = [](int64_t dims) {
    CouplingFlowConfig config = plain_table();
    config.dims = dims;
    config.couplings = 2;
    config.hidden = {4};
    return Trainable<double>(ModelConfig{config, Dtype::float64, 3});
  };
  Trainable<double> small = flow_of(4), large = flow_of(6);
  Context ctx("cpu", 1);
  const std::vector<double> x = rows(6, 0);
  std::vector<double> z(24), logdet(6);
  const View<const double> batch(x.data(), {6, 1, 1, 4});
  for (const bool init : {false, true}) {
    if (init) small.flow.init_from_data(ctx, small.arena, batch);
    CHECK_THROWS_WITH_AS(small.flow.forward(ctx, large.arena, batch, nullptr, z.data(), logdet.data()),
                         doctest::Contains("[forward] expected the parameters of this flow, "), ConfigError);
    CHECK_THROWS_WITH_AS(small.flow.log_prob(ctx, large.arena, batch, nullptr, logdet.data()),
                         doctest::Contains("[log_prob] expected the parameters of this flow, "), ConfigError);
    CHECK_THROWS_WITH_AS(small.flow.loss_and_grad(ctx, large.arena, batch, nullptr, -1),
                         doctest::Contains("[loss_and_grad] expected the parameters of"), ConfigError);
    CHECK_THROWS_AS(small.flow.init_from_data(ctx, large.arena, batch), ConfigError);
  }
  small.flow.log_prob(ctx, small.arena, batch, nullptr, logdet.data());
}

TEST_CASE("a density that is too small is named by its row") {
  CouplingFlowConfig config = plain_table();
  config.dims = 4;
  config.couplings = 2;
  config.hidden = {4};
  config.preprocess = "none";
  Trainable<double> model(ModelConfig{config, Dtype::float64, 3});
  Context ctx("cpu", 1);
  ctx.set_first_row(100);
  std::vector<double> x = rows(6, 0), log_prob(6);
  model.flow.init_from_data(ctx, model.arena, View<const double>(x.data(), {6, 1, 1, 4}));
  x[4 * 4 + 1] = 1e200;
  CHECK_THROWS_WITH_AS(model.flow.log_prob(ctx, model.arena, View<const double>(x.data(), {6, 1, 1, 4}),
                                           nullptr, log_prob.data()),
                       doctest::Contains("too large for the base distribution, for sample 104"),
                       NumericError);
}

}  // namespace evenflow::test
