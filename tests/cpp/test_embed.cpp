#include <doctest/doctest.h>

#include <clocale>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <thread>

#include "core/numbers.hpp"
#include "embedded.hpp"
#include "evenflow/evenflow.h"

namespace evenflow::test {
namespace {

NiceConfig nice_images() {
  NiceConfig config;
  config.shape = {0, 4, 4, 1};
  config.hidden = {8};
  return config;
}

template <class T, class Config>
void check_file(const Config& config, const std::vector<int32_t>& labels) {
  const TemporaryFile file("model.safetensors");
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
  const std::vector<int32_t> labels = {2, 0, 1};
  check_file<float>(table(), labels);
  check_file<double>(table(), labels);
  check_file<float>(nice_images(), labels);
  check_file<float>(glow_with_classes(), labels);
  check_file<double>(glow_with_classes(), labels);
}

TEST_CASE("a file keeps any seed") {
  const TemporaryFile file("seed.safetensors");
  for (const uint64_t seed : {uint64_t{0}, (uint64_t{1} << 63) - 1, (uint64_t{1} << 63) + 1, ~uint64_t{0}}) {
    Trainable<float> model = initialised<float>(table());
    model.config.seed = seed;
    save(file.path, model);
    CHECK(load_trainable<float>(file.path).config.seed == seed);
  }
}

TEST_CASE("verify finds a model that is not its own inverse") {
  CouplingFlowConfig config = table();
  Trainable<double> trained = initialised<double>(config);
  for (const ParamLayout::Entry& entry : trained.flow.layout()->entries()) {
    if (entry.name == "preprocess.inverse") trained.arena.values()[entry.offset] *= 1.5;
  }
  const Model model(std::move(trained));
  Context ctx;
  const std::vector<double> x = draws<double>(20 * model.dims(), 1, 0);
  const VerifyReport report = model.verify(ctx, x.data(), 20);
  CHECK(!report.ok);
  CHECK(report.finite);
  CHECK(report.samples == 16);
  CHECK(report.round_trip_x > 1e-3);
  CHECK(report.jacobian < 1e-9);
}

TEST_CASE("verify finds what a round trip of x does not show") {
  CouplingFlowConfig config = table();
  Context ctx("cpu", 1);
  const auto set = [](Trainable<float>& model, const std::string& name, float value) {
    for (const ParamLayout::Entry& entry : model.flow.layout()->entries()) {
      if (entry.name == name) std::fill_n(model.arena.values() + entry.offset, entry.size, value);
    }
  };
  // A density that is not the transformation's.
  Trainable<float> dense = initialised<float>(config);
  set(dense, "preprocess.logdet", 3);
  const std::vector<float> x = draws<float>(16 * 5, 1, 0);
  VerifyReport report = Model(std::move(dense)).verify(ctx, x.data(), 16);
  CHECK(!report.ok);
  CHECK(report.round_trip_x < 1e-3);
  CHECK(report.precision > 1e-3);
  // Latents that are one and the same x in float32.
  config.preprocess = "standardize";
  Trainable<float> coarse = initialised<float>(config);
  set(coarse, "preprocess.mean", 1e6F);
  set(coarse, "preprocess.std", 1e-3F);
  const std::vector<float> mean(16 * 5, 1e6F);
  report = Model(std::move(coarse)).verify(ctx, mean.data(), 16);
  CHECK(!report.ok);
  CHECK(report.round_trip_x < 1e-3);
  CHECK(report.round_trip_z > 1e-3);
}

TEST_CASE("verify knows by how much bfloat16 nets round") {
  CouplingFlowConfig config = table();
  config.hidden = {64, 64};
  config.conditioner = NetDtype::bfloat16;
  Trainable<float> trained = initialised<float>(config);
  Rng rng(5, Stream::test);
  for (int64_t i = 0; i < trained.flow.layout()->trainable_size(); ++i) {
    trained.arena.values()[i] += static_cast<float>(0.2 * rng.normal());
  }
  const Model model(std::move(trained));
  Context ctx;
  const std::vector<float> x = draws<float>(20 * model.dims(), 1, 0);
  const VerifyReport report = model.verify(ctx, x.data(), 20);
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
      try {
        failed[thread] += !model.verify(shared, x.data(), 16).ok;
      } catch (const ConfigError& error) {
        ++refused[thread];
        failed[thread] +=
            std::string(error.what()).rfind("[verify] another call is using this context", 0) != 0;
      }
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
                       "[log_prob] expected labels in 0 ... 2, got 3 at 1", ConfigError);
  CHECK_THROWS_AS(model.log_prob(ctx, x.data(), 1, out), ConfigError);
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, wide.data(), 1, out, options),
                       "[log_prob] expected float32 values, as the model has, got float64", ConfigError);
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), 0, out, options),
                       "[log_prob] expected at least one sample, got 0", ShapeError);
  x[5] = std::nanf("");
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), 1, out, options),
                       "[log_prob] expected finite values, got nan in row 0, value 5", NumericError);
  x[5] = 1;
  options.first = -1;
  CHECK_THROWS_AS(model.sample(ctx, 1, x.data(), options), ConfigError);
  options.first = std::numeric_limits<int64_t>::max() - 1;
  std::vector<float> many(static_cast<size_t>(2 * model.dims()));
  CHECK_THROWS_WITH_AS(model.sample(ctx, 2, many.data(), options),
                       "[sample] expected first <= 9223372036854775805 with 2 rows, got 9223372036854775806",
                       ConfigError);
  const std::vector<uint8_t> levels(many.size(), 1);
  CHECK_THROWS_AS(model.log_prob(ctx, levels.data(), 2, out, options), ConfigError);
  options.first = 0;
  CHECK_NOTHROW(model.log_prob(ctx, x.data(), 1, out, options));  // the context is free again
}

TEST_CASE("errors count the rows of the call, not of the blocks that it is computed in") {
  GlowConfig config;
  config.shape = {0, 64, 64, 3};
  config.levels = 1;
  config.steps = 1;
  config.hidden = 4;
  config.classes = 3;
  const Model model(initialised<float>(config));
  Context ctx;
  const int64_t n = 342;  // a block has 341
  std::vector<float> z(static_cast<size_t>(n * model.dims())), x(z.size());
  std::vector<double> logdet(static_cast<size_t>(n));
  std::vector<int32_t> labels(static_cast<size_t>(n));
  CallOptions options;
  options.labels = labels.data();
  z[z.size() - 1] = 3e38f;
  z[z.size() - 2] = -3e38f;
  const auto error = [&] {
    try {
      model.inverse(ctx, z.data(), n, x.data(), logdet.data(), options);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(error().find("for sample 341") != std::string::npos);
  CHECK_THROWS_WITH_AS(model.decode(ctx, z.data(), n, x.data(), options),
                       doctest::Contains("[decode] expected finite values, got "), NumericError);
  labels[341] = 7;
  CHECK(error() == "[inverse] expected labels in 0 ... 2, got 7 at 341");
}

TEST_CASE("a row has its number, its label and its noise in any block") {
  GlowConfig config;
  config.shape = {0, 64, 64, 3};
  config.levels = 1;
  config.steps = 1;
  config.hidden = 4;
  config.classes = 3;
  Trainable<float> trained = initialised<float>(config);
  const Model model(initialised<float>(config));
  for (const ParamLayout::Entry& entry : trained.flow.layout()->entries()) {
    if (entry.name != "top.class_weight") continue;
    float* end = trained.arena.values() + entry.offset + entry.size;  // of class 2
    std::fill(end - entry.size / 3, end, std::nanf(""));
  }
  Context ctx;
  const int64_t n = 342, last = n - 1, d = model.dims();  // a block has 341
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
  Rng rng(4, Stream::test);
  for (int64_t i = 0; i < model.flow.layout()->trainable_size(); ++i) {
    model.arena.values()[i] += static_cast<T>(0.05 * rng.normal());
  }
  return model;
}

TEST_CASE("gradients of log_prob by x and context are its differences") {
  const Model model(with_context<double>());
  Context ctx;
  constexpr int64_t n = 3, d = 5, width = 2;
  std::vector<double> x = draws<double>(n * d, 1, 0), given = draws<double>(n * width, 2, 1);
  std::vector<double> dx(n * d), dcontext(n * width);
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
  std::vector<double> alone(n * d);
  model.log_prob_and_grad(ctx, x.data(), n, density, alone.data(), nullptr, options);
  CHECK(alone == dx);
  model.log_prob_and_grad(ctx, x.data(), n, density, nullptr, alone.data(), options);
  CHECK(std::equal(dcontext.begin(), dcontext.end(), alone.begin()));
  const Model without(initialised<double>(table()));
  CHECK_THROWS_WITH_AS(without.log_prob_and_grad(ctx, x.data(), n, density, dx.data(), dcontext.data()),
                       "[log_prob_and_grad] a dcontext was given, but the model has no context", ConfigError);
}

TEST_CASE("samples come with the log_prob that they have") {
  const Model model(with_context<float>());
  Context ctx;
  constexpr int64_t n = 40, d = 5;
  const std::vector<float> given = draws<float>(n * 2, 2, 1);
  std::vector<float> x(n * d), wanted(n * d);
  std::vector<double> density(n), scored(n);
  CallOptions options;
  options.context = given.data();
  options.seed = 3;
  options.temperature = 0.7;
  model.sample_and_log_prob(ctx, n, x.data(), density.data(), options);
  model.sample(ctx, n, wanted.data(), options);
  CHECK(x == wanted);
  model.log_prob(ctx, x.data(), n, scored.data(), options);
  for (size_t i = 0; i < n; ++i) CHECK(density[i] == doctest::Approx(scored[i]).epsilon(1e-4));
}

TEST_CASE("rows of x and of a context may have strides, and share a context") {
  const Model model(with_context<float>());
  Context ctx;
  constexpr int64_t n = 4, d = 5, width = 2, wide = 9;
  const std::vector<float> x = draws<float>(n * d, 1, 0), given = draws<float>(n * width, 2, 1);
  // Rows of x and of the context in one record, as a simulation program has them.
  std::vector<float> records(n * wide, 100);
  std::vector<double> doubles(given.begin(), given.end());
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(x.data() + i * d, d, records.data() + i * wide);
    std::copy_n(given.data() + i * width, width, records.data() + i * wide + d);
  }
  CallOptions packed, strided, in_doubles;
  packed.context = given.data();
  in_doubles.context = doubles.data();
  strided.context = {records.data() + d, wide};
  strided.x_stride = wide;
  packed.seed = strided.seed = 2;
  std::vector<double> wanted(n), density(n);
  model.log_prob(ctx, x.data(), n, wanted.data(), packed);
  model.log_prob(ctx, records.data(), n, density.data(), strided);
  CHECK(density == wanted);
  model.log_prob(ctx, x.data(), n, density.data(), in_doubles);
  CHECK(density == wanted);

  std::vector<float> z(n * d), dx(n * d), other(n * d), drawn(n * d);
  model.encode(ctx, x.data(), n, z.data(), packed);
  model.encode(ctx, records.data(), n, other.data(), strided);
  CHECK(other == z);
  model.log_prob_and_grad(ctx, x.data(), n, wanted.data(), dx.data(), nullptr, packed);
  model.log_prob_and_grad(ctx, records.data(), n, density.data(), other.data(), nullptr, strided);
  CHECK(other == dx);
  CHECK(model.verify(ctx, records.data(), n, strided).ok);
  const auto check_records = [&](const std::vector<float>& rows) {
    for (int64_t i = 0; i < n; ++i) {
      CHECK(std::equal(rows.data() + i * d, rows.data() + (i + 1) * d, records.data() + i * wide));
      CHECK(std::equal(given.data() + i * width, given.data() + (i + 1) * width,
                       records.data() + i * wide + d));
      CHECK(records[i * wide + d + width] == 100);  // what is between the rows stays
    }
  };
  model.decode(ctx, z.data(), n, drawn.data(), packed);
  model.decode(ctx, z.data(), n, records.data(), strided);
  check_records(drawn);
  model.inverse(ctx, z.data(), n, records.data(), density.data(), strided);
  check_records(drawn);
  model.sample(ctx, n, drawn.data(), packed);
  model.sample(ctx, n, records.data(), strided);
  check_records(drawn);

  std::vector<float> repeated;
  for (int64_t i = 0; i < n; ++i) repeated.insert(repeated.end(), given.begin(), given.begin() + width);
  packed.context = repeated.data();
  model.sample(ctx, n, drawn.data(), packed);
  packed.context = {given.data(), 0};
  model.sample(ctx, n, other.data(), packed);
  CHECK(other == drawn);

  const auto refused = [&](const CallOptions& options, const char* text) {
    CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), n, density.data(), options), text, ConfigError);
  };
  strided.x_stride = 4;
  refused(strided, "[log_prob] expected at least 5 values from one row of x to the next, got a stride of 4");
  strided.x_stride = 0;
  refused(strided, "[log_prob] expected at least 5 values from one row of x to the next, got a stride of 0");
  packed.context.stride = 1;
  refused(packed,
          "[log_prob] expected 0, or at least 2 values from one row of the context to the next, got a "
          "stride of 1");
  packed.context.stride = std::numeric_limits<int64_t>::max();
  CHECK_THROWS_AS(model.log_prob(ctx, x.data(), n, density.data(), packed), ShapeError);
}

TEST_CASE("an image of one pixel is an image in every language") {
  const std::string text =
      R"({"model": "NICE", "shape": [1, 1, 3], "bits": 7, "couplings": 1, "hidden": [4], "prior": "logistic", )"
      R"("order": "tile", "preprocess": "none", "conditioner_dtype": "float32", "seed": 0, "dtype": "float32"})";
  const ModelConfig config = parse_config(text);
  CHECK(to_json(parse_config(to_json(config))) == to_json(config));
  CHECK(to_json(config).find("[1, 1, 3]") != std::string::npos);
  CHECK(Model(Trainable<float>(config)).bits() == 7);
}

TEST_CASE("what no reader takes leaves the older file") {
  const TemporaryFile file("older.safetensors");
  Trainable<float> model = initialised<float>(table());
  Optimizer<float> optimizer(model.flow.layout(), {});
  save(file.path, model);
  const float kept = model.arena.values()[0];
  model.arena.values()[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(save(file.path, model), NumericError);
  model.arena.values()[0] = kept;
  CHECK_NOTHROW(load_trainable<float>(file.path));
  save_optimizer(file.path, optimizer);
  optimizer.moments()[1].data()[0] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(
      save_optimizer(file.path, optimizer),
      "[save_optimizer] expected finite values in 'moment1', got NaN or infinity; nothing was "
      "written",
      NumericError);
  CHECK_NOTHROW(load_optimizer(file.path, optimizer));
}

TEST_CASE("an optimiser's file continues it, and no other") {
  const TemporaryFile file("optimizer.safetensors");
  Trainable<float> model = initialised<float>(table());
  Optimizer<float> first(model.flow.layout(), {}), second(model.flow.layout(), {});
  Context ctx;
  for (int64_t i = 0; i < model.flow.layout()->trainable_size(); ++i) model.arena.grads()[i] = 0.1F;
  first.step(ctx, model.arena);
  save_optimizer(file.path, first);
  load_optimizer(file.path, second);
  CHECK(second.steps() == 1);
  CHECK(second.moments() == first.moments());
  OptimizerConfig sgd;
  sgd.rule = Rule::sgd;
  Optimizer<float> third(model.flow.layout(), sgd);
  CHECK_THROWS_AS(load_optimizer(file.path, third), IoError);
  CHECK_THROWS_AS(load(file.path), IoError);
}

/// What load_optimizer says to adam's state after a change of its file.
template <class Change>
std::string error_of_state(const Change& change, Rule rule = Rule::adam) {
  const TemporaryFile file("state.safetensors");
  const Flow<float> flow = coupling_flow<float>(table());
  Optimizer<float> adam(flow.layout(), {});
  adam.set_steps(7);
  save_optimizer(file.path, adam);
  TensorFile state = read_safetensors(file.path);
  change(state);
  std::vector<TensorRef> tensors;
  for (const auto& [name, tensor] : state.tensors) {
    tensors.push_back({name, tensor.dtype, tensor.shape, tensor.bytes.data()});
  }
  write_safetensors(file.path, tensors, state.metadata);
  OptimizerConfig config;
  config.rule = rule;
  Optimizer<float> reader(flow.layout(), config);
  try {
    load_optimizer(file.path, reader);
  } catch (const IoError& error) {
    CHECK(reader.steps() == 0);
    return error.what();
  }
  CHECK(reader.steps() == 7);
  return "";
}

TEST_CASE("an optimiser's file is of its rule, and holds a state that the rule can have") {
  const auto as_it_is = [](TensorFile&) {};
  CHECK(error_of_state(as_it_is) == "");
  CHECK(error_of_state(as_it_is, Rule::adamax).find("expected the state of adamax, got 'adam'") !=
        std::string::npos);
  CHECK(error_of_state(as_it_is, Rule::rmsprop).find("got 'adam'") != std::string::npos);
  const auto as_once = [](TensorFile& state) { state.metadata.erase("rule"); };
  CHECK(error_of_state(as_once) == "");
  const auto negative = [](TensorFile& state) {
    const float value = -1;
    std::memcpy(state.tensors.at("moment1").bytes.data(), &value, sizeof value);
  };
  CHECK(error_of_state(negative).find("expected values >= 0 in 'moment1'") != std::string::npos);
  const auto endless = [](TensorFile& state) { state.metadata["steps"] = "9223372036854775807"; };
  CHECK(error_of_state(endless).find("expected a number of steps") != std::string::npos);
  const auto unfinished = [](TensorFile& state) { state.metadata["steps"] += "x"; };
  CHECK(error_of_state(unfinished).find("expected a number of steps, got '7x'") != std::string::npos);
  const auto third = [](TensorFile& state) { state.tensors["moment2"] = state.tensors.at("moment1"); };
  CHECK(error_of_state(third).find("expected 2 moments, got 3") != std::string::npos);
  Optimizer<float> optimizer(coupling_flow<float>(table()).layout(), {});
  CHECK_THROWS_AS(optimizer.set_steps(kMostSteps + 1), ConfigError);
  CHECK_THROWS_AS(optimizer.set_steps(-1), ConfigError);
}

TEST_CASE("an optimiser keeps the rule that its moments are of") {
  Trainable<float> model = initialised<float>(table());
  Context ctx;
  for (const Rule made_for : {Rule::sgd, Rule::adam}) {
    const Rule other = made_for == Rule::sgd ? Rule::adam : Rule::sgd;
    OptimizerConfig config;
    config.rule = made_for;
    Optimizer<float> optimizer(model.flow.layout(), config);
    for (int64_t i = 0; i < model.flow.layout()->trainable_size(); ++i) model.arena.grads()[i] = 0.1F;
    optimizer.config().rule = other;
    const float before = model.arena.values()[0];
    const std::string text = std::string("[optimizer] expected the rule that its moments are of, ") +
                             to_string(made_for) + ", got " + to_string(other);
    CHECK_THROWS_WITH_AS(optimizer.step(ctx, model.arena), text.c_str(), ConfigError);
    CHECK_THROWS_WITH_AS(optimizer.next_rate(), text.c_str(), ConfigError);
    CHECK_THROWS_WITH_AS(optimizer.check(model.arena), text.c_str(), ConfigError);
    CHECK((optimizer.steps() == 0 && model.arena.values()[0] == before));
    const TemporaryFile file("rule.safetensors");
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
  const int64_t all = std::numeric_limits<int64_t>::max(), rows = all / 20;
  for (const int64_t n : {all, rows + 1}) {
    const std::string text = "[log_prob] expected at most " + std::to_string(rows) +
                             " samples of 20 bytes, got " + std::to_string(n);
    CHECK_THROWS_WITH_AS(model.log_prob(ctx, x, n, out), text.c_str(), ShapeError);
    CHECK_THROWS_AS(model.bits_per_dim(ctx, x, n, out), ShapeError);
    CHECK_THROWS_AS(model.forward(ctx, x, n, x, out), ShapeError);
    CHECK_THROWS_AS(model.inverse(ctx, x, n, x, out), ShapeError);
    CHECK_THROWS_AS(model.encode(ctx, x, n, x), ShapeError);
    CHECK_THROWS_AS(model.decode(ctx, x, n, x), ShapeError);
    CHECK_THROWS_AS(model.sample(ctx, n, x), ShapeError);
    CHECK_THROWS_AS(model.verify(ctx, x, n), ShapeError);
  }
  const Model images(initialised<float>(glow_with_classes()));
  const uint8_t levels[32] = {};
  const int32_t label[1] = {};
  CallOptions options;
  options.labels = label;
  CHECK_THROWS_AS(images.log_prob(ctx, levels, all, out, options), ShapeError);
}

TEST_CASE("settings of another model than the flow leave the older file") {
  const TemporaryFile file("settings.safetensors");
  Trainable<float> model = initialised<float>(table());
  save(file.path, model);
  const std::string older = load(file.path).config();
  const auto error = [&](const auto& change) {
    ModelConfig config = model.config;
    change(config, std::get<CouplingFlowConfig>(config.model));
    std::swap(config, model.config);
    std::string text;
    try {
      save(file.path, model);
    } catch (const ConfigError& refused) {
      text = refused.what();
    }
    std::swap(config, model.config);
    CHECK(load(file.path).config() == older);
    return text;
  };
  const std::string start = "[save] expected settings of the flow that is saved, ";
  CHECK(error([](ModelConfig& c, auto&) { c.model = glow_with_classes(); }) ==
        start + "for samples of (0, 1, 1, 5), got (0, 4, 4, 2)");
  CHECK(error([](ModelConfig& c, auto&) { c.dtype = Dtype::float64; }) == start + "in float32, got float64");
  CHECK(error([](ModelConfig&, CouplingFlowConfig& t) { t.hidden = {8, 9}; }).rfind(start + "with '", 0) ==
        0);
  CHECK(error([](ModelConfig&, CouplingFlowConfig& t) { t.couplings = 2; }).rfind(start + "with '", 0) == 0);
  CHECK(error([](ModelConfig&, CouplingFlowConfig& t) { t.couplings = 4; }).rfind(start + "with ", 0) == 0);
  CHECK(error([](ModelConfig&, CouplingFlowConfig& t) { t.base = "logistic"; }).rfind(start + "of its", 0) ==
        0);
  const std::string none = "[save] these are no settings of a model: ";
  CHECK(error([](ModelConfig&, CouplingFlowConfig& t) { t.hidden = {0}; }).rfind(none, 0) == 0);
  CHECK(error([](ModelConfig&, CouplingFlowConfig& t) { t.dims = 0; }).rfind(none, 0) == 0);
  model.config.seed = 8;  // says where the flow is from
  CHECK_NOTHROW(save(file.path, model));
}

TEST_CASE("a model from bytes in memory") {
  const TemporaryFile file("bytes.safetensors");
  save(file.path, initialised<float>(table()));
  std::ifstream stream(file.path, std::ios::binary);
  std::vector<char> bytes(1, 0);  // one more, to be out of step with any alignment
  bytes.insert(bytes.end(), std::istreambuf_iterator<char>(stream), {});
  const size_t size = bytes.size() - 1;
  const Model model = load(file.path), other = load(bytes.data() + 1, size);
  CHECK(other.config() == model.config());
  Context ctx;
  const std::vector<float> x = draws<float>(3 * model.dims(), 1, 0);
  std::vector<double> wanted(3), got(3);
  model.log_prob(ctx, x.data(), 3, wanted.data());
  const std::vector<char> kept = bytes;
  std::fill(bytes.begin(), bytes.end(), 0);  // they are the caller's again
  other.log_prob(ctx, x.data(), 3, got.data());
  CHECK(got == wanted);

  const auto error = [](const std::vector<char>& all, size_t count) {
    try {
      load(all.data() + 1, count, "part 7");
    } catch (const IoError& refused) {
      return std::string(refused.what());
    }
    return std::string();
  };
  const auto is_refused = [](const std::string& text) {
    return text.rfind("[load] expected ", 0) == 0 && text.find("(part 7)") != std::string::npos;
  };
  for (const size_t count : {size_t{0}, size_t{1}, size_t{8}, size_t{100}, size / 2, size - 1}) {
    CHECK_MESSAGE(is_refused(error(kept, count)), count, ": ", error(kept, count));
  }
  std::vector<char> damaged = kept;
  damaged.back() ^= 1;
  CHECK_MESSAGE(is_refused(error(damaged, size)), error(damaged, size));
  std::vector<char> longer = kept;
  longer.push_back(0);
  CHECK_MESSAGE(is_refused(error(longer, size + 1)), error(longer, size + 1));
  CHECK(error(kept, std::numeric_limits<size_t>::max()).find("expected at most 9223372036854775807 bytes") !=
        std::string::npos);
  CHECK_THROWS_WITH_AS(load(nullptr, 0), "[load] expected the bytes of a model file, got a null pointer",
                       ConfigError);

  evenflow_model* handle = nullptr;
  REQUIRE(evenflow_load_bytes(kept.data() + 1, size, &handle) == EVENFLOW_OK);
  evenflow_context* context = nullptr;
  REQUIRE(evenflow_context_create(1, &context) == EVENFLOW_OK);
  CHECK(evenflow_log_prob(handle, context, EVENFLOW_FLOAT32, x.data(), 3, nullptr, got.data()) ==
        EVENFLOW_OK);
  CHECK(got == wanted);
  evenflow_context_free(context);
  evenflow_model_free(handle);
  CHECK(evenflow_load_bytes(damaged.data() + 1, size, &handle) == EVENFLOW_IO_ERROR);
  CHECK(handle == nullptr);
  CHECK(std::string(evenflow_last_error()).rfind("[load_bytes] expected ", 0) == 0);
  CHECK(evenflow_load_bytes(kept.data() + 1, 0, &handle) == EVENFLOW_IO_ERROR);
  CHECK(evenflow_load_bytes(kept.data() + 1, size / 2, &handle) == EVENFLOW_IO_ERROR);
  CHECK(evenflow_load_bytes(nullptr, size, &handle) == EVENFLOW_CONFIG_ERROR);
  CHECK(evenflow_load_bytes(kept.data() + 1, size, nullptr) == EVENFLOW_CONFIG_ERROR);
}

TEST_CASE("errors of files begin with the call") {
  const std::string absent = "/no such folder/model.safetensors";
  Trainable<float> model = initialised<float>(table());
  Optimizer<float> optimizer(model.flow.layout(), {});
  const auto begins = [](const char* start, const auto& call) {
    try {
      call();
    } catch (const IoError& error) {
      CHECK_MESSAGE(std::string(error.what()).rfind(start, 0) == 0, error.what());
      CHECK(std::string(error.what()).find("(/no such folder/model.safetensors)") != std::string::npos);
      return;
    }
    FAIL_CHECK(start);
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
  CHECK_THROWS_WITH_AS(Context("cpu", 1025), "[context] expected threads in 0 ... 1024, got 1025",
                       ConfigError);
  CHECK(text_of(1234567, ' ', 1.5) == "1234567 1.5");
  const ModelConfig config{glow_with_classes(), Dtype::float32, 1234567};
  const std::string text = to_json(config);
  CHECK(text.find("\"class_weight\": 0.1, \"bits\": 5, \"seed\": 1234567,") != std::string::npos);
  CHECK(to_json(parse_config(text)) == text);
}

TEST_CASE("numbers as texts read as the same numbers") {
  CHECK(exact_text(0.1) == "0.1");
  CHECK(exact_text(0.1f) == "0.1");
  CHECK(exact_text(-100000.0) == "-100000");
  CHECK(exact_text(1e16) == "1e+16");
  CHECK(exact_text(0.0001) == "0.0001");
  CHECK(exact_text(0.00001) == "1e-05");
  CHECK(exact_text(1 / 3.0) == "0.3333333333333333");
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
  CHECK_THROWS_WITH_AS(Context("cpu", 1025), "[context] expected threads in 0 ... 1024, got 1025",
                       ConfigError);
  CHECK_THROWS_AS(Context("cpu", std::numeric_limits<int>::max()), ConfigError);
  CHECK_THROWS_AS(Context("cpu", -1), ConfigError);
  CHECK(Context("cpu", 1024).threads() == 1024);
  evenflow_context* context = nullptr;
  CHECK(evenflow_context_create(1000000, &context) == EVENFLOW_CONFIG_ERROR);
  CHECK(context == nullptr);
}

}  // namespace
}  // namespace evenflow::test
