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

std::string text(const Shape& s) {
  return " " + to_string(s);
}

// Odd channel counts, two channels, one pixel, sizes that fit no block.
const Shape kShapes[] = {{0, 1, 1, 2}, {0, 1, 1, 7}, {0, 3, 2, 4}, {0, 2, 5, 3}, {0, 1, 3, 6}};

TEST_CASE("channel-wise layers") {
  for (const Shape& shape : kShapes) {
    check(layer_case("actnorm" + text(shape), [shape](auto t) { return actnorm<decltype(t)>(shape); }));
    check(layer_case("scaling" + text(shape), [shape](auto t) { return scaling<decltype(t)>(shape); }));
    check(
        layer_case("rescale" + text(shape), [shape](auto t) { return rescale<decltype(t)>(shape, 1.5, 3); }));
    check(
        layer_case("standardize" + text(shape), [shape](auto t) { return standardize<decltype(t)>(shape); }));
    LayerCase one = layer_case("scaling, N = 1", [shape](auto t) { return scaling<decltype(t)>(shape); });
    one.batch = 1;
    check(one);
  }
}

TEST_CASE("logit") {
  for (const Shape& shape : kShapes) {
    LayerCase c = layer_case("logit" + text(shape), [shape](auto t) { return logit<decltype(t)>(shape); });
    c.low = 0.001;
    c.high = 0.999;
    check(c);
  }
}

TEST_CASE("the unit box") {
  for (const Shape& shape : kShapes) {
    LayerCase c =
        layer_case("unit_box" + text(shape), [shape](auto t) { return unit_box<decltype(t)>(shape); });
    c.low = c.latent_low = 0.001;
    c.high = c.latent_high = 0.999;
    check(c);
  }
}

TEST_CASE("permutations, squeezes, flatten") {
  for (const Shape& shape : kShapes) {
    for (Order order : {Order::reverse, Order::shuffle, Order::even_first}) {
      check(layer_case("permutation" + text(shape),
                       [=](auto t) { return permutation<decltype(t)>(shape, order); }));
    }
    check(layer_case("flatten" + text(shape), [=](auto t) { return flatten<decltype(t)>(shape); }));
  }
  for (SqueezeOrder order : {SqueezeOrder::raster, SqueezeOrder::diagonal}) {
    for (const Shape& shape : {Shape{0, 2, 2, 1}, Shape{0, 4, 6, 3}}) {
      check(layer_case("squeeze" + text(shape), [=](auto t) { return squeeze<decltype(t)>(shape, order); }));
    }
    const Shape shape{0, 2, 1, 8};
    check(layer_case("unsqueeze", [=](auto t) { return unsqueeze<decltype(t)>(shape, order); }));
  }
}

TEST_CASE("sizes that can't be squeezed are refused") {
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
      const std::string text = "[squeeze." + std::string(call) + "] expected " + names[i] + " of shape " +
                               to_string(right[i].shape) + ", got (2, 1, 2, 2)";
      CHECK_THROWS_WITH_AS(f(views), text.c_str(), ShapeError);
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
      check(layer_case("lu" + text(shape), [=](auto t) { return lu_conv1x1<decltype(t)>(shape, start); }));
    }
    check(layer_case("plain" + text(shape), [=](auto t) { return plain_conv1x1<decltype(t)>(shape); }));
  }
}

TEST_CASE("a 1x1 convolution of many channels, whose factors are applied one by one") {
  const Shape shape{0, 1, 1, 66};
  check(layer_case("lu" + text(shape), [=](auto t) { return lu_conv1x1<decltype(t)>(shape); }));
}

TEST_CASE("the factors of a 1x1 convolution are solved in blocks") {
  constexpr int64_t n = 3, c = 150;  // two blocks and a part
  const Shape shape{n, 1, 1, c};
  const std::vector<double> x = random_values(n * c, 4, -2, 2);
  const View<const double> view(x.data(), shape);
  const Fixture<double> f(lu_conv1x1<double>(shape), 7, view, 0.002);
  const ParamArena<double>& arena = *f.arena;
  std::vector<double> z(x.size()), back(x.size()), logdet(n);
  Context ctx("cpu", 1);
  f.layer->forward(ctx, arena.params(), view, View<double>(z.data(), shape), logdet.data());
  f.layer->inverse(ctx, arena.params(), View<const double>(z.data(), shape), View<double>(back.data(), shape),
                   logdet.data());
  for (size_t i = 0; i < x.size(); ++i) CHECK(back[i] == doctest::Approx(x[i]).epsilon(1e-9));
  for (const double both : logdet) CHECK(both == doctest::Approx(0).epsilon(1e-12));
  // inverse_backward computes W itself: z = x W and dz = dx W^-T, of which backward makes dx again.
  const std::vector<double> dx = random_values(n * c, 5, -1, 1), dlogdet(n);
  std::vector<double> by_w(x.size()), dz(x.size()), again(x.size());
  f.layer->inverse_backward(ctx, f.arena->params(), view, View<const double>(dx.data(), shape),
                            dlogdet.data(), View<double>(by_w.data(), shape), View<double>(dz.data(), shape));
  f.layer->backward(ctx, f.arena->params(), View<const double>(z.data(), shape),
                    View<const double>(dz.data(), shape), dlogdet.data(), View<double>(back.data(), shape),
                    View<double>(again.data(), shape));
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK(by_w[i] == doctest::Approx(z[i]).epsilon(1e-9));
    CHECK(again[i] == doctest::Approx(dx[i]).epsilon(1e-9));
    CHECK(back[i] == doctest::Approx(x[i]).epsilon(1e-9));
  }
}

TEST_CASE("an LU convolution that starts as the identity leaves values as they are") {
  const Shape shape{4, 1, 1, 3};
  const std::vector<double> x = random_values(12, 4, -2, 2);
  std::vector<double> z(12), logdet(4);
  const View<const double> view(x.data(), shape);
  const Fixture<double> f(lu_conv1x1<double>(shape, MatrixStart::identity), 7, view, 0);
  Context ctx("cpu", 1);
  const ParamArena<double>& arena = *f.arena;
  f.layer->forward(ctx, arena.params(), view, View<double>(z.data(), shape), logdet.data());
  CHECK(z == x);
  CHECK(logdet == std::vector<double>(4));
}

TEST_CASE("a permutation's indices are numbers of its type") {
  const Shape most{0, 1, 1, int64_t{1} << 24};
  CHECK_NOTHROW(permutation<float>(most, Order::reverse));
  CHECK_THROWS_AS(permutation<float>(most.with_channels(most.c + 1), Order::reverse), ConfigError);
  CHECK_NOTHROW(permutation<double>(most.with_channels(most.c + 1), Order::reverse));
}

TEST_CASE("whitening") {
  for (Whitening kind : {Whitening::zca, Whitening::covariance}) {
    const Shape shape{0, 1, 1, 3};
    LayerCase c = layer_case("whiten", [=](auto t) { return whiten<decltype(t)>(shape, kind); });
    c.batch = 9;
    check(c);
  }
}

TEST_CASE("actnorm makes channels of a small spread unit ones") {
  const Shape shape{50, 1, 1, 2};
  std::vector<double> x = random_values(100, 4, -0.01, 0.01), z(100), logdet(50);
  for (double& v : x) v += 5;
  const Fixture<double> f(actnorm<double>(shape), 7, View<const double>(x.data(), shape), 0);
  Context ctx("cpu", 1);
  const ParamArena<double>& arena = *f.arena;
  f.layer->forward(ctx, arena.params(), View<const double>(x.data(), shape), View<double>(z.data(), shape),
                   logdet.data());
  for (size_t c = 0; c < 2; ++c) {
    double square = 0;
    for (size_t i = c; i < 100; i += 2) square += z[i] * z[i] / 50;
    CHECK(std::sqrt(square) == doctest::Approx(1).epsilon(1e-3));
  }
}

TEST_CASE("columns that depend on each other can't be whitened") {
  const Shape shape{40, 1, 1, 3};
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<double> x = random_values(120, seed, -1, 1);
    for (size_t i = 0; i < 120; i += 3) x[i + 2] = x[i] + x[i + 1];
    const View<const double> view(x.data(), shape);
    CHECK_THROWS_AS(Fixture<double>(whiten<double>(shape, Whitening::covariance), 7, view, 0), NumericError);
  }
}

TEST_CASE("batch norm as a bijector") {
  for (bool training : {false, true}) {
    for (Mask mask : {Mask::first_half, Mask::second_half, Mask::odd, Mask::even, Mask::checkerboard0,
                      Mask::checkerboard1}) {
      const Shape shape = is_checkerboard(mask) ? Shape{0, 3, 2, 2} : Shape{0, 1, 2, 5};
      LayerCase c = layer_case("batch_norm", [=](auto t) { return batch_norm<decltype(t)>(shape, mask); });
      c.training = training;
      c.batch = 5;
      check(c);
    }
  }
}

TEST_CASE("couplings, every law and mask") {
  for (Mask mask : {Mask::second_half, Mask::first_half, Mask::odd, Mask::even, Mask::checkerboard0,
                    Mask::checkerboard1}) {
    for (const Shape& shape : {Shape{0, 1, 1, 2}, Shape{0, 1, 1, 5}, Shape{0, 3, 2, 4}}) {
      const MaskSizes sizes = mask_sizes(mask, shape.c);
      const Shape pass = shape.with_channels(sizes.pass);
      const std::string name = "mask " + std::to_string(static_cast<int>(mask)) + text(shape);
      for (const LawOptions& law : every_law()) {
        for (const bool interleaved : {false, true}) {
          const CouplingOptions options{law, interleaved, {}};
          const int64_t outputs = sizes.change * numbers_of_law(law);
          check(layer_case("law " + law.name + " " + name, [=](auto t) {
            using T = decltype(t);
            return coupling<T>(shape, mask, mlp<T>(pass, outputs, {6, 5}, MlpInit::uniform_zero), options);
          }));
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
    for (const LawOptions& law : every_law()) {
      const Shape pass = shape.with_channels(shape.c - change);
      check(layer_case("law " + law.name + " of " + std::to_string(change), [=](auto t) {
        using T = decltype(t);
        return coupling<T>(shape, changed,
                           mlp<T>(pass, change * numbers_of_law(law), {6, 5}, MlpInit::uniform_zero),
                           {law, false, {}});
      }));
    }
    for (const bool training : {false, true}) {
      LayerCase c = layer_case("batch_norm", [=](auto t) { return batch_norm<decltype(t)>(shape, changed); });
      c.training = training;
      c.batch = 5;
      check(c);
    }
  }
  LayerCase wide = layer_case("of 600 channels", [](auto t) {  // of which a kernel takes 256
    std::vector<int64_t> changed;
    for (int64_t c = 0; c < 600; c += 3) changed.push_back(c);
    return batch_norm<decltype(t)>({0, 1, 1, 600}, changed);
  });
  wide.batch = 1;
  check(wide);
}

TEST_CASE("laws of each channel by itself") {
  for (const Shape& shape : {Shape{0, 1, 1, 1}, Shape{0, 1, 1, 5}, Shape{0, 3, 2, 5}}) {
    for (const LawOptions& law : every_law()) {
      std::vector<std::vector<int64_t>> lists{{0}};
      if (shape.c > 1) lists = {{0, 1, 2, 3, 4}, {0, 1}, {3, 4}, {1, 4}};
      for (const std::vector<int64_t>& changed : lists) {
        check(layer_case("elementwise " + law.name + " of " + std::to_string(changed.size()) + text(shape),
                         [=](auto t) { return elementwise<decltype(t)>(shape, changed, law); }));
      }
    }
  }
  CHECK_THROWS_WITH_AS(elementwise<double>({0, 1, 1, 2}, {}, {}),
                       doctest::Contains("expected a channel that changes"), ShapeError);
}

TEST_CASE("a mask that lists channels is the one that says the same by a name") {
  const Shape shape{4, 1, 1, 5};
  const std::vector<double> x = random_values(20, 4, -1, 1);
  const View<const double> view(x.data(), shape);
  const std::pair<Mask, std::vector<int64_t>> pairs[] = {{Mask::first_half, {0, 1, 2}},
                                                         {Mask::second_half, {3, 4}},
                                                         {Mask::odd, {1, 3}},
                                                         {Mask::even, {0, 2, 4}}};
  for (const auto& [mask, listed] : pairs) {
    const int64_t change = static_cast<int64_t>(listed.size());
    std::vector<std::vector<double>> results;
    for (const bool by_name : {true, false}) {
      auto net = mlp<double>({0, 1, 1, 5 - change}, 2 * change, {6}, MlpInit::nice);
      const CouplingOptions options = law_options("affine");
      const Fixture<double> f(by_name ? coupling<double>(shape, mask, std::move(net), options)
                                      : coupling<double>(shape, listed, std::move(net), options),
                              7, view, 0.2);
      const ParamArena<double>& arena = *f.arena;
      Context ctx("cpu", 1);
      std::vector<double> z(24);
      f.layer->forward(ctx, arena.params(), view, View<double>(z.data(), shape), z.data() + 20);
      results.push_back(z);
    }
    CHECK(results[0] == results[1]);
    CHECK(results[0] != x);
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
        const int64_t outputs = 2 * sizes.change;
        const std::string name = std::to_string(static_cast<int>(activation)) + text(in);
        LayerCase dense = layer_case("mlp " + name, [=](auto t) {
          using T = decltype(t);
          return coupling<T>(shape, Mask::second_half,
                             mlp<T>(in, outputs, {6, 5}, MlpInit::uniform_zero, NetDtype::same, activation),
                             law_options("affine", false));
        });
        LayerCase residual = layer_case("residual net " + name, [=](auto t) {
          using T = decltype(t);
          return coupling<T>(shape, Mask::second_half,
                             residual_net<T>(in, outputs, {7, 1 + dims % 2, context, activation}),
                             law_options("affine", false));
        });
        for (LayerCase* c : {&dense, &residual}) {
          c->context = context;
          check(*c);
          c->batch = 1;
          check(*c);
        }
      }
    }
  }
}

TEST_CASE("top prior") {
  for (const Shape& shape : {Shape{0, 1, 1, 2}, Shape{0, 2, 3, 3}}) {
    for (bool learned : {false, true}) {
      for (int64_t classes : {0, 3}) {
        if (!learned && !classes) continue;
        LayerCase c = layer_case("top_prior" + text(shape),
                                 [=](auto t) { return top_prior<decltype(t)>(shape, learned, classes); });
        c.classes = classes;
        check(c);
      }
    }
  }
}

TEST_CASE("what is of a class needs labels") {
  const Shape shape{2, 1, 1, 2};
  double x[4] = {}, z[4] = {}, results[2] = {};
  const Fixture<double> f(top_prior<double>(shape, true, 3), 7, View<const double>(x, shape), 0);
  Context ctx("cpu", 1);
  const ParamArena<double>& arena = *f.arena;
  CHECK_THROWS_WITH_AS(f.layer->forward(ctx, arena.params(), {x, shape}, {z, shape}, results),
                       "[layer] expected 2 labels for a class-conditional model, got none", ConfigError);
  CHECK_THROWS_WITH_AS(
      ClassHead<double>(shape, 3, 1).backward(ctx, {}, {x, shape}, 1, nullptr, {z, shape}, results),
      "[class_head] expected 2 labels, got none", ConfigError);
}

template <class Make>
void check_net(const std::string& name, const Make& make, bool training = false) {
  NetCase c;
  c.name = name;
  c.make64 = [make] { return make(double()); };
  c.make32 = [make] { return make(float()); };
  c.training = training;
  CAPTURE(name);
  const Report report = check_conditioner(c);
  CHECK_MESSAGE(report.empty(), joined(report));
}

TEST_CASE("conditioners: mlp, Glow's net, the split prior's") {
  for (const Shape& shape : {Shape{0, 1, 1, 1}, Shape{0, 3, 2, 2}, Shape{0, 1, 4, 3}}) {
    check_net("mlp" + text(shape),
              [=](auto t) { return mlp<decltype(t)>(shape, shape.c, {5, 4}, MlpInit::uniform_zero); });
    check_net("glow_net" + text(shape), [=](auto t) { return glow_net<decltype(t)>(shape, shape.c, 6); });
    check_net("zero_conv" + text(shape), [=](auto t) { return zero_conv<decltype(t)>(shape, shape.c); });
  }
}

TEST_CASE("conditioners: nets of every activation, over pixels too") {
  for (const Activation activation : kActivations) {
    const Shape shape{0, 2, 3, 3};
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

/// Weights, biases of dense layers 50 -> 400 -> 30 as they start.
std::vector<std::vector<double>> initial_values(MlpInit kind) {
  const std::unique_ptr<Conditioner<double>> net = mlp<double>({0, 1, 1, 50}, 30, {400}, kind);
  const auto layout = std::make_shared<ParamLayout>();
  net->declare(Scope(*layout, "net"));
  layout->finalize();
  ParamArena<double> arena(layout);
  Rng rng(3);
  net->init(arena, rng);
  std::vector<std::vector<double>> values;
  for (const ParamLayout::Entry& e : layout->entries()) {
    const double* first = arena.values() + e.offset;
    values.emplace_back(first, first + e.size);
  }
  return values;
}

TEST_CASE("weights and biases of an mlp start as wide as its kind says") {
  const auto rms = [](const std::vector<double>& w) {
    double square = 0;
    for (const double v : w) square += v * v / static_cast<double>(w.size());
    return std::sqrt(square);
  };
  const auto mean = [](const std::vector<double>& w) {
    return std::accumulate(w.begin(), w.end(), 0.0) / static_cast<double>(w.size());
  };
  const auto is_uniform = [&](const std::vector<double>& w, double bound) {
    CHECK(std::abs(mean(w)) < 0.1 * bound);
    CHECK(rms(w) / (bound / std::sqrt(3.0)) == doctest::Approx(1).epsilon(w.size() > 1000 ? 0.02 : 0.1));
    CHECK(std::all_of(w.begin(), w.end(), [=](double v) { return std::abs(v) <= bound; }));
  };
  const auto nice = initial_values(MlpInit::nice), uniform = initial_values(MlpInit::uniform_zero);
  REQUIRE(nice.size() == 4);
  for (const int w : {0, 2}) {
    is_uniform(nice[w], 0.01);
    CHECK(rms(nice[w + 1]) == 0);
  }
  REQUIRE(uniform.size() == 4);
  for (const int v : {0, 1}) is_uniform(uniform[v], 1 / std::sqrt(50.0));
  for (const int v : {2, 3}) CHECK(rms(uniform[v]) == 0);
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
    const Shape shape{0, 2, 3, 2};
    for (bool training : {false, true}) {
      if (training && !config.batch_norm) continue;
      check_net(
          "res_net " + std::to_string(bits) + (training ? " training" : ""),
          [=](auto t) { return res_net<decltype(t)>(shape, shape.c, config); }, training);
    }
  }
}

}  // namespace
}  // namespace evenflow::test
