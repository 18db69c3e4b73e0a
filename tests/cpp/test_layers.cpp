#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "check_layer.hpp"
#include "laws.hpp"

namespace evenflow::test {
namespace {

/// A case from one generic maker: `make` is called with a value of the type wanted.
template <class Make>
LayerCase layer_case(const std::string& name, const Make& make) {
  LayerCase c;
  c.name = name;
  c.make64 = [make] { return make(double()); };
  c.make32 = [make] { return make(float()); };
  return c;
}

void check(const LayerCase& c) {
  CAPTURE(c.name);
  const Report report = check_layer(c);
  CHECK_MESSAGE(report.empty(), joined(report));
}

template <class Make>
void check(const std::string& name, const Make& make) {
  check(layer_case(name, make));
}

std::string text(const Shape& s) {
  return " " + to_string(s);
}

/// What a layer makes of x after its initialisation with it, the log-determinants at the end.
std::vector<double> applied(std::unique_ptr<Layer<double>> layer, const Shape& shape,
                            const std::vector<double>& x, double noise = 0) {
  const View<const double> view(x.data(), shape);
  const Fixture<double> f(std::move(layer), 7, view, noise);
  const ParamArena<double>& arena = *f.arena;
  Context ctx("cpu", 1);
  std::vector<double> z(x.size() + static_cast<size_t>(shape.n));
  f.layer->forward(ctx, arena.params(), view, View<double>(z.data(), shape), z.data() + x.size());
  return z;
}

// Odd channel counts, two channels, one pixel, sizes that fit no block.
const Shape kShapes[] = {{0, 1, 1, 2}, {0, 1, 1, 7}, {0, 3, 2, 4}, {0, 2, 5, 3}, {0, 1, 3, 6}};

TEST_CASE("channel-wise layers, permutations, flatten") {
  for (const Shape& shape : kShapes) {
    check("actnorm" + text(shape), [=](auto t) { return actnorm<decltype(t)>(shape); });
    check("rescale" + text(shape), [=](auto t) { return rescale<decltype(t)>(shape, 1.5, 3); });
    check("standardize" + text(shape), [=](auto t) { return standardize<decltype(t)>(shape); });
    check("flatten" + text(shape), [=](auto t) { return flatten<decltype(t)>(shape); });
    LayerCase c = layer_case("scaling" + text(shape), [=](auto t) { return scaling<decltype(t)>(shape); });
    for (c.batch = 1; c.batch <= 3; c.batch += 2) check(c);
    for (Order order : {Order::reverse, Order::shuffle, Order::even_first}) {
      check("permutation" + text(shape), [=](auto t) { return permutation<decltype(t)>(shape, order); });
    }
  }
}

TEST_CASE("logit and the unit box") {
  for (const Shape& shape : kShapes) {
    LayerCase c = layer_case("logit" + text(shape), [=](auto t) { return logit<decltype(t)>(shape); });
    c.low = 0.001;
    c.high = 0.999;
    check(c);
    c = layer_case("unit_box" + text(shape), [=](auto t) { return unit_box<decltype(t)>(shape); });
    c.low = c.latent_low = 0.001;
    c.high = c.latent_high = 0.999;
    check(c);
  }
}

TEST_CASE("squeezes") {
  for (SqueezeOrder order : {SqueezeOrder::raster, SqueezeOrder::diagonal}) {
    for (const Shape& shape : {Shape{0, 2, 2, 1}, Shape{0, 4, 6, 3}}) {
      check("squeeze" + text(shape), [=](auto t) { return squeeze<decltype(t)>(shape, order); });
    }
    check("unsqueeze", [=](auto t) { return unsqueeze<decltype(t)>({0, 2, 1, 8}, order); });
  }
  for (const Shape& odd : {Shape{0, 3, 2, 1}, Shape{0, 2, 3, 1}}) {
    CHECK_THROWS_WITH_AS(squeeze<double>(odd, SqueezeOrder::raster),
                         doctest::Contains("[squeeze] expected even height and width, got "), ShapeError);
  }
  CHECK_THROWS_WITH_AS(unsqueeze<double>({0, 1, 1, 6}, SqueezeOrder::raster),
                       "[unsqueeze] expected a multiple of 4 channels, got 6", ShapeError);
}

TEST_CASE("a layer refuses arrays of another shape, whichever they are") {
  const Shape in{2, 2, 2, 1}, out{2, 1, 1, 4}, other{2, 1, 2, 2};  // as many values
  const std::unique_ptr<Layer<double>> layer = squeeze<double>(in, SqueezeOrder::raster);
  Context ctx("cpu", 1);
  double x[8] = {}, dx[8] = {}, z[8] = {}, dz[8] = {}, logdet[2] = {};
  const Params<double> none;
  using Views = std::vector<View<double>>;
  const auto check_call = [&](const char* call, const std::vector<std::string>& names, const Views& right,
                              const std::function<void(const Views&)>& f) {
    CHECK_NOTHROW(f(right));
    for (size_t i = 0; i < names.size(); ++i) {
      Views views = right;
      views[i] = View<double>(views[i].data, other);
      const std::string text = "[squeeze." + std::string(call) + "] expected " + names[i] + " of shape ";
      CHECK_THROWS_WITH_AS(f(views), doctest::Contains(text.c_str()), ShapeError);
    }
  };
  check_call("forward", {"x", "z"}, {{x, in}, {z, out}},
             [&](const Views& v) { layer->forward(ctx, none, v[0], v[1], logdet); });
  check_call("inverse", {"z", "x"}, {{z, out}, {x, in}},
             [&](const Views& v) { layer->inverse(ctx, none, v[0], v[1], logdet); });
  check_call("backward", {"z", "dz", "x", "dx"}, {{z, out}, {dz, out}, {x, in}, {dx, in}},
             [&](const Views& v) { layer->backward(ctx, none, v[0], v[1], logdet, v[2], v[3]); });
  check_call("inverse_backward", {"x", "dx", "z", "dz"}, {{x, in}, {dx, in}, {z, out}, {dz, out}},
             [&](const Views& v) { layer->inverse_backward(ctx, none, v[0], v[1], logdet, v[2], v[3]); });
}

TEST_CASE("1x1 convolutions") {
  for (const Shape& shape : {Shape{0, 1, 1, 2}, Shape{0, 3, 2, 5}, Shape{0, 2, 2, 12}, Shape{0, 1, 1, 1}}) {
    for (MatrixStart start : {MatrixStart::rotation, MatrixStart::identity}) {
      check("lu" + text(shape), [=](auto t) { return lu_conv1x1<decltype(t)>(shape, start); });
    }
    check("plain" + text(shape), [=](auto t) { return plain_conv1x1<decltype(t)>(shape); });
  }
  // Of many channels, whose factors are applied one by one, in two blocks and a part.
  LayerCase wide = layer_case("of 150", [](auto t) { return lu_conv1x1<decltype(t)>({0, 1, 1, 150}); });
  wide.noise = 0.002;
  check(wide);
  const std::vector<double> x = random_values(12, 4, -2, 2),
                            z = applied(lu_conv1x1<double>({0, 1, 1, 3}, MatrixStart::identity), {4, 1, 1, 3},
                                        x);
  CHECK(std::equal(x.begin(), x.end(), z.begin()));
  CHECK(std::all_of(z.end() - 4, z.end(), [](double logdet) { return logdet == 0; }));
}

TEST_CASE("a permutation's indices are numbers of its type") {
  const Shape most{0, 1, 1, int64_t{1} << 24};
  CHECK_NOTHROW(permutation<float>(most, Order::reverse));
  CHECK_THROWS_AS(permutation<float>(most.with_channels(most.c + 1), Order::reverse), ConfigError);
  CHECK_NOTHROW(permutation<double>(most.with_channels(most.c + 1), Order::reverse));
}

TEST_CASE("whitening") {
  for (Whitening kind : {Whitening::zca, Whitening::covariance}) {
    LayerCase c = layer_case("whiten", [=](auto t) { return whiten<decltype(t)>({0, 1, 1, 3}, kind); });
    c.batch = 9;
    check(c);
  }
  for (uint64_t seed = 0; seed < 20; ++seed) {  // columns that depend on each other
    std::vector<double> x = random_values(120, seed, -1, 1);
    for (size_t i = 0; i < 120; i += 3) x[i + 2] = x[i] + x[i + 1];
    CHECK_THROWS_AS(applied(whiten<double>({0, 1, 1, 3}, Whitening::covariance), {40, 1, 1, 3}, x),
                    NumericError);
  }
}

TEST_CASE("actnorm makes channels of a small spread unit ones") {
  std::vector<double> x = random_values(100, 4, -0.01, 0.01);
  for (double& v : x) v += 5;
  const std::vector<double> z = applied(actnorm<double>({0, 1, 1, 2}), {50, 1, 1, 2}, x);
  for (size_t c = 0; c < 2; ++c) {
    double square = 0;
    for (size_t i = c; i < 100; i += 2) square += z[i] * z[i] / 50;
    CHECK(std::sqrt(square) == doctest::Approx(1).epsilon(1e-3));
  }
}

template <class Make>
void check_batch_norm(const Make& make, int64_t batch = 5) {
  LayerCase c = layer_case("batch_norm", make);
  c.batch = batch;
  for (const bool training : {false, true}) {
    c.training = training;
    check(c);
  }
}

TEST_CASE("couplings and batch norms, every law and mask") {
  for (const Mask mask : kMasks) {
    const Shape normed = is_checkerboard(mask) ? Shape{0, 3, 2, 2} : Shape{0, 1, 2, 5};
    check_batch_norm([=](auto t) { return batch_norm<decltype(t)>(normed, mask); });
    for (const Shape& shape : {Shape{0, 1, 1, 2}, Shape{0, 1, 1, 5}, Shape{0, 3, 2, 4}}) {
      const MaskSizes sizes = mask_sizes(mask, shape.c);
      const Shape pass = shape.with_channels(sizes.pass);
      for (const LawOptions& law : every_law()) {
        for (const bool interleaved : {false, true}) {
          check("law " + law.name + " mask " + std::to_string(static_cast<int>(mask)) + text(shape),
                [=](auto t) {
                  using T = decltype(t);
                  const int64_t outputs = sizes.change * numbers_of_law(law);
                  return coupling<T>(shape, mask, mlp<T>(pass, outputs, {6, 5}, MlpInit::uniform_zero),
                                     {law, interleaved, {}});
                });
        }
      }
    }
  }
}

TEST_CASE("couplings and batch norms of listed channels") {
  const Shape shape{0, 1, 2, 5};
  for (const std::vector<int64_t>& changed :
       {std::vector<int64_t>{0}, {4}, {2}, {0, 4}, {1, 2, 4}, {0, 1, 2}, {2, 3, 4}}) {
    const int64_t change = static_cast<int64_t>(changed.size());
    check_batch_norm([=](auto t) { return batch_norm<decltype(t)>(shape, changed); });
    for (const LawOptions& law : every_law()) {
      const Shape pass = shape.with_channels(shape.c - change);
      check("law " + law.name + " of " + std::to_string(change), [=](auto t) {
        using T = decltype(t);
        const int64_t outputs = change * numbers_of_law(law);
        return coupling<T>(shape, changed, mlp<T>(pass, outputs, {6, 5}, MlpInit::uniform_zero),
                           {law, false, {}});
      });
    }
  }
  std::vector<int64_t> thirds;  // of 600 channels, of which a kernel takes 256
  for (int64_t c = 0; c < 600; c += 3) thirds.push_back(c);
  LayerCase wide =
      layer_case("wide", [=](auto t) { return batch_norm<decltype(t)>({0, 1, 1, 600}, thirds); });
  wide.batch = 1;
  check(wide);
}

TEST_CASE("laws of each channel by itself") {
  for (const Shape& shape : {Shape{0, 1, 1, 1}, Shape{0, 1, 1, 5}, Shape{0, 3, 2, 5}}) {
    for (const LawOptions& law : every_law()) {
      std::vector<std::vector<int64_t>> lists{{0}};
      if (shape.c > 1) lists = {{0, 1, 2, 3, 4}, {0, 1}, {3, 4}, {1, 4}};
      for (const std::vector<int64_t>& changed : lists) {
        LayerCase c =
            layer_case("elementwise " + law.name + " of " + std::to_string(changed.size()) + text(shape),
                       [=](auto t) { return elementwise<decltype(t)>(shape, changed, law); });
        c.noise = 1;
        c.low = law.unit_interval ? 0 : -3;
        c.high = law.unit_interval ? 1 : 3;
        check(c);
      }
    }
  }
  CHECK_THROWS_WITH_AS(elementwise<double>({0, 1, 1, 2}, {}, {}),
                       doctest::Contains("expected a channel that changes"), ShapeError);
}

TEST_CASE("a mask that lists channels is the one that says the same by a name") {
  const Shape shape{4, 1, 1, 5};
  const std::vector<double> x = random_values(20, 4, -1, 1);
  const std::pair<Mask, std::vector<int64_t>> pairs[] = {{Mask::first_half, {0, 1, 2}},
                                                         {Mask::second_half, {3, 4}},
                                                         {Mask::odd, {1, 3}},
                                                         {Mask::even, {0, 2, 4}}};
  for (const auto& [mask, listed] : pairs) {
    const int64_t change = static_cast<int64_t>(listed.size());
    const auto with = [&, n = change](const auto& which) {
      auto net = mlp<double>({0, 1, 1, 5 - n}, 2 * n, {6}, MlpInit::nice);
      return applied(coupling<double>(shape, which, std::move(net), law_options("affine")), shape, x, 0.2);
    };
    const std::vector<double> z = with(mask);
    CHECK(z == with(listed));
    for (int64_t i = 0; i < 20; ++i)
      CHECK((x[i] == z[i]) == (std::find(listed.begin(), listed.end(), i % 5) == listed.end()));
  }
}

TEST_CASE("lists of channels that are no mask are refused") {
  const Shape shape{0, 1, 1, 3};
  const auto with = [&](const std::vector<int64_t>& changed, int64_t inputs) {
    const int64_t change = std::max<int64_t>(1, static_cast<int64_t>(changed.size()));
    return coupling<double>(shape, changed, mlp<double>({0, 1, 1, inputs}, change, {}, MlpInit::nice),
                            law_options("additive"));
  };
  CHECK_NOTHROW(with({0, 2}, 1));
  CHECK_NOTHROW(with({0, 1, 2}, 2));  // of a context
  CHECK_THROWS_WITH_AS(with({2, 0}, 1), doctest::Contains("in increasing order, got 0 after 2"), ShapeError);
  CHECK_THROWS_AS(with({0, 0}, 1), ShapeError);
  CHECK_THROWS_WITH_AS(with({3}, 2), doctest::Contains("expected changed channels in 0 ... 2"), ShapeError);
  CHECK_THROWS_AS(with({-1}, 2), ShapeError);
  CHECK_THROWS_WITH_AS(with({}, 3), doctest::Contains("expected a channel that changes, and one that passes"),
                       ShapeError);
}

TEST_CASE("couplings of tables, every net and activation, with and without a context") {
  for (const Activation activation : kActivations) {
    for (const int64_t dims : {2, 5}) {
      const Shape shape{0, 1, 1, dims};
      const MaskSizes sizes = mask_sizes(Mask::second_half, dims);
      for (const int64_t context : {0, 3}) {
        const Shape in = shape.with_channels(sizes.pass + context);
        for (const bool residual : {false, true}) {
          LayerCase c = layer_case(std::to_string(static_cast<int>(activation)) + text(in), [=](auto t) {
            using T = decltype(t);
            const int64_t outputs = 2 * sizes.change;
            auto net = residual
                           ? residual_net<T>(in, outputs, {7, 1 + dims % 2, context, activation})
                           : mlp<T>(in, outputs, {6, 5}, MlpInit::uniform_zero, NetDtype::same, activation);
            return coupling<T>(shape, Mask::second_half, std::move(net), law_options("affine"));
          });
          c.context = context;
          for (c.batch = 1; c.batch <= 3; c.batch += 2) check(c);
        }
      }
    }
  }
}

TEST_CASE("top prior") {
  for (const Shape& shape : {Shape{0, 1, 1, 2}, Shape{0, 2, 3, 3}}) {
    for (const auto& [learned, classes] : {std::pair(true, 0), {true, 3}, {false, 3}}) {
      LayerCase c = layer_case("top_prior" + text(shape), [=, l = learned, n = classes](auto t) {
        return top_prior<decltype(t)>(shape, l, n);
      });
      c.classes = classes;
      check(c);
    }
  }
  const Shape shape{2, 1, 1, 2};
  std::vector<double> x(4), dx(4), results(2);
  CHECK_THROWS_WITH_AS(applied(top_prior<double>(shape, true, 3), shape, x),
                       doctest::Contains("expected 2 labels for a class-conditional model"), ConfigError);
  Context ctx("cpu", 1);
  CHECK_THROWS_WITH_AS(
      ClassHead<double>(shape, 3, 1)
          .backward(ctx, {}, {x.data(), shape}, 1, nullptr, {dx.data(), shape}, results.data()),
      "[class_head] expected 2 labels, got none", ConfigError);
}

template <class Make>
void check_net(const std::string& name, const Make& make, bool training = false) {
  NetCase c;
  c.make64 = [make] { return make(double()); };
  c.make32 = [make] { return make(float()); };
  c.training = training;
  CAPTURE(name);
  const Report report = check_conditioner(c);
  CHECK_MESSAGE(report.empty(), joined(report));
}

TEST_CASE("conditioners: mlp, Glow's net, the split prior's, and of every activation over pixels") {
  for (const Shape& shape : {Shape{0, 1, 1, 1}, Shape{0, 3, 2, 2}, Shape{0, 1, 4, 3}}) {
    check_net("mlp" + text(shape),
              [=](auto t) { return mlp<decltype(t)>(shape, shape.c, {5, 4}, MlpInit::uniform_zero); });
    check_net("glow_net" + text(shape), [=](auto t) { return glow_net<decltype(t)>(shape, shape.c, 6); });
    check_net("zero_conv" + text(shape), [=](auto t) { return zero_conv<decltype(t)>(shape, shape.c); });
  }
  const Shape shape{0, 2, 3, 3};
  for (const Activation activation : kActivations) {
    check_net("mlp", [=](auto t) {
      return mlp<decltype(t)>(shape, 3, {17}, MlpInit::uniform_zero, NetDtype::same, activation);
    });
    check_net("residual_net",
              [=](auto t) { return residual_net<decltype(t)>(shape, 3, {17, 3, 1, activation}); });
  }
}

TEST_CASE("a residual net refuses sizes that it can't have") {
  const Shape in{0, 1, 1, 3};
  CHECK_THROWS_AS(residual_net<double>(in, 2, {0, 1}), ConfigError);
  CHECK_THROWS_AS(residual_net<double>(in, 2, {4, 0}), ConfigError);
  CHECK_THROWS_AS(residual_net<double>(in, 2, {4, 1, 4}), ShapeError);
  CHECK_THROWS_AS(residual_net<double>(in, 2, {4, 1, -1}), ShapeError);
  CHECK_THROWS_AS(residual_net<double>(in, 2, {4, 1, 0, Activation::relu, NetDtype::bfloat16}), ConfigError);
}

TEST_CASE("weights and biases of an mlp start as wide as its kind says") {
  // Of dense layers 50 -> 400 -> 30, in the order of their declaration.
  const auto check_start = [](MlpInit kind, const std::vector<double>& bounds) {
    const std::unique_ptr<Conditioner<double>> net = mlp<double>({0, 1, 1, 50}, 30, {400}, kind);
    const auto layout = std::make_shared<ParamLayout>();
    net->declare(Scope(*layout, "net"));
    layout->finalize();
    ParamArena<double> arena(layout);
    Rng rng(3);
    net->init(arena, rng);
    REQUIRE(layout->entries().size() == bounds.size());
    for (size_t k = 0; k < bounds.size(); ++k) {
      const ParamLayout::Entry& e = layout->entries()[k];
      const double n = static_cast<double>(e.size), *values = arena.values() + e.offset;
      const double mean = std::accumulate(values, values + e.size, 0.0) / n,
                   rms = std::sqrt(std::inner_product(values, values + e.size, values, 0.0) / n);
      CHECK(std::abs(mean) <= 0.1 * bounds[k]);
      CHECK(rms == doctest::Approx(bounds[k] / std::sqrt(3.0)).epsilon(e.size > 1000 ? 0.02 : 0.1));
      CHECK(std::all_of(values, values + e.size, [&](double v) { return std::abs(v) <= bounds[k]; }));
    }
  };
  check_start(MlpInit::nice, {0.01, 0, 0.01, 0});
  check_start(MlpInit::uniform_zero, {1 / std::sqrt(50.0), 1 / std::sqrt(50.0), 0, 0});
}

TEST_CASE("conditioners: Real NVP's residual net, every switch") {
  for (int bits = 0; bits < 64; ++bits) {
    ResNetConfig config;
    config.width = 3;
    config.blocks = (bits & 1) ? 2 : 0;
    config.bottleneck = bits & 2;
    config.skip = bits & 4;
    config.batch_norm = bits & 8;
    config.weight_norm = bits & 16;
    config.checkerboard = (bits & 32) ? 1 : -1;
    const auto make = [=](auto t) { return res_net<decltype(t)>({0, 2, 3, 2}, 2, config); };
    check_net("res_net " + std::to_string(bits), make);
    if (config.batch_norm) check_net("res_net in training " + std::to_string(bits), make, true);
  }
}

}  // namespace
}  // namespace evenflow::test
