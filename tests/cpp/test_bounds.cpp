#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "check_layer.hpp"
#include "embedded.hpp"

// Columns within bounds: the layer, and models of programs.

namespace evenflow::test {
namespace {

constexpr double kOpen = std::numeric_limits<double>::infinity();

/// Both ends, one, the other and none in turn, around the harness's inputs.
std::vector<Bounds> in_turn(int64_t columns) {
  const Bounds kinds[] = {{-2, 1.75}, {-1.625, kOpen}, {-kOpen, 2}, {}};
  std::vector<Bounds> bounds;
  for (int64_t c = 0; c < columns; ++c) bounds.push_back(kinds[c % 4]);
  return bounds;
}

TEST_CASE("columns within bounds: the layer") {
  // 70 columns are three blocks of a kernel.
  for (const Shape& shape : {Shape{0, 1, 1, 2}, Shape{0, 1, 1, 7}, Shape{0, 3, 2, 4}, Shape{0, 1, 1, 70}}) {
    LayerCase c;
    c.name = "unbound " + to_string(shape);
    c.make64 = [shape] { return unbound<double>(shape, in_turn(shape.c)); };
    c.make32 = [shape] { return unbound<float>(shape, in_turn(shape.c)); };
    CAPTURE(c.name);
    for (const int64_t batch : {3, 1}) {
      c.batch = batch;
      const Report report = check_layer(c);
      CHECK_MESSAGE(report.empty(), joined(report));
    }
  }
}

TEST_CASE_TEMPLATE("columns within bounds: samples lie strictly inside, and have a density", T, float,
                   double) {
  const Shape shape{2, 1, 1, 4};
  Flow<T> flow(shape.with_batch(0), Base::gaussian);
  flow.add("bounds", unbound<T>({0, 1, 1, 4}, {{0, 1}, {3, kOpen}, {-kOpen, -3}, {-kOpen, 0}}));
  flow.finalize();
  ParamArena<T> arena(flow.layout());
  tensor(arena, "initialized").fill(1);
  Context ctx("cpu", 1);
  const T far = sizeof(T) == sizeof(float) ? T(120) : T(800);
  const std::vector<T> z{-far, -far, far, far, far, T(5), T(-5), T(-5)};
  std::vector<T> x(8);
  std::vector<double> density(2);
  flow.inverse(ctx, arena, z.data(), 2, nullptr, {x.data(), shape}, density.data());
  CHECK(x[0] == std::numeric_limits<T>::denorm_min());
  CHECK(x[1] == std::nextafter(T(3), T(4)));
  CHECK(x[2] == std::nextafter(T(-3), T(-4)));
  CHECK(x[3] == -std::numeric_limits<T>::denorm_min());
  CHECK(x[4] == std::nextafter(T(1), T(0)));
  CHECK(x[5] == doctest::Approx(3 + std::exp(5.0)));
  CHECK(x[6] == doctest::Approx(-3 - std::exp(5.0)));
  flow.log_prob(ctx, arena, {x.data(), shape}, nullptr, density.data());
  CHECK(std::isfinite(density[0] + density[1]));
}

TEST_CASE_TEMPLATE("a model with bounds: saved, loaded and verified", T, float, double) {
  // Ends that float32 rounds, a latent range of many orders, and much of the data near an end.
  CouplingFlowConfig config = plain_table();
  config.dims = config.couplings = 2;
  config.hidden = {5};
  config.bounds = {{0.1, 0.7}, {2, kOpen}};
  Trainable<T> trained(ModelConfig{config, dtype_of<T>(), 3});
  constexpr int64_t kRows = 200, kDraws = 5000;
  std::vector<T> x, drawn(2 * kDraws);
  Rng rng(5, Stream::test);
  for (int64_t i = 0; i < kRows; ++i) {
    x.push_back(static_cast<T>(0.1 + 0.6 * std::pow(rng.uniform(0.001, 0.999), 3)));
    x.push_back(static_cast<T>(2 + std::exp(2 * rng.normal())));
  }
  Context ctx("cpu", 1);
  trained.flow.init_from_data(ctx, trained.arena, {x.data(), {kRows, 1, 1, 2}});
  add_noise(trained.arena, 0.1);
  const TemporaryFile file("bounds.safetensors");
  save(file.path, trained);
  const Model model = load(file.path);
  model.sample(ctx, kDraws, drawn.data());
  for (size_t i = 0; i < drawn.size(); i += 2) {
    CHECK((drawn[i] > static_cast<T>(0.1) && drawn[i] < static_cast<T>(0.7)));
    CHECK(drawn[i + 1] > T(2));
  }
  const VerifyReport report = model.verify(ctx, x.data(), kRows);
  CHECK_MESSAGE(report.ok, report.error, " z ", report.round_trip_z, " precision ", report.precision,
                " jacobian ", report.jacobian);
  x[3] = T(2);
  double density[2];
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), 2, density),
                       "[log_prob] expected values above 2 for column 1, got 2 for sample 1", NumericError);
}

}  // namespace
}  // namespace evenflow::test
