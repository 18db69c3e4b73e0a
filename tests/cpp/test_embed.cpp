#include <doctest/doctest.h>

#include <clocale>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <thread>

#include "core/numbers.hpp"
#include "embedded.hpp"
#include "evenflow/evenflow.h"

namespace evenflow::test {
namespace {

/// A model whose calls go by blocks of 341 rows.
GlowConfig large_images() {
  GlowConfig config;
  config.shape = {0, 64, 64, 3};
  config.levels = 1;
  config.steps = 1;
  config.hidden = 4;
  config.classes = 3;
  return config;
}

template <class T, class Config>
void check_file(const Config& config) {
  const std::vector<int32_t> labels = {2, 0, 1};
  const TemporaryFile file;
  const Trainable<T> trained = initialised<T>(config);
  save(file.path, trained);
  const Model model = load(file.path);
  CHECK(model.config() == to_json(trained.config));
  CHECK(model.dtype() == dtype_of<T>());
  const int64_t n = 3, d = model.dims();
  CallOptions options;
  if (model.classes()) options.labels = labels.data();
  options.seed = 9;
  Context ctx;
  std::vector<T> x(static_cast<size_t>(n * d)), z(x.size()), back(x.size());
  std::vector<double> density(static_cast<size_t>(n)), wanted(density), bits(density);
  model.sample(ctx, n, x.data(), options);
  model.log_prob(ctx, x.data(), n, density.data(), options);
  trained.flow.log_prob(ctx, trained.arena, View<const T>(x.data(), model.sample_shape().with_batch(n)),
                        options.labels, wanted.data());
  CHECK(density == wanted);
  model.bits_per_dim(ctx, x.data(), n, bits.data(), options);
  for (int64_t i = 0; i < n; ++i) {
    CHECK(bits[i] == doctest::Approx(-density[i] / (static_cast<double>(d) * std::log(2.0))).epsilon(1e-14));
  }
  model.encode(ctx, x.data(), n, z.data(), options);
  model.decode(ctx, z.data(), n, back.data(), options);
  const double bound = dtype_of<T>() == Dtype::float32 ? 1e-4 : 1e-11;
  for (size_t i = 0; i < x.size(); ++i) CHECK(back[i] == doctest::Approx(x[i]).epsilon(bound));

  CallOptions later = options;  // a sample depends on its number alone
  later.first = 1;
  if (model.classes()) later.labels = labels.data() + 1;
  model.sample(ctx, n - 1, back.data(), later);
  CHECK(std::equal(x.begin() + d, x.end(), back.begin()));
  const VerifyReport report = model.verify(ctx, x.data(), n, options);
  CHECK_MESSAGE(report.ok, report.error, " x ", report.round_trip_x, " z ", report.round_trip_z, " logdet ",
                report.logdet_sum, " precision ", report.precision, " jacobian ", report.jacobian);
  CHECK(report.probed);
}

TEST_CASE("a saved model loads as the same model") {
  check_file<float>(table());
  check_file<double>(table());
  NiceConfig images;
  images.shape = {0, 4, 4, 1};
  images.hidden = {8};
  check_file<float>(images);
  check_file<float>(glow_with_classes());
  check_file<double>(glow_with_classes());
}

TEST_CASE("verify finds a wrong inverse, a density of another map, and latents that are one and the same x") {
  const auto report_of = [](auto t, const char* preprocess, double x, const auto& change) {
    using T = decltype(t);
    CouplingFlowConfig config = table();
    config.preprocess = preprocess;
    Trainable<T> trained = initialised<T>(config);
    change(trained.arena);
    const std::vector<T> rows = draws<T>(20 * 5, x == 0, x);
    Context ctx("cpu", 1);
    const VerifyReport report = Model(std::move(trained)).verify(ctx, rows.data(), 20);
    CHECK(!report.ok);
    CHECK(report.finite);
    CHECK(report.samples == 16);
    return report;
  };
  VerifyReport report =
      report_of(double(), "whiten", 0, [](auto& a) { tensor(a, "preprocess.inverse")[0] *= 1.5; });
  CHECK(report.round_trip_x > 1e-3);
  CHECK(report.jacobian < 1e-9);
  report = report_of(float(), "whiten", 0, [](auto& a) { tensor(a, "preprocess.logdet").fill(3); });
  CHECK(report.round_trip_x < 1e-3);
  CHECK(report.precision > 1e-3);
  report = report_of(float(), "standardize", 1e6, [](auto& a) {
    tensor(a, "preprocess.mean").fill(1e6F);
    tensor(a, "preprocess.std").fill(1e-3F);
  });
  CHECK(report.round_trip_x < 1e-3);
  CHECK(report.round_trip_z > 1e-3);
}

TEST_CASE("verify knows what the rounding of the data explains") {
  CouplingFlowConfig config = table();
  config.preprocess = "standardize";
  const std::vector<double> rows = draws<double>(20 * 5, 1, 1e12);
  Context ctx("cpu", 1);
  for (const double deviation : {1.0, 1e-4}) {  // of the second the data have hardly a digit
    Trainable<double> far = initialised<double>(config);
    tensor(far.arena, "preprocess.mean").fill(1e12);
    tensor(far.arena, "preprocess.std").fill(deviation);
    const VerifyReport report = Model(std::move(far)).verify(ctx, rows.data(), 20);
    CHECK(report.ok == (deviation == 1.0));
    CHECK((report.resolution > 1e-2) == (deviation != 1.0));
  }
}

TEST_CASE("verify knows by how much bfloat16 nets round") {
  CouplingFlowConfig config = table();
  config.hidden = {64, 64};
  config.conditioner = NetDtype::bfloat16;
  Trainable<float> trained = initialised<float>(config);
  add_noise(trained.arena, 0.2);
  Context ctx;
  const std::vector<float> x = draws<float>(20 * 5, 1, 0);
  const VerifyReport report = Model(std::move(trained)).verify(ctx, x.data(), 20);
  CHECK_MESSAGE(report.ok, report.error, " x ", report.round_trip_x, " z ", report.round_trip_z,
                " precision ", report.precision, " jacobian ", report.jacobian);
  CHECK(report.precision > 1e-3);
}

TEST_CASE("verify claims its context once, for all that it measures") {
  const Model model(initialised<float>(table()));
  Context shared("cpu", 1);
  const std::vector<float> x = draws<float>(16 * model.dims(), 1, 0);
  int refused[2] = {}, failed[2] = {};
  const auto work = [&](int thread) {
    for (int i = 0; i < 300; ++i) {
      const std::string text =
          error_of<ConfigError>([&] { failed[thread] += !model.verify(shared, x.data(), 16).ok; });
      refused[thread] += !text.empty();
      failed[thread] += !text.empty() && !starts_with(text, "[verify] another call is using this context");
    }
  };
  std::thread first(work, 0), second(work, 1);
  first.join();
  second.join();
  CHECK(failed[0] + failed[1] == 0);
  CHECK(refused[0] + refused[1] < 600);
  CHECK(model.verify(shared, x.data(), 16).ok);
}

TEST_CASE("a model refuses what does not fit it") {
  const Model model(initialised<float>(glow_with_classes()));
  Context ctx;
  std::vector<float> x = draws<float>(2 * model.dims(), 3, 16);
  const std::vector<double> wide(x.begin(), x.end());
  const std::vector<int32_t> labels = {0, 3};
  double out[2];
  CallOptions options;
  options.labels = labels.data();
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), 2, out, options),
                       doctest::Contains("labels in 0 ... 2, got 3 at 1"), ConfigError);
  CHECK_THROWS_AS(model.log_prob(ctx, x.data(), 1, out), ConfigError);
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, wide.data(), 1, out, options),
                       doctest::Contains("float32 values, as the model has, got float64"), ConfigError);
  CHECK_THROWS_WITH_AS(model.bits_per_dim(ctx, x.data(), 0, out, options),
                       "[bits_per_dim] expected at least one sample, got 0", ShapeError);
  x[31] = std::nanf("");  // the last one of the row
  CHECK_THROWS_WITH_AS(model.bits_per_dim(ctx, x.data(), 1, out, options),
                       "[bits_per_dim] expected finite values, got nan in row 0, value 31", NumericError);
  x[31] = 1;
  options.first = -1;
  CHECK_THROWS_AS(model.sample(ctx, 1, x.data(), options), ConfigError);
  options.first = std::numeric_limits<int64_t>::max() - 1;
  CHECK_THROWS_WITH_AS(model.sample(ctx, 2, x.data(), options),
                       doctest::Contains("first <= 9223372036854775805 with 2 rows"), ConfigError);
  options.first = 0;
  CHECK_NOTHROW(model.log_prob(ctx, x.data(), 1, out, options));  // the context is free again
}

TEST_CASE("a row has its number, its label, its noise and its error in any block") {
  Trainable<float> trained = initialised<float>(large_images());
  const Model model(initialised<float>(large_images()));
  const Values<float> weights = tensor(trained.arena, "top.class_weight");
  std::fill(weights.end() - weights.size / 3, weights.end(), std::nanf(""));  // of class 2
  Context ctx;
  const int64_t n = 342, last = n - 1, d = model.dims();
  std::vector<int32_t> labels(static_cast<size_t>(n));
  labels[last] = 2;
  CallOptions options, own;
  options.labels = labels.data();
  options.seed = own.seed = 9;
  own.labels = &labels[last];
  own.first = last;
  std::vector<float> x(static_cast<size_t>(n * d)), row(static_cast<size_t>(d));
  model.sample(ctx, n, x.data(), options);
  model.sample(ctx, 1, row.data(), own);
  CHECK(std::equal(row.begin(), row.end(), x.begin() + last * d));
  const std::vector<uint8_t> levels(x.size(), 100);
  std::vector<double> density(static_cast<size_t>(n));
  double alone;
  model.log_prob(ctx, levels.data(), n, density.data(), options);
  model.log_prob(ctx, levels.data() + last * d, 1, &alone, own);
  CHECK(density[last] == alone);
  CHECK_THROWS_WITH_AS(Model(std::move(trained)).sample(ctx, n, x.data(), options),
                       doctest::Contains("for sample 341"), NumericError);

  std::vector<float> z(x.size());
  z[z.size() - 1] = 3e38f;
  z[z.size() - 2] = -3e38f;
  const auto invert = [&] { model.inverse(ctx, z.data(), n, x.data(), density.data(), options); };
  CHECK_THROWS_WITH_AS(invert(), doctest::Contains("for sample 341"), NumericError);
  CHECK_THROWS_WITH_AS(model.decode(ctx, z.data(), n, x.data(), options),
                       doctest::Contains("[decode] expected finite values, got "), NumericError);
  labels[last] = 7;
  CHECK_THROWS_WITH_AS(invert(), "[inverse] expected labels in 0 ... 2, got 7 at 341", ConfigError);
}

/// A table with a context of two values, initialised from data.
template <class T>
Trainable<T> with_context() {
  CouplingFlowConfig config = table();
  config.context = 2;
  config.law = "spline";
  config.net = "residual";
  Trainable<T> model(ModelConfig{config, Dtype::float32, 3});
  Context ctx("cpu", 1);
  const std::vector<T> x = draws<T>(32 * 5, 1, 0), given = draws<T>(32 * 2, 2, 1);
  model.flow.init_from_data(ctx, model.arena, View<const T>(x.data(), {32, 1, 1, 5}), Given<T>(given.data()));
  add_noise(model.arena, 0.05);
  return model;
}

TEST_CASE("gradients of log_prob by x and context are its differences") {
  const Model model(with_context<double>());
  Context ctx;
  constexpr int64_t n = 3, d = 5, width = 2;
  std::vector<double> x = draws<double>(n * d, 1, 0), given = draws<double>(n * width, 2, 1);
  std::vector<double> dx(n * d), dcontext(n * width), alone(n * d);
  double density[n], wanted[n], up[n], down[n];
  CallOptions options;
  options.context = given.data();
  model.log_prob_and_grad(ctx, x.data(), n, density, dx.data(), dcontext.data(), options);
  model.log_prob(ctx, x.data(), n, wanted, options);
  for (int64_t i = 0; i < n; ++i) CHECK(density[i] == doctest::Approx(wanted[i]).epsilon(1e-13));
  const auto check = [&](std::vector<double>& values, int64_t columns, const std::vector<double>& gradient) {
    constexpr double kStep = 1e-6;
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = values[i];
      const size_t row = i / static_cast<size_t>(columns);
      values[i] = value + kStep;
      model.log_prob(ctx, x.data(), n, up, options);
      values[i] = value - kStep;
      model.log_prob(ctx, x.data(), n, down, options);
      values[i] = value;
      CHECK(gradient[i] == doctest::Approx((up[row] - down[row]) / (2 * kStep)).epsilon(1e-6));
    }
  };
  check(x, d, dx);
  check(given, width, dcontext);
  model.log_prob_and_grad(ctx, x.data(), n, density, alone.data(), nullptr, options);
  CHECK(alone == dx);
  model.log_prob_and_grad(ctx, x.data(), n, density, nullptr, alone.data(), options);
  CHECK(std::equal(dcontext.begin(), dcontext.end(), alone.begin()));
  const Model without(initialised<double>(table()));
  CHECK_THROWS_WITH_AS(without.log_prob_and_grad(ctx, x.data(), n, density, dx.data(), dcontext.data()),
                       doctest::Contains("a dcontext was given, but the model has no context"), ConfigError);

  std::vector<double> drawn(n * d);  // samples come with the density that they have
  options.temperature = 0.7;
  model.sample_and_log_prob(ctx, n, x.data(), density, options);
  model.sample(ctx, n, drawn.data(), options);
  CHECK(x == drawn);
  model.log_prob(ctx, x.data(), n, wanted, options);
  for (int64_t i = 0; i < n; ++i) CHECK(density[i] == doctest::Approx(wanted[i]).epsilon(1e-11));
}

TEST_CASE("rows of x and of a context may have strides, and share a context") {
  const Model model(with_context<float>());
  Context ctx;
  constexpr int64_t n = 4, d = 5, width = 2, wide = 9;
  const std::vector<float> x = draws<float>(n * d, 1, 0), given = draws<float>(n * width, 2, 1);
  // Rows of x and of the context in one record, as a simulation program has them.
  std::vector<float> records(n * wide, 100), repeated;
  const std::vector<double> doubles(given.begin(), given.end());
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(x.data() + i * d, d, records.data() + i * wide);
    std::copy_n(given.data() + i * width, width, records.data() + i * wide + d);
    repeated.insert(repeated.end(), given.begin(), given.begin() + width);
  }
  CallOptions packed, strided, in_doubles;
  packed.context = given.data();
  in_doubles.context = doubles.data();
  strided.context = {records.data() + d, wide};
  strided.x_stride = wide;
  packed.seed = strided.seed = 2;
  std::vector<double> wanted(n), density(n);
  std::vector<float> z(n * d), drawn(n * d), other(n * d);
  // A call that reads x, with rows of both kinds.
  const auto check_read = [&](std::vector<float>& with_x, const auto& call) {
    call(x.data(), with_x.data(), wanted.data(), packed);
    call(records.data(), other.data(), density.data(), strided);
    CHECK(other == with_x);
    CHECK(density == wanted);
  };
  check_read(z, [&](const float* rows, float* out, double* det, const CallOptions& options) {
    model.forward(ctx, rows, n, out, det, options);
    model.encode(ctx, rows, n, out, options);
  });
  check_read(drawn, [&](const float* rows, float* dx, double* out, const CallOptions& options) {
    model.log_prob_and_grad(ctx, rows, n, out, dx, nullptr, options);
    model.log_prob(ctx, rows, n, out, options);
  });
  model.log_prob(ctx, x.data(), n, density.data(), in_doubles);
  CHECK(density == wanted);
  CHECK(model.verify(ctx, records.data(), n, strided).ok);
  // One that writes x.
  const auto check_written = [&](const auto& call) {
    call(drawn.data(), packed);
    call(records.data(), strided);
    for (int64_t i = 0; i < n; ++i) {
      const float* record = records.data() + i * wide;
      CHECK(std::equal(record, record + d, drawn.data() + i * d));
      CHECK(std::equal(record + d, record + d + width, given.data() + i * width));
      CHECK(record[d + width] == 100);  // what is between the rows stays
    }
  };
  check_written([&](float* to, const CallOptions& options) { model.decode(ctx, z.data(), n, to, options); });
  check_written([&](float* to, const CallOptions& options) {
    model.inverse(ctx, z.data(), n, to, density.data(), options);
  });
  check_written([&](float* to, const CallOptions& options) { model.sample(ctx, n, to, options); });

  packed.context = repeated.data();
  model.sample(ctx, n, drawn.data(), packed);
  packed.context = {given.data(), 0};
  model.sample(ctx, n, other.data(), packed);
  CHECK(other == drawn);

  for (const int64_t narrow : {4, 0}) {
    strided.x_stride = narrow;
    CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), n, density.data(), strided),
                         doctest::Contains("at least 5 values from one row of x to the next"), ConfigError);
  }
  packed.context.stride = 1;
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), n, density.data(), packed),
                       doctest::Contains("0, or at least 2 values from one row of the context"), ConfigError);
  packed.context.stride = std::numeric_limits<int64_t>::max();
  CHECK_THROWS_AS(model.log_prob(ctx, x.data(), n, density.data(), packed), ShapeError);
}

TEST_CASE("an image of one pixel is an image in every language") {
  const std::string text =
      R"({"model": "NICE", "shape": [1, 1, 3], "bits": 7, "couplings": 1, "hidden": [4], "prior": "logistic", )"
      R"("permutation": "tile", "preprocess": "none", "conditioner_dtype": "float32", "seed": 0, "dtype": "float32"})";
  const ModelConfig config = parse_config(text);
  CHECK(to_json(parse_config(to_json(config))) == to_json(config));
  CHECK(to_json(config).find("[1, 1, 3]") != std::string::npos);
  CHECK(Model(Trainable<float>(config)).bits() == 7);
}

TEST_CASE("what no reader takes leaves the older file") {
  const TemporaryFile file;
  Trainable<float> model = initialised<float>(table());
  Optimizer<float> optimizer(model.flow.layout(), {});
  save(file.path, model);
  model.arena.values()[0] = std::nanf("");
  CHECK_THROWS_AS(save(file.path, model), NumericError);
  CHECK_NOTHROW(load_trainable<float>(file.path));
  save_optimizer(file.path, optimizer);
  optimizer.moments()[1].data()[0] = HUGE_VALF;
  CHECK_THROWS_WITH_AS(save_optimizer(file.path, optimizer),
                       doctest::Contains("[save_optimizer] expected finite values in 'moment1'"),
                       NumericError);
  CHECK_NOTHROW(load_optimizer(file.path, optimizer));
}

/// What load_optimizer says to adam's state after a change of its file.
std::string error_of_state(const std::function<void(TensorFile&)>& change, Rule rule = Rule::adam) {
  const TemporaryFile file;
  Trainable<float> model = initialised<float>(table());
  Optimizer<float> adam(model.flow.layout(), {});
  Context ctx;
  std::fill_n(model.arena.grads(), model.flow.layout()->trainable_size(), 0.1F);
  adam.step(ctx, model.arena);
  save_optimizer(file.path, adam);
  CHECK_THROWS_AS(load(file.path), IoError);
  TensorFile state = read_safetensors(file.path);
  change(state);
  std::vector<TensorRef> tensors;
  for (const auto& [name, tensor] : state.tensors) {
    tensors.push_back({name, tensor.dtype, tensor.shape, tensor.bytes.data()});
  }
  write_safetensors(file.path, tensors, state.metadata);
  OptimizerConfig config;
  config.rule = rule;
  Optimizer<float> reader(model.flow.layout(), config);
  const std::string text = error_of<IoError>([&] { load_optimizer(file.path, reader); });
  CHECK(reader.steps() == (text.empty() ? 1 : 0));
  CHECK((reader.moments() == adam.moments()) == text.empty());
  return text;
}

TEST_CASE("an optimiser's file continues it and no other, and holds a state that the rule can have") {
  const auto as_it_is = [](TensorFile&) {};
  CHECK(error_of_state(as_it_is) == "");
  check_contains(error_of_state([](TensorFile& state) { state.metadata.erase("rule"); }),
                 "expected 'rule' in the metadata, got none");
  for (const Rule rule : {Rule::sgd, Rule::adamax, Rule::rmsprop}) {
    check_contains(error_of_state(as_it_is, rule),
                   std::string("the state of ") + to_string(rule) + ", got 'adam'");
  }
  const auto negative = [](TensorFile& state) {
    const float value = -1;
    std::memcpy(state.tensors.at("moment1").bytes.data(), &value, sizeof value);
  };
  check_contains(error_of_state(negative), "expected values >= 0 in 'moment1'");
  for (const char* steps : {"9223372036854775807", "7x", ""}) {
    check_contains(error_of_state([&](TensorFile& state) { state.metadata["steps"] = steps; }),
                   std::string("expected a number of steps, got '") + steps);
  }
  const auto third = [](TensorFile& state) { state.tensors["moment2"] = state.tensors.at("moment1"); };
  check_contains(error_of_state(third), "expected 2 moments, got 3");
  Optimizer<float> optimizer(coupling_flow<float>(table()).layout(), {});
  CHECK_THROWS_AS(optimizer.set_steps(kMostSteps + 1), ConfigError);
  CHECK_THROWS_AS(optimizer.set_steps(-1), ConfigError);
}

TEST_CASE("an optimiser keeps the rule that its moments are of") {
  Trainable<float> model = initialised<float>(table());
  Context ctx;
  for (const Rule made_for : {Rule::sgd, Rule::adam}) {
    OptimizerConfig config;
    config.rule = made_for;
    Optimizer<float> optimizer(model.flow.layout(), config);
    std::fill_n(model.arena.grads(), model.flow.layout()->trainable_size(), 0.1F);
    optimizer.config().rule = made_for == Rule::sgd ? Rule::adam : Rule::sgd;
    const float before = model.arena.values()[0];
    const doctest::Contains text("expected the rule that its moments are of, ");
    CHECK_THROWS_WITH_AS(optimizer.step(ctx, model.arena), text, ConfigError);
    CHECK_THROWS_WITH_AS(optimizer.next_rate(), text, ConfigError);
    CHECK_THROWS_WITH_AS(optimizer.check(model.arena), text, ConfigError);
    CHECK((optimizer.steps() == 0 && model.arena.values()[0] == before));
    const TemporaryFile file;
    save_optimizer(file.path, optimizer);
    CHECK(read_safetensors(file.path).metadata["rule"] == to_string(made_for));
    optimizer.config().rule = made_for;
    CHECK_NOTHROW(optimizer.step(ctx, model.arena));
  }
}

TEST_CASE("a batch beyond any memory") {
  const Model model(initialised<float>(table()));
  Context ctx;
  float x[5] = {};
  double out[1];
  const int64_t all = std::numeric_limits<int64_t>::max(), rows = all / 40;
  for (const int64_t n : {all, rows + 1}) {
    const doctest::Contains text(" samples of 5 values, got ");
    CHECK_THROWS_WITH_AS(model.log_prob(ctx, x, n, out), text, ShapeError);
    CHECK_THROWS_WITH_AS(model.log_prob_and_grad(ctx, x, n, out, x), text, ShapeError);
    CHECK_THROWS_WITH_AS(model.forward(ctx, x, n, x, out), text, ShapeError);
    CHECK_THROWS_WITH_AS(model.inverse(ctx, x, n, x, out), text, ShapeError);
    CHECK_THROWS_WITH_AS(model.sample(ctx, n, x), text, ShapeError);
    CHECK_THROWS_WITH_AS(model.verify(ctx, x, n), text, ShapeError);
  }
}

TEST_CASE("settings of another model than the flow leave the older file") {
  const TemporaryFile file;
  Trainable<float> model = initialised<float>(table());
  save(file.path, model);
  const std::string older = load(file.path).config();
  const auto refused = [&](const std::string& start, const auto& change) {
    ModelConfig config = model.config;
    change(config, std::get<CouplingFlowConfig>(config.model));
    std::swap(config, model.config);
    const std::string text = error_of<ConfigError>([&] { save(file.path, model); });
    CHECK_MESSAGE(starts_with(text, "[save] " + start), text);
    std::swap(config, model.config);
    CHECK(load(file.path).config() == older);
  };
  const std::string flow = "expected settings of the flow that is saved, ";
  refused(flow + "for samples of (0, 1, 1, 5), got (0, 4, 4, 2)",
          [](ModelConfig& c, auto&) { c.model = glow_with_classes(); });
  refused(flow + "in float32, got float64", [](ModelConfig& c, auto&) { c.dtype = Dtype::float64; });
  refused(flow + "with '", [](ModelConfig&, auto& t) { t.hidden = {8, 9}; });
  refused(flow + "with '", [](ModelConfig&, auto& t) { t.couplings = 2; });
  refused(flow + "with ", [](ModelConfig&, auto& t) { t.couplings = 4; });
  refused(flow + "of prior gaussian, got logistic", [](ModelConfig&, auto& t) { t.base = "logistic"; });
  refused("these are no settings of a model: ", [](ModelConfig&, auto& t) { t.hidden = {0}; });
  refused("these are no settings of a model: ", [](ModelConfig&, auto& t) { t.dims = 0; });
  model.config.seed = 8;  // says where the flow is from
  CHECK_NOTHROW(save(file.path, model));
}

TEST_CASE("a model from bytes in memory, in C++ and in C") {
  const TemporaryFile file;
  save(file.path, initialised<float>(table()));
  std::ifstream stream(file.path, std::ios::binary);
  std::vector<char> kept(1, 0);  // one more, to be out of step with any alignment
  kept.insert(kept.end(), std::istreambuf_iterator<char>(stream), {});
  const size_t size = kept.size() - 1;
  std::vector<char> bytes = kept, damaged = kept, longer = kept;
  damaged.back() ^= 1;
  longer.push_back(0);
  const Model model = load(file.path), other = load(bytes.data() + 1, size);
  Context ctx;
  const std::vector<float> x = draws<float>(3 * model.dims(), 1, 0);
  std::vector<double> wanted(3), got(3);
  model.log_prob(ctx, x.data(), 3, wanted.data());
  std::fill(bytes.begin(), bytes.end(), 0);  // they are the caller's again
  other.log_prob(ctx, x.data(), 3, got.data());
  CHECK(got == wanted);

  evenflow_model* handle = nullptr;
  const auto refused = [&](const std::vector<char>& all, size_t count) {
    CAPTURE(count);
    const std::string text = error_of<IoError>([&] { load(all.data() + 1, count, "part 7"); });
    CHECK_MESSAGE((starts_with(text, "[load] expected ") && text.find("(part 7)") != text.npos), text);
    CHECK(evenflow_load_bytes(all.data() + 1, count, &handle) == EVENFLOW_IO_ERROR);
    CHECK(handle == nullptr);
    CHECK(starts_with(evenflow_last_error(), "[load_bytes] expected "));
  };
  for (const size_t count : {size_t{0}, size_t{1}, size_t{8}, size_t{100}, size / 2, size - 1}) {
    refused(kept, count);
  }
  refused(damaged, size);
  refused(longer, size + 1);
  refused(kept, std::numeric_limits<size_t>::max());
  CHECK_THROWS_WITH_AS(load(nullptr, 0), doctest::Contains("got a null pointer"), ConfigError);
  CHECK(evenflow_load_bytes(nullptr, size, &handle) == EVENFLOW_CONFIG_ERROR);
  CHECK(evenflow_load_bytes(kept.data() + 1, size, nullptr) == EVENFLOW_CONFIG_ERROR);

  REQUIRE(evenflow_load_bytes(kept.data() + 1, size, &handle) == EVENFLOW_OK);
  evenflow_context* context = nullptr;
  REQUIRE(evenflow_context_create(1, &context) == EVENFLOW_OK);
  got.assign(3, 0);
  CHECK(evenflow_log_prob(handle, context, EVENFLOW_FLOAT32, x.data(), 3, nullptr, got.data()) ==
        EVENFLOW_OK);
  CHECK(got == wanted);
  evenflow_context_free(context);
  evenflow_model_free(handle);
}

TEST_CASE("errors of files begin with the call, and name the file") {
  const std::string absent = "/no such folder/model.safetensors";
  Trainable<float> model = initialised<float>(table());
  Optimizer<float> optimizer(model.flow.layout(), {});
  const auto begins = [&](const std::string& start, const auto& call) {
    const std::string text = error_of<IoError>(call);
    CHECK_MESSAGE((starts_with(text, start) && text.find('(' + absent + ')') != text.npos), text);
  };
  begins("[save] expected ", [&] { save(absent, model); });
  begins("[save_optimizer] expected ", [&] { save_optimizer(absent, optimizer); });
  begins("[load] expected ", [&] { load(absent); });
  begins("[load_trainable] expected ", [&] { load_trainable<float>(absent); });
  begins("[load_optimizer] expected ", [&] { load_optimizer(absent, optimizer); });
}

TEST_CASE("texts are the same in every locale") {
  struct Comma {
    ~Comma() { std::setlocale(LC_ALL, "C"); }
    bool set = std::setlocale(LC_ALL, "de_DE.UTF-8") != nullptr;
  } comma;
  if (!comma.set) MESSAGE("this system has no German locale: tried with the usual one alone");
  CHECK(text_of(1234567, ' ', 1.5) == "1234567 1.5");
  const std::string text = to_json({glow_with_classes(), Dtype::float32, 1234567});
  check_contains(text, "\"class_weight\": 0.1, \"bits\": 5, \"seed\": 1234567,");
  CHECK(to_json(parse_config(text)) == text);
}

TEST_CASE("numbers as texts read as the same numbers") {
  CHECK(exact_text(0.1f) == "0.1");
  CHECK(rounded_text(-std::numeric_limits<double>::quiet_NaN()) == "nan");
  CHECK(rounded_text(1 / 3.0) == "0.333333");
  std::mt19937_64 random(3);
  for (int i = 0; i < 10000; ++i) {
    const uint64_t bits = random();
    double value;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isfinite(value)) CHECK(number_of(exact_text(value)) == value);
    const float narrow = static_cast<float>(std::ldexp(static_cast<double>(bits >> 11), -70));
    CHECK(static_cast<float>(number_of(exact_text(narrow))) == narrow);
  }
}

TEST_CASE("a context refuses more threads than a process can have") {
  for (const int threads : {1025, std::numeric_limits<int>::max(), -1}) {
    CHECK_THROWS_WITH_AS(Context("cpu", threads), doctest::Contains("expected threads in 0 ... 1024, got "),
                         ConfigError);
  }
  CHECK(Context("cpu", 1024).threads() == 1024);
  evenflow_context* context = nullptr;
  CHECK(evenflow_context_create(1000000, &context) == EVENFLOW_CONFIG_ERROR);
  CHECK(context == nullptr);
}

}  // namespace
}  // namespace evenflow::test
