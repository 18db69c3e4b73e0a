#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "embedded.hpp"
#include "laws.hpp"

// Densities given numbers.

using namespace evenflow;
using namespace evenflow::test;

namespace {

constexpr int64_t kRows = 9, kContext = 2;

CouplingFlowConfig conditional_table() {
  CouplingFlowConfig config = plain_table();
  config.dims = 5;
  config.couplings = 3;
  config.hidden = {7};
  config.context = kContext;
  return config;
}

/// A trained flow of a context, rows, and what they are given.
template <class T>
struct Conditional {
  template <class Config>
  explicit Conditional(const Config& config, double noise = 0.1, int64_t n = kRows)
      : model(ModelConfig{config, dtype_of<T>(), 0}),
        shape(model.flow.sample_shape().with_batch(n)),
        rows(draws<T>(shape.size(), shape.h > 1 ? 30 : 2, shape.h > 1 ? 128 : 0)),
        given(draws<float>(n * config.context, 30, 100)),
        context(given.begin(), given.end()) {
    Context ctx;
    model.flow.init(model.arena, 5);
    model.flow.init_from_data(ctx, model.arena, x(), Given<T>(context.data()));
    add_noise(model.arena, noise);
  }
  View<const T> x() const { return View<const T>(rows.data(), shape); }

  Trainable<T> model;
  Shape shape;
  std::vector<T> rows;
  std::vector<float> given;
  std::vector<T> context;
};

template <class T, class Config>
void check_model(const Config& config) {
  Conditional<T> c(config, 0.05);
  const Flow<T>& flow = c.model.flow;
  const Given<T> given(c.context.data());
  Context ctx;
  std::vector<double> wanted(kRows), got(kRows);
  std::vector<T> drawn(c.rows.size()), sampled(drawn);
  flow.log_prob(ctx, c.model.arena, c.x(), given, wanted.data());
  flow.sample(ctx, c.model.arena, 4, 0.7, 11, given, View<T>(drawn.data(), c.shape));

  const Model model(std::move(c.model));
  CHECK(model.context() == kContext);
  CHECK(to_json(parse_config(model.config())) == model.config());
  CallOptions options;
  options.context = c.given.data();
  options.seed = 11;
  options.first = 4;
  options.temperature = 0.7;
  model.log_prob(ctx, c.rows.data(), kRows, got.data(), options);
  CHECK(got == wanted);
  model.sample(ctx, kRows, sampled.data(), options);
  CHECK(sampled == drawn);
  for (int64_t i = 0; i < kRows; ++i) {
    options.context = c.given.data() + i * kContext;
    model.log_prob(ctx, c.rows.data() + i * model.dims(), 1, got.data(), options);
    CHECK(got[0] == wanted[static_cast<size_t>(i)]);
  }
  options.context = c.given.data();
  CHECK(model.verify(ctx, c.rows.data(), kRows, options).ok);
  model.encode(ctx, c.rows.data(), kRows, drawn.data(), options);
  model.decode(ctx, drawn.data(), kRows, sampled.data(), options);
  for (size_t i = 0; i < sampled.size(); ++i) CHECK(sampled[i] == doctest::Approx(c.rows[i]).epsilon(1e-4));
}

}  // namespace

TEST_CASE_TEMPLATE("a model given numbers: the flow's bits, by rows and by blocks", T, float, double) {
  check_model<T>(conditional_table());
  GlowConfig glow;
  glow.shape = {0, 4, 6, 2};
  glow.levels = 1;
  glow.steps = 2;
  glow.hidden = 5;
  glow.context = kContext;
  check_model<T>(glow);
}

TEST_CASE("contexts that a model refuses") {
  Conditional<float> c(conditional_table());
  const Model model(std::move(c.model)), plain(initialised<float>(table()));
  Context ctx;
  std::vector<double> context(c.given.begin(), c.given.end()), out(kRows);
  CallOptions options;
  const auto refused = [&](auto error, const char* text, const Model& by) {
    const auto score = [&] { by.log_prob(ctx, c.rows.data(), kRows, out.data(), options); };
    CHECK_THROWS_WITH_AS(score(), text, decltype(error));
  };
  refused(ConfigError(""), "[log_prob] expected a context of 2 numbers a row, got none", model);
  options.context = context.data();
  refused(ConfigError(""), "[log_prob] a context was given, but the model has none", plain);
  context[5] = HUGE_VAL;
  refused(NumericError(""), "[log_prob] expected a finite context, got inf in row 2, number 1", model);
  context[5] = 1e300;
  refused(NumericError(""), "[log_prob] expected a context that float32 holds, got 1e+300 in row 2, number 1",
          model);
  context[5] = 1e-47;
  CHECK_NOTHROW(model.log_prob(ctx, c.rows.data(), kRows, out.data(), options));
}

// The sanitizers watch what lies behind scratch arrays: nothing may be as long as one number of the context.
TEST_CASE_TEMPLATE("a wide context: rows one by one as together, and their gradients", T, float, double) {
  constexpr int64_t kWide = 100, kMany = 40;
  CouplingFlowConfig config = conditional_table();
  config.dims = 2;
  config.context = kWide;
  Conditional<T> c(config, 0.1, kMany);
  Trainable<T>& model = c.model;
  Context ctx;
  std::vector<T> dx(c.rows), by(c.context), dx_one(2), by_one(kWide);
  const std::vector<T> before(model.arena.values(), model.arena.values() + model.flow.layout()->total_size());
  for (int64_t n = 1; n <= kMany; ++n) {
    std::vector<double> together(static_cast<size_t>(n)), alone(1);
    const auto score = [&](int64_t first, int64_t count, T* gradient, std::vector<double>& out, T* to) {
      const Given<T> given(c.context.data() + first * kWide, gradient);
      model.flow.log_prob_and_grad(ctx, model.arena, View<const T>(&c.rows[first * 2], {count, 1, 1, 2}),
                                   given, out.data(), View<T>(to, {count, 1, 1, 2}));
    };
    score(0, n, by.data(), together, dx.data());
    score(n - 1, 1, by_one.data(), alone, dx_one.data());
    CHECK(together.back() == alone[0]);
    CHECK(std::equal(by_one.begin(), by_one.end(), by.begin() + (n - 1) * kWide));
  }
  CHECK(std::equal(before.begin(), before.end(), model.arena.values()));
}

TEST_CASE("flows whose layers want another context than they have are refused") {
  const auto context_of = [](int64_t inputs, int64_t context) {
    const Shape in{0, 1, 1, 4};
    Flow<float> flow(in, Base::gaussian);
    flow.set_context(context);
    auto net = mlp<float>(in.with_channels(inputs), 2, {3}, MlpInit::nice);
    flow.add("coupling", additive_coupling<float>(in, Mask::second_half, std::move(net)));
    flow.finalize();
    return flow.context();
  };
  CHECK(context_of(3, 1) == 1);
  CHECK(context_of(2, 3) == 3);  // the layer reads none
  CHECK_THROWS_WITH_AS(context_of(3, 0), doctest::Contains("a context of 0, got one for 1"), ShapeError);
  CHECK_THROWS_WITH_AS(context_of(4, 3), doctest::Contains("a context of 3, got one for 2"), ShapeError);
  CHECK_THROWS_AS(context_of(1, 3), ShapeError);
  CHECK_THROWS_AS(context_of(4, -1), ConfigError);
}

TEST_CASE("the drift behind a standardising layer where latents leave the chain there") {
  const Shape in{0, 1, 1, 4}, rest{0, 1, 1, 2};
  Flow<double> flow(in, Base::gaussian);
  flow.add("preprocess", standardize<double>(in));
  flow.factor_out(2);
  flow.add("coupling", additive_coupling<double>(rest, Mask::second_half,
                                                 mlp<double>(rest.with_channels(1), 1, {3}, MlpInit::nice)));
  flow.finalize();
  ParamArena<double> arena(flow.layout());
  flow.init(arena, 1);
  Context ctx;
  const std::vector<double> rows = draws<double>(64 * 4, 3, 5);
  const View<const double> x(rows.data(), {64, 1, 1, 4});
  flow.init_from_data(ctx, arena, x);
  const auto small = [](double drift) { return drift > 0 && drift < 1e-12; };  // 0: nobody looked
  CHECK(small(flow.loss_and_grad(ctx, arena, x, nullptr, -1).drift.value));
  std::vector<double> z(rows.size()), back(z), dx(z), det(64);
  flow.forward(ctx, arena, x, nullptr, z.data(), det.data());
  const View<double> rebuilt(back.data(), x.shape), gradient(dx.data(), x.shape);
  CHECK(small(flow.backward(ctx, arena, z.data(), z.data(), det.data(), nullptr, rebuilt, gradient, x)));
  CHECK_THROWS_AS(flow.backward(ctx, arena, z.data(), z.data(), det.data(), nullptr, rebuilt, gradient,
                                View<const double>(rows.data(), {63, 1, 1, 4})),
                  ShapeError);
}
