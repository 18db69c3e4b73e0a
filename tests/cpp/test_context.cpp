#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "embedded.hpp"
#include "evenflow/evenflow.h"
#include "laws.hpp"
#include "plain_table.hpp"

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
    CouplingFlowConfig table = plain_table();
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
                       "[sample] a context was given, but the model has none", ConfigError);
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
    // The context is in units of 30: gradients are about 1e-3.
    CHECK(std::abs(gradient[i] - (loss(i, 1e-5) - loss(i, -1e-5)) / 2e-5) < 1e-9);
    CHECK(gradient[i] == doctest::Approx(-passed[i] / kRows).epsilon(1e-12));
  }
}

// The sanitizers watch what lies behind scratch arrays: nothing may be as long as one number of the context.
TEST_CASE_TEMPLATE("a wide context: rows one by one as together, and their gradients", T, float, double) {
  constexpr int64_t kWide = 100, kMany = 40;
  CouplingFlowConfig table = plain_table();
  table.dims = 2;
  table.couplings = 2;
  table.hidden = {6};
  table.context = kWide;
  Trainable<T> model({table, dtype_of<T>(), 0});
  Rng rng(3, Stream::test);
  std::vector<T> rows(kMany * 2), given(kMany * kWide), dx(rows), by(given), dx_one(2), by_one(kWide);
  for (T& v : rows) v = static_cast<T>(rng.normal());
  for (T& v : given) v = static_cast<T>(5 + rng.normal());
  Context ctx;
  model.flow.init(model.arena, 5);
  model.flow.init_from_data(ctx, model.arena, View<const T>(rows.data(), {kMany, 1, 1, 2}),
                            Given<T>(given.data()));
  for (int64_t i = 0; i < model.flow.layout()->trainable_size(); ++i) {
    model.arena.values()[i] += static_cast<T>(0.1 * rng.normal());
  }
  const std::vector<T> before(model.arena.values(), model.arena.values() + model.flow.layout()->total_size());
  for (int64_t n = 1; n <= kMany; ++n) {
    std::vector<double> together(static_cast<size_t>(n)), alone(1);
    model.flow.log_prob_and_grad(ctx, model.arena, View<const T>(rows.data(), {n, 1, 1, 2}),
                                 Given<T>(given.data(), by.data()), together.data(),
                                 View<T>(dx.data(), {n, 1, 1, 2}));
    const int64_t last = n - 1;
    model.flow.log_prob_and_grad(ctx, model.arena, View<const T>(rows.data() + last * 2, {1, 1, 1, 2}),
                                 Given<T>(given.data() + last * kWide, by_one.data()), alone.data(),
                                 View<T>(dx_one.data(), {1, 1, 1, 2}));
    CHECK(together.back() == alone[0]);
    CHECK(std::equal(by_one.begin(), by_one.end(), by.begin() + last * kWide));
  }
  CHECK(std::equal(before.begin(), before.end(), model.arena.values()));
}

TEST_CASE_TEMPLATE("a model of images given numbers: the flow's bits, one by one too, and its gradient", T,
                   float, double) {
  constexpr int64_t kImages = 3, kValues = 4 * 6 * 2;
  GlowConfig glow;
  glow.shape = {0, 4, 6, 2};
  glow.levels = 1;
  glow.steps = 2;
  glow.hidden = 5;
  glow.context = kContext;
  Trainable<T> trained({glow, dtype_of<T>(), 0});
  Rng rng(3, Stream::test);
  std::vector<T> images(kImages * kValues), given(kImages * kContext), dx(images.size()), by(given.size());
  for (T& v : images) v = static_cast<T>(128 + 30 * rng.normal());
  for (T& v : given) v = static_cast<T>(100 + 30 * rng.normal());
  Context ctx;
  const View<const T> x(images.data(), {kImages, 4, 6, 2});
  trained.flow.init(trained.arena, 5);
  trained.flow.init_from_data(ctx, trained.arena, x, Given<T>(given.data()));
  for (int64_t i = 0; i < trained.flow.layout()->trainable_size(); ++i) {
    trained.arena.values()[i] += static_cast<T>(0.05 * rng.normal());
  }
  std::vector<double> wanted(kImages), got(kImages), near(kImages);
  trained.flow.log_prob_and_grad(ctx, trained.arena, x, Given<T>(given.data(), by.data()), got.data(),
                                 View<T>(dx.data(), x.shape));
  trained.flow.log_prob(ctx, trained.arena, x, Given<T>(given.data()), wanted.data());
  if (sizeof(T) == sizeof(double)) {
    for (size_t i = 0; i < given.size(); ++i) {
      const size_t image = i / kContext;
      double slope = 0;
      for (const double step : {1e-4, -1e-4}) {
        std::vector<T> at = given;
        at[i] += static_cast<T>(step);
        trained.flow.log_prob(ctx, trained.arena, x, Given<T>(at.data()), near.data());
        slope += near[image] / (2 * step);
      }
      CHECK(by[i] == doctest::Approx(slope).epsilon(1e-6));
    }
  }
  const Model model(std::move(trained));
  CHECK(model.context() == kContext);
  CHECK(to_json(parse_config(model.config())) == model.config());
  const std::vector<double> context(given.begin(), given.end());
  CallOptions options;
  for (int64_t i = 0; i < kImages; ++i) {
    options.context = context.data() + i * kContext;
    model.log_prob(ctx, images.data() + i * kValues, 1, got.data(), options);
    CHECK(got[0] == wanted[static_cast<size_t>(i)]);
  }
}

namespace {

/// A flow with a context of one number, initialised with these.
template <class T>
struct Given1 {
  explicit Given1(const std::vector<T>& numbers) : model(config()), context(numbers) {
    const auto n = static_cast<int64_t>(numbers.size());
    rows = draws<T>(n * 2, 1, 0);
    model.flow.init(model.arena, 5);
    Context ctx;
    model.flow.init_from_data(ctx, model.arena, View<const T>(rows.data(), {n, 1, 1, 2}),
                              Given<T>(context.data()));
    Rng rng(4, Stream::test);
    for (int64_t i = 0; i < model.flow.layout()->trainable_size(); ++i) {
      model.arena.values()[i] += static_cast<T>(0.3 * rng.normal());
    }
  }

  static ModelConfig config() {
    CouplingFlowConfig table = plain_table();
    table.dims = 2;
    table.couplings = 2;
    table.hidden = {7};
    table.context = 1;
    table.preprocess = "none";
    return {table, dtype_of<T>(), 0};
  }

  /// Densities where every row is given `number`; `gradient`: by that.
  std::vector<double> log_prob(T number, std::vector<T>* gradient = nullptr) {
    Context ctx("cpu", 1);
    const auto n = static_cast<int64_t>(context.size());
    std::fill(context.begin(), context.end(), number);
    std::vector<double> out(context.size());
    std::vector<T> by(context.size()), dx(rows.size());
    const View<const T> x(rows.data(), {n, 1, 1, 2});
    model.flow.log_prob(ctx, std::as_const(model.arena), x, Given<T>(context.data()), out.data());
    if (gradient) {
      model.flow.log_prob_and_grad(ctx, model.arena, x, Given<T>(context.data(), by.data()), out.data(),
                                   View<T>(dx.data(), x.shape));
      *gradient = by;
    }
    return out;
  }

  T deviation() const {
    for (const ParamLayout::Entry& entry : model.flow.layout()->entries()) {
      if (entry.name == "context.std") return model.arena.values()[entry.offset];
    }
    return 0;
  }

  Trainable<T> model;
  std::vector<T> context, rows;
};

template <class T>
std::string error_of_context(const std::vector<T>& numbers) {
  try {
    const Given1<T> made(numbers);
  } catch (const NumericError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE_TEMPLATE("a context that does not vary at init is ignored", T, float, double) {
  for (const double number : {7.0, 0.1, 0.0}) {  // the mean of equal ones may be rounded
    Given1<T> given(std::vector<T>(64, static_cast<T>(number)));
    const std::vector<double> wanted = given.log_prob(static_cast<T>(number));
    std::vector<T> gradient;
    for (const double other : {number + 1, -3.0, 1e6}) CHECK(given.log_prob(static_cast<T>(other)) == wanted);
    CHECK(given.log_prob(static_cast<T>(number + 1), &gradient) == wanted);
    for (const T v : gradient) CHECK(std::abs(v) <= 1e-20);
    const TemporaryFile file("constant.safetensors");
    save(file.path, given.model);
    const Trainable<T> loaded = load_trainable<T>(file.path);
    std::copy_n(loaded.arena.values(), loaded.flow.layout()->total_size(), given.model.arena.values());
    CHECK(given.log_prob(T(-3)) == wanted);
  }
  std::vector<T> varying(64, T(7));
  varying[3] = 8;
  Given1<T> given(varying);
  CHECK(given.log_prob(T(8)) != given.log_prob(T(7)));
  CHECK(Given1<T>({T(7)}).deviation() == 1);  // a single row shows nothing
}

TEST_CASE("contexts in units at the edges of a type") {
  const auto in_units_of = [](auto unit) {
    std::vector<decltype(unit)> numbers = draws<decltype(unit)>(64, 1, 0);
    for (auto& v : numbers) v *= unit;
    return numbers;
  };
  const double plain = Given1<double>(in_units_of(1.0)).deviation();
  for (const double unit : {1e-200, 1e-300, 1e200, 1e300}) {  // whose squares are 0 or infinite
    CHECK(Given1<double>(in_units_of(unit)).deviation() / unit == doctest::Approx(plain).epsilon(1e-12));
  }
  for (const double unit : {1e-310, 1e-320}) {
    const std::string text = error_of_context(in_units_of(unit));
    CHECK_MESSAGE(text.rfind("[init] expected a context whose deviation has a reciprocal in float64", 0) == 0,
                  text);
  }
  CHECK(error_of_context(in_units_of(1e-30F)) == "");
  const std::string text = error_of_context(in_units_of(1e-40F));
  CHECK_MESSAGE(text.rfind("[init] expected a context whose deviation has a reciprocal in float32", 0) == 0,
                text);
  CHECK_MESSAGE(text.find("in column 0; take another unit, or dtype float64") != std::string::npos, text);
}

TEST_CASE("a context whose mean and deviation are those of a few far values is refused") {
  std::vector<float> numbers = draws<float>(1000, 1, 0);
  CHECK(error_of_context(numbers) == "");
  numbers[17] = 1e4F;
  CHECK(error_of_context(numbers) == "");
  numbers[17] = 1e9F;
  const std::string text = error_of_context(numbers);
  CHECK_MESSAGE(text.rfind("[init] expected a context that float32 resolves, got mean ", 0) == 0, text);
  CHECK_MESSAGE(
      text.find(" in column 0; values far from the rest set its mean and deviation") != std::string::npos,
      text);
  CHECK(error_of_context(std::vector<double>(numbers.begin(), numbers.end())) == "");  // has the digits
  std::fill(numbers.begin(), numbers.end(), 0.0F);  // a rare mark among equal numbers is told apart
  numbers[17] = 1e9F;
  CHECK(error_of_context(numbers) == "");
  for (size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = static_cast<float>(1e5 + static_cast<double>(i % 7));
  CHECK(error_of_context(numbers) == "");
}

TEST_CASE("a context that the model's type does not hold") {
  Conditional<float> c;
  const Model model(std::move(c.model));
  Context ctx;
  std::vector<double> out(kRows);
  CallOptions options;
  options.context = c.context.data();
  c.context[5] = 1e300;
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, c.rows.data(), kRows, out.data(), options),
                       "[log_prob] expected a context that float32 holds, got 1e+300 in row 2, number 1",
                       NumericError);
  c.context[5] = 1e-47;
  CHECK_NOTHROW(model.log_prob(ctx, c.rows.data(), kRows, out.data(), options));
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

TEST_CASE("a single image whose moments are of one pixel at a deeper scale") {
  RealNvpConfig config;
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
