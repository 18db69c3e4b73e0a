#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "embedded.hpp"
#include "evenflow/evenflow.h"

// Densities given numbers, through the interfaces that an application links.

using namespace evenflow;
using namespace evenflow::test;

namespace {

constexpr int64_t kRows = 9, kDims = 5, kContext = 2;

/// A trained flow of a context, rows, and what they are given.
template <class T>
struct Conditional {
  Conditional() : rows(kRows * kDims), context(kRows * kContext), model(config()) {
    Rng rng(3, Stream::test);
    for (T& v : rows) v = static_cast<T>(2 * rng.normal());
    for (double& v : context) v = static_cast<float>(100 + 30 * rng.normal());
    given.assign(context.begin(), context.end());
    model.flow.init(model.arena, 5);
    Context ctx;
    const View<const T> x(rows.data(), {kRows, 1, 1, kDims});
    model.flow.init_from_data(ctx, model.arena, x, Given<T>(given.data()));
    for (int64_t i = 0; i < model.flow.layout()->trainable_size(); ++i) {
      model.arena.values()[i] += static_cast<T>(0.1 * rng.normal());
    }
  }

  static ModelConfig config() {
    RealNvpTableConfig table;
    table.dims = kDims;
    table.couplings = 3;
    table.hidden = {7};
    table.context = kContext;
    return {table, dtype_of<T>(), 0};
  }

  std::vector<T> rows;
  std::vector<double> context;
  std::vector<T> given;
  Trainable<T> model;
};

}  // namespace

TEST_CASE_TEMPLATE("a model given numbers: the flow's bits, by rows and by blocks", T, float, double) {
  Conditional<T> c;
  Context ctx;
  std::vector<double> wanted(kRows), got(kRows);
  std::vector<T> drawn(kRows * kDims), sampled(drawn);
  const View<const T> x(c.rows.data(), {kRows, 1, 1, kDims});
  c.model.flow.log_prob(ctx, c.model.arena, x, Given<T>(c.given.data()), wanted.data());
  c.model.flow.sample(ctx, c.model.arena, 4, 0.7, 11, Given<T>(c.given.data()),
                      View<T>(drawn.data(), {kRows, 1, 1, kDims}));

  const Model model(std::move(c.model));
  CHECK(model.context() == kContext);
  CHECK(parse_config(model.config()).model.index() == 2);
  CHECK(to_json(parse_config(model.config())) == model.config());
  CallOptions options;
  options.context = c.context.data();
  options.seed = 11;
  options.first = 4;
  options.temperature = 0.7;
  model.log_prob(ctx, c.rows.data(), kRows, got.data(), options);
  CHECK(got == wanted);
  model.sample(ctx, kRows, sampled.data(), options);
  CHECK(sampled == drawn);
  for (int64_t i = 0; i < kRows; ++i) {
    options.context = c.context.data() + i * kContext;
    model.log_prob(ctx, c.rows.data() + i * kDims, 1, got.data(), options);
    CHECK(got[0] == wanted[static_cast<size_t>(i)]);
  }
  options.context = c.context.data();
  CHECK(model.verify(ctx, c.rows.data(), kRows, options).ok);

  std::vector<T> z(kRows * kDims), back(z);
  model.encode(ctx, c.rows.data(), kRows, z.data(), options);
  model.decode(ctx, z.data(), kRows, back.data(), options);
  for (size_t i = 0; i < back.size(); ++i) CHECK(back[i] == doctest::Approx(c.rows[i]).epsilon(1e-4));

  c.context[5] = HUGE_VAL;
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, c.rows.data(), kRows, got.data(), options),
                       "[log_prob] expected a finite context, got inf in row 2, number 1", NumericError);
  options.context = nullptr;
  CHECK_THROWS_WITH_AS(model.sample(ctx, kRows, sampled.data(), options),
                       "[sample] expected a context of 2 numbers a row, got none", ConfigError);
  const Model plain(initialised<T>(table()));
  options.context = c.context.data();
  CHECK_THROWS_WITH_AS(plain.sample(ctx, 1, sampled.data(), options),
                       "[sample] expected no context, since the model has none, got one", ConfigError);
}

TEST_CASE("a training step given numbers: the gradient by them, on tiles and as a whole") {
  Conditional<double> c;
  Context ctx;
  const View<const double> x(c.rows.data(), {kRows, 1, 1, kDims});
  std::vector<double> gradient(c.given.size()), passed(gradient), dx(c.rows.size()), log_prob(kRows);
  const Given<double> given(c.given.data(), gradient.data());
  c.model.flow.loss_and_grad(ctx, c.model.arena, x, given, -1);
  c.model.flow.log_prob_and_grad(ctx, c.model.arena, x, Given<double>(c.given.data(), passed.data()),
                                 log_prob.data(), View<double>(dx.data(), x.shape));
  const auto loss = [&](size_t i, double step) {
    std::vector<double> at = c.given, density(kRows);
    at[i] += step;
    c.model.flow.log_prob(ctx, c.model.arena, x, Given<double>(at.data()), density.data());
    double sum = 0;
    for (const double v : density) sum -= v / kRows;
    return sum;
  };
  for (size_t i = 0; i < gradient.size(); ++i) {
    CHECK(gradient[i] == doctest::Approx((loss(i, 1e-5) - loss(i, -1e-5)) / 2e-5).epsilon(1e-5));
    CHECK(gradient[i] == doctest::Approx(-passed[i] / kRows).epsilon(1e-12));
  }
}

TEST_CASE("C: a context in the options, and structs from before it") {
  Conditional<float> c;
  Context ctx;
  std::vector<double> wanted(kRows), got(kRows);
  const View<const float> x(c.rows.data(), {kRows, 1, 1, kDims});
  c.model.flow.log_prob(ctx, c.model.arena, x, Given<float>(c.given.data()), wanted.data());
  const TemporaryFile file("context.safetensors");
  save(file.path, c.model);
  evenflow_model* model = nullptr;
  evenflow_context* context = nullptr;
  REQUIRE(evenflow_load(file.path.c_str(), &model) == EVENFLOW_OK);
  REQUIRE(evenflow_context_create(1, &context) == EVENFLOW_OK);
  evenflow_info info = EVENFLOW_INFO_INIT;
  CHECK(evenflow_model_get_info(model, &info) == EVENFLOW_OK);
  CHECK(info.context == kContext);
  evenflow_options options = EVENFLOW_OPTIONS_INIT;
  options.context = c.context.data();
  const auto score = [&] {
    return evenflow_log_prob(model, context, EVENFLOW_FLOAT32, c.rows.data(), kRows, &options, got.data());
  };
  CHECK(score() == EVENFLOW_OK);
  CHECK(got == wanted);
  options.struct_size = offsetof(evenflow_options, context);
  CHECK(score() == EVENFLOW_CONFIG_ERROR);
  CHECK(std::string(evenflow_last_error()) == "[log_prob] expected a context of 2 numbers a row, got none");
  info.struct_size = offsetof(evenflow_info, context);
  info.context = -1;
  CHECK(evenflow_model_get_info(model, &info) == EVENFLOW_OK);
  CHECK(info.context == -1);
  evenflow_context_free(context);
  evenflow_model_free(model);
}

TEST_CASE("flows whose layers want another context than they have are refused") {
  const Shape in{0, 1, 1, 4};
  const auto flow_of = [&](int64_t inputs, int64_t context) {
    Flow<float> flow(in, Base::gaussian);
    flow.set_context(context);
    flow.add("coupling",
             additive_coupling<float>(in, Mask::second_half,
                                      mlp<float>(in.with_channels(inputs), 2, {3}, MlpInit::nice)));
    flow.finalize();
    return flow;
  };
  CHECK(flow_of(3, 1).context() == 1);
  CHECK(flow_of(2, 3).context() == 3);  // the layer reads none
  CHECK_THROWS_WITH_AS(flow_of(3, 0), "[coupling] expected a net for a context of 0, got one for 1",
                       ShapeError);
  CHECK_THROWS_WITH_AS(flow_of(4, 3), "[coupling] expected a net for a context of 3, got one for 2",
                       ShapeError);
  CHECK_THROWS_AS(flow_of(1, 3), ShapeError);
  CHECK_THROWS_AS(flow_of(4, -1), ConfigError);
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
  CHECK(flow.loss_and_grad(ctx, arena, x, nullptr, -1).drift.value < 1e-12);
  std::vector<double> z(rows.size()), back(z), dx(z), det(64);
  flow.forward(ctx, arena, x, nullptr, z.data(), det.data());
  const View<double> rebuilt(back.data(), x.shape), gradient(dx.data(), x.shape);
  CHECK(flow.backward(ctx, arena, z.data(), z.data(), det.data(), nullptr, rebuilt, gradient, x) < 1e-12);
  CHECK_THROWS_AS(flow.backward(ctx, arena, z.data(), z.data(), det.data(), nullptr, rebuilt, gradient,
                                View<const double>(rows.data(), {63, 1, 1, 4})),
                  ShapeError);
}

TEST_CASE("a single image whose moments are of one pixel at a deeper scale") {
  RealNvpImageConfig config;
  config.shape = {0, 2, 2, 3};
  config.base_dim = 4;
  config.residual_blocks = 1;
  const Trainable<double> model = initialised<double>(config);
  Trainable<double> trained(model.config, build<double>(model.config));
  std::copy_n(model.arena.values(), model.flow.layout()->total_size(), trained.arena.values());
  Context ctx;
  const std::vector<double> rows = draws<double>(2 * 12, 20, 100);
  CHECK_THROWS_WITH_AS(trained.flow.loss_and_grad(ctx, trained.arena,
                                                  View<const double>(rows.data(), {1, 2, 2, 3}), nullptr, -1),
                       "[loss_and_grad] expected at least 2 samples for batch norm, got 1", ShapeError);
  trained.flow.loss_and_grad(ctx, trained.arena, View<const double>(rows.data(), {2, 2, 2, 3}), nullptr, -1);
}
