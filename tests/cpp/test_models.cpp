#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "check_layer.hpp"
#include "embedded.hpp"
#include "laws.hpp"
#include "models/masks.hpp"

namespace evenflow::test {
namespace {

using Lists = std::vector<std::vector<int64_t>>;

/// A whole flow as a layer: the model's own arena mirrors the harness's, whose layout it has.
template <class T>
class FlowLayer final : public Layer<T> {
 public:
  explicit FlowLayer(Flow<T> flow)
      : Layer<T>("flow", flow.sample_shape(), {0, 1, 1, flow.dims()}, false),
        flow_(std::move(flow)),
        arena_(flow_.layout()) {}

  void declare(const Scope& scope) override {
    for (const ParamLayout::Entry& e : flow_.layout()->entries()) scope.add(e.name, e.shape, e.group);
  }
  void init(ParamArena<T>& arena, Rng&) const override { flow_.init(arena, 5); }
  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    flow_.init_from_data(ctx, arena, x);
  }

 private:
  ParamArena<T>& mirror(const Params<T>& params) const {
    std::copy_n(params.values, flow_.layout()->total_size(), arena_.values());
    return arena_;
  }
  /// A flow's latents are dense.
  static std::vector<T> packed(View<const T> z) {
    std::vector<T> rows;
    for (int64_t i = 0; i < z.shape.n; ++i) {
      rows.insert(rows.end(), z.data + i * z.stride, z.data + i * z.stride + z.shape.c);
    }
    return rows;
  }
  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    std::vector<double> det(static_cast<size_t>(x.shape.n));
    std::vector<T> rows(static_cast<size_t>(x.shape.size()));
    flow_.forward(ctx, mirror(params), x, params.given.labels, rows.data(), det.data());
    for (int64_t i = 0; i < x.shape.n; ++i) logdet[i] += det[i];
    for (int64_t i = 0; i < x.shape.n; ++i)
      std::copy_n(&rows[i * z.shape.c], z.shape.c, z.data + i * z.stride);
  }
  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    std::vector<double> det(static_cast<size_t>(z.shape.n));
    flow_.inverse(ctx, mirror(params), packed(z).data(), z.shape.n, params.given.labels, x, det.data());
    for (int64_t i = 0; i < z.shape.n; ++i) logdet[i] += det[i];
  }
  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    ParamArena<T>& arena = mirror(params);
    zero_grad(ctx, arena);
    flow_.backward(ctx, arena, packed(z).data(), packed(dz).data(), dlogdet, params.given.labels, x, dx);
    for (int64_t i = 0; params.grads && i < flow_.layout()->trainable_size(); ++i)
      params.grads[i] += arena.grads()[i];
  }
  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    ParamArena<T>& arena = mirror(params);
    zero_grad(ctx, arena);
    flow_.inverse_backward(ctx, arena, x, dx, dlogdet, params.given.labels, z.data, dz.data);
    for (int64_t i = 0; params.grads && i < flow_.layout()->trainable_size(); ++i)
      params.grads[i] += arena.grads()[i];
  }

  Flow<T> flow_;
  mutable ParamArena<T> arena_;
};

void check_flow(const std::string& name, const ModelConfig& config, LayerCase c) {
  c.name = name;
  c.make64 = [=]() -> std::unique_ptr<Layer<double>> {
    return std::make_unique<FlowLayer<double>>(build<double>(config));
  };
  c.make32 = [=]() -> std::unique_ptr<Layer<float>> {
    return std::make_unique<FlowLayer<float>>(build<float>(config));
  };
  c.noise = 0.03;
  CAPTURE(name);
  const Report report = check_layer(c);
  CHECK_MESSAGE(report.empty(), joined(report));
}

/// A check with this batch on inputs of this range.
LayerCase inputs(double low, double high, int64_t batch = 3) {
  LayerCase c;
  c.low = low;
  c.high = high;
  c.batch = batch;
  return c;
}

CouplingFlowConfig small_table(int64_t dims) {
  CouplingFlowConfig config = plain_table();
  config.dims = dims;
  config.couplings = 3;
  config.hidden = {4};
  config.bins = 4;
  return config;
}

TEST_CASE("small NICE models pass every check of a layer") {
  NiceConfig columns, image;
  columns.shape = {0, 1, 1, 5};
  columns.hidden = {4};
  for (const char* order : {"tile", "reverse", "shuffle", "none"}) {
    columns.permutation = order;
    check_flow(order, {columns}, inputs(-2, 2));
  }
  image.shape = {0, 2, 3, 1};
  image.hidden = {4, 4};
  image.bits = 1;
  check_flow("image", {image}, inputs(0, 2));
}

TEST_CASE("small coupling flows pass every check of a layer") {
  const LayerCase six = inputs(-2, 2, 6);
  CouplingFlowConfig normed = small_table(3);
  normed.batch_norm = normed.actnorm = true;
  for (const TableMask& mask : {TableMask("halves"), TableMask("odd-even"), TableMask("log2"),
                                TableMask(Lists{{0, 2}, {1}, {0, 1}})}) {
    for (const char* permutation : {"none", "reverse", "shuffle", "lu", "lu-shuffle"}) {
      normed.mask = mask;
      normed.permutation = permutation;
      check_flow(mask.scheme + " " + permutation, {normed}, six);
    }
  }
  normed.dims = 1;
  normed.mask = "odd-even";
  for (const char* law : {"affine", "spline", "additive"}) {
    normed.law = law;
    check_flow(std::string("one column, ") + law, {normed}, six);
  }
  CouplingFlowConfig unconditional = small_table(4);
  unconditional.law = "spline";
  unconditional.unconditional = true;
  unconditional.permutation = "reverse";
  for (const TableMask& mask :
       {TableMask("halves"), TableMask("log2"), TableMask(Lists{{1, 3}, {0, 2}, {0, 3}})}) {
    unconditional.mask = mask;
    check_flow("unconditional " + mask.scheme, {unconditional}, six);
  }
  CouplingFlowConfig residual = small_table(3);
  residual.net = "residual";
  residual.hidden = {5, 5};
  residual.permutation = "lu";
  for (const char* activation : {"relu", "silu"}) {
    residual.activation = activation;
    check_flow(activation, {residual}, six);
  }
  LayerCase in_box = inputs(0.01, 0.99);
  in_box.latent_low = in_box.low;
  in_box.latent_high = in_box.high;
  CouplingFlowConfig box = small_table(3);
  box.law = "spline";
  box.base = "uniform";
  box.preprocess = "none";
  box.mask = "log2";
  for (const char* permutation : {"none", "reverse", "shuffle"}) {
    for (const bool all : {false, true}) {
      box.permutation = permutation;
      box.unconditional = all;
      check_flow(std::string("uniform ") + permutation, {box}, in_box);
    }
  }
}

TEST_CASE("small Real NVP image models pass every check of a layer") {
  for (int64_t recursion = 1; recursion <= 4; ++recursion) {
    RealNvpConfig config;
    config.shape = {0, 2, 2, 1 + recursion % 2};
    config.levels = 2;
    config.base_dim = 2;
    config.residual_blocks = 1;
    config.recursion = recursion;
    config.batch_norm = recursion % 2;
    config.bits = 1;
    // Away from the ends of [0, 2], where the logit is steep and differences are coarse.
    check_flow("recursion " + std::to_string(recursion), {config}, inputs(0.3, 1.7));
  }
}

TEST_CASE("small Glow models pass every check of a layer") {
  for (const char* permutation : {"lu", "plain", "shuffle", "reverse"}) {
    for (const std::string coupling : {"affine", "additive"}) {
      GlowConfig config;
      config.shape = {0, 4, 4, 1};
      config.levels = 2;
      config.steps = 2;
      config.hidden = 3;
      config.bits = 1;
      config.permutation = permutation;
      config.coupling = coupling;
      LayerCase c = inputs(0, 2, 8);
      c.classes = config.classes = coupling == "affine" ? 3 : 0;
      check_flow(coupling + " " + permutation, {config}, c);
    }
  }
}

TEST_CASE("masks: each scheme changes and passes columns, log2 lets every pair of columns meet") {
  CouplingFlowConfig config = plain_table();
  for (const std::string& scheme : mask_schemes()) {
    config.mask = scheme;
    for (config.dims = 2; config.dims <= 40; ++config.dims) {
      CAPTURE(scheme);
      CAPTURE(config.dims);
      std::set<std::pair<int64_t, int64_t>> met;  // a column that changes, and one that passes
      for (int64_t i = 0; i < 12; ++i) {          // of 40 columns' six bits
        const std::vector<int64_t> changed = changed_columns(config, i);
        CHECK(!changed.empty());
        CHECK(static_cast<int64_t>(changed.size()) < config.dims);
        for (const int64_t one : changed) {
          for (int64_t other = 0; other < config.dims; ++other) {
            if (std::count(changed.begin(), changed.end(), other) == 0) met.insert({one, other});
          }
        }
      }
      if (scheme == "log2") CHECK(static_cast<int64_t>(met.size()) == config.dims * (config.dims - 1));
    }
  }
}

TEST_CASE("lists in the settings of a file: masks and bounds") {
  CouplingFlowConfig table = small_table(3);
  table.couplings = 2;
  table.mask = Lists{{0, 2}, {1}};
  table.bounds = {{0, 0.1}, {-HUGE_VAL, -1e20}, {}};
  const std::string text = to_json({table, Dtype::float32, 3}), mask = "[[0, 2], [1]]",
                    bounds = "[[0.0, 0.1], [null, -1e+20], [null, null]]";
  CHECK(to_json(parse_config(text)) == text);
  const auto with = [&](const std::string& old, const std::string& other) {
    std::string changed = text;
    const size_t at = text.find(old);
    REQUIRE(at != std::string::npos);
    CAPTURE(other);
    build<float>(parse_config(changed.replace(at, old.size(), other)));
  };
  CHECK_NOTHROW(with(mask, "[[1], [0, 2]]"));
  for (const char* wrong :
       {"3", "[0, 2]", "[[0, 2], 1]", "[[0.5], [1, 2]]", "[[0, 2], [true]]", "[]", "\"\"", "\"thirds\"",
        "null", "[[0, 2], [4000000000]]", "[[0, 2], [3]]", "[[0, 2], [-1, 1]]", "[[2, 0], [1]]",
        "[[0, 1], [1]]", "[[0, 1], []]", "[[0, 1, 2], [1]]", "[[0], [1], [2]]"}) {
    CHECK_THROWS_AS(with(mask, wrong), ConfigError);
  }
  CHECK_NOTHROW(with(bounds, "[[-1, null], [null, null], [0, 1]]"));
  for (const char* wrong :
       {"null", "{}", "[]", "[[0, 1]]", "[0, 1, 2]", "[[0], [1], [2]]", "[[0, 1, 2], [0, 1], [0, 1]]",
        "[[\"0\", 1], [0, 1], [0, 1]]", "[[0, true], [0, 1], [0, 1]]", "[[1, 0], [0, 1], [0, 1]]"}) {
    CHECK_THROWS_AS(with(bounds, wrong), ConfigError);
  }
}

TEST_CASE("any number of kept activations gives the same gradients, through levels and a class head") {
  GlowConfig config;
  config.shape = {0, 8, 8, 1};
  config.levels = 2;
  config.steps = 3;
  config.hidden = 6;
  config.classes = 3;
  config.class_weight = 0.5;
  Trainable<double> model = initialised<double>(config);
  Context ctx("cpu", 2);
  const Shape shape{5, 8, 8, 1};
  const std::vector<double> x = random_values(shape.size(), 8, 0, 256);
  const int32_t labels[] = {0, 1, 2, 1, 0};
  const int64_t size = model.flow.layout()->trainable_size();
  std::vector<double> first(static_cast<size_t>(size));
  double loss = 0;
  for (const int64_t budget : {int64_t{0}, int64_t{20000}, int64_t{1} << 40}) {
    zero_grad(ctx, model.arena);
    const StepResult step = model.flow.loss_and_grad(ctx, model.arena, {x.data(), shape}, labels, budget);
    const double* grads = model.arena.grads();
    if (budget == 0) {
      loss = step.loss;
      first.assign(grads, grads + size);
    }
    CHECK(step.loss == loss);
    for (int64_t i = 0; i < size; ++i)
      CHECK(std::abs(grads[i] - first[i]) < 1e-10 * std::max(1.0, std::abs(first[i])));
  }
}

TEST_CASE("layers that do not fit together are refused") {
  const Shape pair{0, 1, 1, 2};
  Flow<float> chain(pair, Base::gaussian);
  CHECK_THROWS_AS(chain.factor_out(1), ShapeError);  // of no layer
  CHECK_THROWS_AS(chain.add("wide", scaling<float>({0, 1, 1, 3})), ShapeError);
  chain.add("first", scaling<float>(pair));
  for (const int64_t keep : {-1, 0, 2, 3}) CHECK_THROWS_AS(chain.factor_out(keep), ShapeError);
}

/// The error of these settings after one was changed.
template <class E, class Config, class Change>
void refused(Config config, const Change& change) {
  CHECK_NOTHROW(build<float>({config}));
  change(config);
  CHECK_THROWS_AS(build<float>({config}), E);
}

TEST_CASE("settings that no model has are refused before anything is built") {
  constexpr int64_t kMany = 1 << 16, kWide = 1 << 20;
  GlowConfig glow;
  glow.shape = {0, 4, 4, 2};
  glow.levels = glow.steps = 1;
  glow.hidden = 4;
  glow.classes = 3;
  refused<ShapeError>(glow, [](auto& c) { c.levels = 3; });  // of 4 rows
  refused<ShapeError>(glow, [](auto& c) { c.shape = {0, -4, -4, 1}; });
  refused<ShapeError>(glow, [](auto& c) { c.shape = {0, -4, 4, -1}; });
  refused<ConfigError>(glow, [](auto& c) { c.shape = {0, 1 << 14, 1 << 14, 1}; });
  refused<ConfigError>(glow, [](auto& c) { c.steps = kMany + 1; });
  refused<ConfigError>(glow, [](auto& c) { c.classes = kWide + 1; });
  refused<ConfigError>(glow, [](auto& c) { c.hidden = kWide + 1; });
  refused<ConfigError>(glow, [](auto& c) {
    c.shape = {0, 1 << 13, 1 << 13, 1};
    c.levels = 13;
    c.steps = kMany;
    c.hidden = kWide;
  });
  for (const double weight : {HUGE_VAL, -1.0, std::nan("")})
    refused<ConfigError>(glow, [&](auto& c) { c.class_weight = weight; });

  RealNvpConfig image;
  image.shape = {0, 4, 4, 1};
  image.base_dim = 2;
  image.residual_blocks = 0;
  for (const int64_t levels : {int64_t{31}, int64_t{65}, int64_t{1} << 40})
    refused<ConfigError>(image, [&](auto& c) { c.levels = levels; });
  refused<ConfigError>(image, [](auto& c) { c.base_dim = kWide; });  // twice that at scale 1
  refused<ConfigError>(image, [](auto& c) { c.residual_blocks = kMany + 1; });
  refused<ShapeError>(image, [](auto& c) {
    c.shape = {0, 1, 1, 4};
    c.levels = 1;
  });

  NiceConfig nice;
  nice.shape = {0, 1, 1, 2};
  nice.bounds = {{0, 1}, {}};
  refused<ConfigError>(nice, [](auto& c) { c.shape = {0, 2, 1, 1}; });  // an image, which has no bounds

  refused<ConfigError>(small_table(4), [](auto& c) { c.dims = kWide + 1; });
  refused<ConfigError>(small_table(4), [](auto& c) { c.couplings = kMany + 1; });
  refused<ConfigError>(small_table(4), [](auto& c) { c.hidden = {int64_t{1} << 62}; });
  refused<ConfigError>(small_table(4), [](auto& c) { c.unconditional = true; });  // of no spline
  CouplingFlowConfig residual = small_table(4);
  residual.net = "residual";
  refused<ConfigError>(residual, [](auto& c) { c.hidden = {4, 5}; });  // its blocks have one width
  refused<ConfigError>(residual, [](auto& c) { c.hidden = {}; });
  refused<ConfigError>(small_table(4), [](auto& c) {
    c.couplings = kMany;
    c.hidden.assign(kMany, 1);
  });
}

TEST_CASE("a fresh Real NVP has densities of a usual size with any norms in its nets") {
  RealNvpConfig config;
  config.shape = {0, 8, 8, 3};
  config.base_dim = 16;
  config.residual_blocks = 8;
  constexpr int64_t n = 16;
  const std::vector<double> values = random_values(n * 8 * 8 * 3, 3, 0, 256);
  const std::vector<float> pixels(values.begin(), values.end());
  const View<const float> x(pixels.data(), config.shape.with_batch(n));
  Context ctx("cpu", 1);
  for (const bool weight_norm : {true, false}) {
    for (const bool batch_norm : {true, false}) {
      CAPTURE(weight_norm);
      CAPTURE(batch_norm);
      config.weight_norm = weight_norm;
      config.batch_norm = batch_norm;
      Trainable<float> model(ModelConfig{config});
      model.flow.init_from_data(ctx, model.arena, x);
      double log_prob[n];
      model.flow.log_prob(ctx, model.arena, x, nullptr, log_prob);
      for (const double v : log_prob) CHECK(std::abs(v) < 30 * static_cast<double>(model.flow.dims()));
      for (const ParamLayout::Entry& entry : model.flow.layout()->entries()) {
        if (weight_norm || entry.shape.size() != 4) continue;
        const int64_t k = entry.shape[0], out = entry.shape[3];
        double square = 0;
        for (int64_t i = 0; i < entry.size; i += out)
          square += std::pow(static_cast<double>(model.arena.values()[entry.offset + i]), 2);
        const double learned = static_cast<double>(k * k) / 6;  // square of weight norm's first magnitude
        CHECK(std::min(std::abs(square - 1), std::abs(square - learned)) < 1e-5);
      }
    }
  }
}

/// A table flow that is initialised from `rows`, dense rows of its dims().
struct SmallFlow {
  explicit SmallFlow(bool batch_norm = false)
      : flow(build<double>({config(batch_norm)})), arena(flow.layout()), rows(random_values(60, 4, -2, 2)) {
    flow.init(arena, 1);
    flow.init_from_data(ctx, arena, x());
  }
  static CouplingFlowConfig config(bool batch_norm) {
    CouplingFlowConfig c = small_table(3);
    c.batch_norm = batch_norm;
    return c;
  }
  View<const double> x() const { return View<const double>(rows.data(), {20, 1, 1, 3}); }
  std::vector<double> values() const {
    return std::vector<double>(arena.values(), arena.values() + flow.layout()->total_size());
  }

  Context ctx{"cpu", 1};
  Flow<double> flow;
  ParamArena<double> arena;
  std::vector<double> rows;
};

TEST_CASE("a training step that is refused changes nothing") {
  SmallFlow s(true);
  Optimizer<double> optimizer(s.flow.layout(), {});
  std::vector<double> average(static_cast<size_t>(s.flow.layout()->total_size()));
  const std::vector<double> before = s.values();
  const auto step = [&](double max_norm, double decay) {
    s.flow.train_step(s.ctx, s.arena, s.x(), nullptr, -1, {optimizer, max_norm, average.data(), decay});
  };
  CHECK_THROWS_WITH_AS(step(-1, 0.9), "[clip_grad_norm] expected max_norm >= 0, got -1", ConfigError);
  CHECK_THROWS_AS(step(0, 1.5), ConfigError);
  optimizer.config().lr = -1;
  CHECK_THROWS_AS(step(0, 0.9), ConfigError);
  CHECK(s.values() == before);
  CHECK(optimizer.steps() == 0);
  optimizer.config().lr = 1e-3;
  step(0, 0.9);
  CHECK(s.values() != before);
}

TEST_CASE("an optimiser of another model is refused") {
  SmallFlow s;
  CouplingFlowConfig config = small_table(3);
  config.hidden = {40};
  Optimizer<double> larger(build<double>({config}).layout(), {});
  const std::vector<double> before = s.values();
  const doctest::Contains text("[optimizer] expected an arena of ");
  CHECK_THROWS_WITH_AS(larger.step(s.ctx, s.arena), text, ConfigError);
  CHECK_THROWS_WITH_AS(s.flow.train_step(s.ctx, s.arena, s.x(), nullptr, -1, {larger}), text, ConfigError);
  CHECK(s.values() == before);

  // As many numbers, of which others decay.
  const Shape pair{0, 1, 1, 2};
  Flow<double> net(pair, Base::gaussian), scales(pair, Base::gaussian);
  net.add("a", additive_coupling<double>(pair, Mask::odd, mlp<double>({0, 1, 1, 1}, 1, {}, MlpInit::nice)));
  for (const char* name : {"a", "b"}) scales.add(name, scaling<double>(pair));
  net.finalize();
  scales.finalize();
  REQUIRE(net.layout()->trainable_size() == scales.layout()->trainable_size());
  ParamArena<double> arena(scales.layout());
  CHECK_THROWS_AS(Optimizer<double>(net.layout(), {}).step(s.ctx, arena), ConfigError);
}

TEST_CASE("a flow refuses inputs that are not of its shape, and outputs that are not of its batch") {
  SmallFlow s;
  double out[6], other[12], det[4] = {};
  const View<double> two(out, {2, 1, 1, 3}), four(other, {4, 1, 1, 3});
  const double* z = s.rows.data();
  CHECK_THROWS_WITH_AS(s.flow.inverse(s.ctx, s.arena, z, 4, nullptr, two, det),
                       "[inverse] expected x of as many samples as z, 4, got 2", ShapeError);
  CHECK_THROWS_AS(s.flow.inverse(s.ctx, s.arena, z, 0, nullptr, two, det), ShapeError);
  CHECK_THROWS_WITH_AS(s.flow.backward(s.ctx, s.arena, z, z, det, nullptr, four, two),
                       "[backward] expected dx of shape (4, 1, 1, 3), as x, got (2, 1, 1, 3)", ShapeError);
  CHECK_THROWS_AS(s.flow.inverse_backward(s.ctx, s.arena, four, two, det, nullptr, other, other), ShapeError);
  CHECK_THROWS_AS(s.flow.log_prob(s.ctx, s.arena, {z, {4, 1, 3, 1}}, nullptr, det), ShapeError);
  const View<const double> x(z, four.shape);
  CHECK_THROWS_AS(s.flow.log_prob_and_grad(s.ctx, s.arena, x, nullptr, det, two), ShapeError);
}

TEST_CASE("a flow looks at the values of an output with room between its rows, and at nothing else") {
  SmallFlow s;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> wide(20, nan), dense(12), det(4);
  const View<double> x(wide.data(), {4, 1, 1, 3}, 5);
  const auto same = [&] {
    for (size_t i = 0; i < 12; ++i) CHECK(wide[i / 3 * 5 + i % 3] == dense[i]);
    for (size_t i = 0; i < 20; ++i) CHECK((i % 5 < 3 || std::isnan(wide[i])));
  };
  s.flow.sample(s.ctx, s.arena, 0, 1, 7, nullptr, x);
  s.flow.sample(s.ctx, s.arena, 0, 1, 7, nullptr, View<double>(dense.data(), x.shape));
  same();
  const double* z = s.rows.data();
  s.flow.inverse(s.ctx, s.arena, z, 4, nullptr, x, det.data());
  s.flow.inverse(s.ctx, s.arena, z, 4, nullptr, View<double>(dense.data(), x.shape), det.data());
  same();
  const View<const double> in(z, x.shape);
  s.flow.log_prob_and_grad(s.ctx, s.arena, in, nullptr, det.data(), x);
  s.flow.log_prob_and_grad(s.ctx, s.arena, in, nullptr, det.data(), View<double>(dense.data(), x.shape));
  same();

  const auto loss_of = [&](const View<const double>& rows) {
    const StepResult r = s.flow.loss_and_grad(s.ctx, s.arena, rows, nullptr, -1);
    CHECK_FALSE(r.drift.fallback);
    return r.loss;
  };
  for (size_t i = 0; i < 12; ++i) wide[i / 3 * 5 + i % 3] = z[i];
  CHECK(loss_of({wide.data(), x.shape, 5}) == loss_of(in));

  std::fill(wide.begin(), wide.end(), 0.0);
  for (const ParamLayout::Entry& entry : s.flow.layout()->entries()) {  // the last column's
    if (entry.name == "preprocess.mean") s.arena.values()[entry.offset + 2] = nan;
  }
  CHECK_THROWS_AS(s.flow.inverse(s.ctx, s.arena, z, 4, nullptr, x, det.data()), NumericError);
  CHECK_THROWS_AS(s.flow.sample(s.ctx, s.arena, 0, 1, 7, nullptr, x), NumericError);
}

}  // namespace
}  // namespace evenflow::test
