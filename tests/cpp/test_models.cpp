#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "check_layer.hpp"
#include "laws.hpp"
#include "models/masks.hpp"
#include "plain_table.hpp"

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

template <class Make>
void check_flow(const std::string& name, const Make& make, double low, double high, int64_t classes = 0,
                int64_t batch = 3, LayerCase c = {}) {
  c.name = name;
  c.make64 = [=]() -> std::unique_ptr<Layer<double>> {
    return std::make_unique<FlowLayer<double>>(make(double()));
  };
  c.make32 = [=]() -> std::unique_ptr<Layer<float>> {
    return std::make_unique<FlowLayer<float>>(make(float()));
  };
  c.low = low;
  c.high = high;
  c.classes = classes;
  c.batch = batch;
  c.noise = 0.03;
  CAPTURE(name);
  const Report report = check_layer(c);
  CHECK_MESSAGE(report.empty(), joined(report));
}

TEST_CASE("small NICE models pass every check of a layer") {
  for (const char* order : {"tile", "reverse", "shuffle", "none"}) {
    NiceConfig config;
    config.shape = {0, 1, 1, 5};
    config.hidden = {4};
    config.order = order;
    check_flow(order, [=](auto t) { return nice<decltype(t)>(config); }, -2, 2);
  }
  NiceConfig image;
  image.shape = {0, 2, 3, 1};
  image.hidden = {4, 4};
  image.bits = 1;
  check_flow("image", [=](auto t) { return nice<decltype(t)>(image); }, 0, 2);
}

TEST_CASE("small Real NVP tables pass every check of a layer") {
  const TableMask listed(Lists{{0, 2}, {1}, {0, 1}});
  for (const TableMask& mask : {TableMask("halves"), TableMask("odd-even"), TableMask("log2"), listed}) {
    for (const char* permutation : {"none", "reverse", "shuffle", "lu", "lu-shuffle"}) {
      CouplingFlowConfig config = plain_table();
      config.dims = 3;
      config.couplings = 3;
      config.hidden = {4};
      config.mask = mask;
      config.permutation = permutation;
      config.batch_norm = true;
      config.actnorm = true;
      check_flow(
          mask.scheme + " " + permutation, [=](auto t) { return coupling_flow<decltype(t)>(config); }, -2, 2,
          0, 6);
    }
  }
}

TEST_CASE("small flows of one column pass every check of a layer") {
  for (const char* law : {"affine", "spline", "additive"}) {
    CouplingFlowConfig config = plain_table();
    config.dims = 1;
    config.couplings = 3;
    config.hidden = {4};
    config.law = law;
    config.mask = "odd-even";
    config.permutation = "lu";
    config.batch_norm = true;
    config.actnorm = true;
    check_flow(law, [=](auto t) { return coupling_flow<decltype(t)>(config); }, -2, 2, 0, 6);
  }
}

TEST_CASE("small flows with splines for columns that pass go through every check of a layer") {
  for (const TableMask& mask :
       {TableMask("halves"), TableMask("log2"), TableMask(Lists{{1, 3}, {0, 2}, {0, 3}})}) {
    CouplingFlowConfig config = plain_table();
    config.dims = 4;
    config.couplings = 3;
    config.hidden = {4};
    config.law = "spline";
    config.bins = 4;
    config.unconditional = true;
    config.mask = mask;
    config.permutation = "reverse";
    check_flow(mask.scheme, [=](auto t) { return coupling_flow<decltype(t)>(config); }, -2, 2, 0, 6);
    config.law = "affine";
    CHECK_THROWS_WITH_AS(coupling_flow<double>(config),
                         "[coupling_flow] unconditional is a setting of splines, got law affine",
                         ConfigError);
  }
}

CouplingFlowConfig small_box() {
  CouplingFlowConfig config = plain_table();
  config.dims = 3;
  config.couplings = 3;
  config.hidden = {4};
  config.law = "spline";
  config.bins = 4;
  config.base = "uniform";
  config.preprocess = "none";
  return config;
}

TEST_CASE("small flows of a uniform base pass every check of a layer") {
  LayerCase box;
  box.latent_low = 0.01;
  box.latent_high = 0.99;
  for (const char* permutation : {"none", "reverse", "shuffle"}) {
    for (const bool unconditional : {false, true}) {
      CouplingFlowConfig config = small_box();
      config.permutation = permutation;
      config.mask = "log2";
      config.unconditional = unconditional;
      check_flow(
          permutation, [=](auto t) { return coupling_flow<decltype(t)>(config); }, 0.01, 0.99, 0, 3, box);
    }
  }
}

TEST_CASE("a uniform base refuses what leads out of its box") {
  CHECK_NOTHROW(coupling_flow<float>(small_box()));
  const auto check = [](const char* text, const auto& change) {
    CouplingFlowConfig config = small_box();
    change(config);
    CHECK_THROWS_WITH_AS(coupling_flow<float>(config), doctest::Contains(text), ConfigError);
  };
  check("base uniform takes law spline", [](auto& c) { c.law = "affine"; });
  check("base uniform takes no bound:", [](auto& c) { c.bound = 3; });
  check("base uniform takes preprocess none", [](auto& c) { c.preprocess = "standardize"; });
  check("base uniform takes no bounds", [](auto& c) { c.bounds = {{0, 1}, {0, 1}, {0, 1}}; });
  check("base uniform takes permutation none, reverse or shuffle", [](auto& c) { c.permutation = "lu"; });
  check("base uniform takes permutation none, reverse or shuffle",
        [](auto& c) { c.permutation = "lu-shuffle"; });
  check("base uniform takes no batch_norm", [](auto& c) { c.batch_norm = true; });
  check("base uniform takes no batch_norm and no actnorm", [](auto& c) { c.actnorm = true; });
}

TEST_CASE_TEMPLATE("a uniform base: data and latents in the box, ends included, and nothing else", T, float,
                   double) {
  const Flow<T> flow = coupling_flow<T>(small_box());
  ParamArena<T> arena(flow.layout());
  Context ctx("cpu", 1);
  flow.init(arena, 1);
  std::vector<T> x;
  for (const double v : random_values(60, 4, 0, 1)) x.push_back(static_cast<T>(v));
  const Shape shape{20, 1, 1, 3};
  flow.init_from_data(ctx, arena, {x.data(), shape});
  Rng rng(9, Stream::test);
  for (int64_t i = 0; i < flow.layout()->trainable_size(); ++i)
    arena.values()[i] += static_cast<T>(rng.uniform(-0.5, 0.5));
  x[4] = T(0);
  x[5] = T(1);
  std::vector<T> z(60);
  std::vector<double> logdet(20), log_prob(20);
  flow.forward(ctx, arena, {x.data(), shape}, nullptr, z.data(), logdet.data());
  flow.log_prob(ctx, arena, {x.data(), shape}, nullptr, log_prob.data());
  CHECK(log_prob == logdet);  // the base's density is 1
  CHECK(std::all_of(z.begin(), z.end(), [](T v) { return v >= T(0) && v <= T(1); }));
  std::vector<T> drawn(60);
  flow.sample(ctx, arena, 0, 1, 7, nullptr, {drawn.data(), shape});
  CHECK(std::all_of(drawn.begin(), drawn.end(), [](T v) { return v >= T(0) && v <= T(1); }));
  CHECK_THROWS_WITH_AS(flow.sample(ctx, arena, 0, 0.5, 7, nullptr, {drawn.data(), shape}),
                       "[sample] a uniform base has no temperature but 1, got 0.5", ConfigError);
  for (const T wrong : {T(-1e-3), T(1.25)}) {
    x[7] = wrong;
    const View<const T> view(x.data(), shape);
    const std::string text =
        "expected values in [0, 1] for column 1, got " + text_of(wrong) + " for sample 2";
    CHECK_THROWS_WITH_AS(flow.log_prob(ctx, arena, view, nullptr, log_prob.data()),
                         ("[log_prob] " + text).c_str(), NumericError);
    CHECK_THROWS_WITH_AS(flow.forward(ctx, arena, view, nullptr, z.data(), logdet.data()),
                         ("[forward] " + text).c_str(), NumericError);
    CHECK_THROWS_WITH_AS(flow.loss_and_grad(ctx, arena, view, nullptr, -1),
                         ("[loss_and_grad] " + text).c_str(), NumericError);
    CHECK_THROWS_WITH_AS(flow.init_from_data(ctx, arena, view), ("[init] " + text).c_str(), NumericError);
  }
  z[3] = T(1.5);
  CHECK_THROWS_AS(flow.inverse(ctx, arena, z.data(), 20, nullptr, View<T>(x.data(), shape), logdet.data()),
                  NumericError);
  flow.base_log_prob(ctx, z.data(), 20, logdet.data());
  CHECK(std::isinf(logdet[1]));
  CHECK(logdet[3] == 0);
}

TEST_CASE("masks: log2 lets every pair of columns meet, and leaves none out") {
  for (int64_t dims = 2; dims <= 40; ++dims) {
    CAPTURE(dims);
    CouplingFlowConfig config = plain_table();
    config.dims = dims;
    config.mask = "log2";
    int64_t needed = 0;
    while ((int64_t{1} << needed) < dims) ++needed;
    std::set<std::pair<int64_t, int64_t>> met;
    for (int64_t i = 0; i < 2 * needed; ++i) {
      const std::vector<int64_t> changed = changed_columns(config, i);
      CHECK(changed_count(config, i) == static_cast<int64_t>(changed.size()));
      CHECK(changed_columns(config, i + 2 * needed) == changed);
      for (const int64_t one : changed) {
        for (int64_t other = 0; other < dims; ++other) {
          if (std::count(changed.begin(), changed.end(), other) == 0) met.insert({one, other});
        }
      }
    }
    CHECK(static_cast<int64_t>(met.size()) == dims * (dims - 1));  // each changes, seeing any other
  }
  for (const std::string& scheme : mask_schemes()) {
    CouplingFlowConfig config = plain_table();
    config.mask = scheme;
    for (config.dims = 2; config.dims < 40; ++config.dims) {
      for (int64_t i = 0; i < 12; ++i) {
        const int64_t count = changed_count(config, i);
        CHECK(static_cast<int64_t>(changed_columns(config, i).size()) == count);
        CHECK(count > 0);
        CHECK(count < config.dims);
      }
    }
  }
}

TEST_CASE("masks: a list has to fit the model") {
  CouplingFlowConfig config = plain_table();
  config.dims = 3;
  config.couplings = 2;
  const auto with = [&](Lists columns, int64_t context = 0) {
    config.mask = std::move(columns);
    config.context = context;
    coupling_flow<double>(config);
  };
  CHECK_NOTHROW(with({{0, 2}, {1}}));
  CHECK_NOTHROW(with({{0, 1, 2}, {1}}, 1));
  CHECK_THROWS_WITH_AS(with({{0}, {1}, {2}}),
                       "[coupling_flow] expected a mask for 2 couplings, got one for 3", ConfigError);
  CHECK_THROWS_WITH_AS(with({}), "[coupling_flow] expected a mask for 2 couplings, got one for 0",
                       ConfigError);
  CHECK_THROWS_WITH_AS(with({{0, 1}, {}}), doctest::Contains("got none in coupling 1"), ConfigError);
  CHECK_THROWS_WITH_AS(
      with({{0, 1, 2}, {1}}),
      doctest::Contains("a column that passes, for the net to read, in every coupling, got none in "
                        "coupling 0"),
      ConfigError);
  CHECK_THROWS_WITH_AS(with({{0}, {1}}), doctest::Contains("got none for column 2"), ConfigError);
  CHECK_THROWS_WITH_AS(with({{0, 2}, {3}}), doctest::Contains("expected columns in 0 ... 2"), ConfigError);
  CHECK_THROWS_AS(with({{2, 0}, {1}}), ConfigError);
  CHECK_THROWS_AS(with({{0, 2}, {-1, 1}}), ConfigError);
  config.dims = 1;
  CHECK_NOTHROW(with({{0}, {0}}));
  CHECK_NOTHROW(with({{0}, {0}}, 2));
  CHECK_THROWS_AS(with({{0}, {}}), ConfigError);
  config.mask = "thirds";
  CHECK_THROWS_WITH_AS(coupling_flow<double>(config),
                       doctest::Contains("expected mask halves, odd-even or log2"), ConfigError);
}

TEST_CASE("masks: configurations keep them") {
  CouplingFlowConfig table = plain_table();
  table.dims = 3;
  table.couplings = 2;
  for (const TableMask& mask : {TableMask("log2"), TableMask(Lists{{0, 2}, {1}})}) {
    table.mask = mask;
    ModelConfig config;
    config.model = table;
    const std::string text = to_json(config);
    CHECK(to_json(parse_config(text)) == text);
    const auto again = std::get<CouplingFlowConfig>(parse_config(text).model);
    CHECK(again.mask.scheme == mask.scheme);
    CHECK(again.mask.columns == mask.columns);
  }
  table.mask = Lists{{0, 2}, {1}};
  ModelConfig config;
  config.model = table;
  const std::string text = to_json(config), wanted = "\"mask\": [[0, 2], [1]]";
  const size_t at = text.find(wanted);
  REQUIRE(at != std::string::npos);
  const auto parse = [&](const std::string& mask) {
    std::string other = text;
    parse_config(other.replace(at, wanted.size(), "\"mask\": " + mask));
  };
  CHECK_NOTHROW(parse("[[1], [0, 2]]"));
  for (const char* wrong : {"3", "[0, 2]", "[[0, 2], 1]", "[[0.5], [1, 2]]", "[[0, 2], [true]]", "[]", "\"\"",
                            "null", "[[0, 2], [4000000000]]", "[[0, 1], [1]]"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(parse(wrong), ConfigError);
  }
}

TEST_CASE("small tables with residual nets pass every check of a layer") {
  for (const char* activation : {"relu", "silu"}) {
    CouplingFlowConfig config = plain_table();
    config.dims = 3;
    config.couplings = 3;
    config.net = "residual";
    config.hidden = {5, 5};
    config.activation = activation;
    config.permutation = "lu";
    check_flow(activation, [=](auto t) { return coupling_flow<decltype(t)>(config); }, -2, 2, 0, 6);
  }
}

TEST_CASE("the blocks of a residual net have one width") {
  CouplingFlowConfig config = plain_table();
  config.dims = 3;
  config.net = "residual";
  CHECK_NOTHROW(coupling_flow<float>(config));
  config.hidden = {4, 5};
  CHECK_THROWS_WITH_AS(coupling_flow<float>(config),
                       "[coupling_flow] expected equal widths for the blocks of a residual net in hidden, "
                       "got 4 and 5; net mlp takes any",
                       ConfigError);
  config.hidden = {};
  CHECK_THROWS_WITH_AS(coupling_flow<float>(config),
                       "[coupling_flow] expected a width for each block of a residual net in hidden, got "
                       "none; net mlp takes none",
                       ConfigError);
}

TEST_CASE("small Real NVP image models pass every check of a layer") {
  for (int64_t recursion = 1; recursion <= 4; ++recursion) {
    RealNvpConfig config;
    config.shape = {0, 2, 2, 1 + recursion % 2};
    config.scales = 2;
    config.base_dim = 2;
    config.residual_blocks = 1;
    config.recursion = recursion;
    config.batch_norm = recursion % 2;
    config.bits = 1;
    // Away from the ends of [0, 2], where the logit is steep and differences are coarse.
    check_flow(
        "recursion " + std::to_string(recursion), [=](auto t) { return real_nvp<decltype(t)>(config); }, 0.3,
        1.7);
  }
}

TEST_CASE("small Glow models pass every check of a layer") {
  for (const char* permutation : {"lu", "plain", "shuffle", "reverse"}) {
    for (const char* coupling : {"affine", "additive"}) {
      GlowConfig config;
      config.shape = {0, 4, 4, 1};
      config.levels = 2;
      config.steps = 2;
      config.hidden = 3;
      config.bits = 1;
      config.permutation = permutation;
      config.coupling = coupling;
      config.classes = coupling[1] == 'f' ? 3 : 0;
      check_flow(
          std::string(permutation) + " " + coupling, [=](auto t) { return glow<decltype(t)>(config); }, 0, 2,
          config.classes, 8);
    }
  }
}

/// A flow whose scalings go up and down again: invertible on paper, hopeless in float32 when `log_scale` is
/// large, because what is small next to the large values is lost on the way.
template <class T>
Flow<T> seesaw(int pairs) {
  const Shape shape{0, 1, 1, 4};
  Flow<T> flow(shape, Base::gaussian);
  for (int i = 0; i < pairs; ++i) {
    const std::string index = std::to_string(i);
    flow.add("up" + index, scaling<T>(shape));
    flow.add("mix" + index, plain_conv1x1<T>(shape));
    flow.add("down" + index, scaling<T>(shape));
  }
  flow.finalize();
  return flow;
}

template <class T>
void set_seesaw(const Flow<T>& flow, ParamArena<T>& arena, T log_scale) {
  flow.init(arena, 1);
  for (const ParamLayout::Entry& e : flow.layout()->entries()) {
    T* value = arena.values() + e.offset;
    if (e.name == "initialized") value[0] = T(1);
    if (e.name.find("logs") == std::string::npos) continue;
    const T sign = e.name[0] == 'u' ? T(1) : T(-1);
    value[0] = sign * log_scale;  // one channel grows by e^log_scale, is mixed into the others, and shrinks
  }
}

TEST_CASE("the drift guard: quiet on a well-conditioned flow, repairs or names a bad one") {
  const Flow<float> flow = seesaw<float>(3);
  ParamArena<float> arena(flow.layout());
  Context ctx("cpu", 1);
  std::vector<float> x;
  for (double v : random_values(32, 4, -1, 1)) x.push_back(static_cast<float>(v));
  const View<const float> batch(x.data(), {8, 1, 1, 4});

  set_seesaw(flow, arena, 0.5f);
  zero_grad(ctx, arena);
  const StepResult good = flow.loss_and_grad(ctx, arena, batch, nullptr, 0);
  CHECK_FALSE(good.drift.fallback);
  CHECK(good.drift.value > 0);
  CHECK(good.drift.value < 1e-4);
  CHECK(good.drift.layer_value == 0);

  // Each layer alone can be inverted to 1e-3, the chain can not: checkpoints give the right gradient.
  set_seesaw(flow, arena, 12.0f);
  std::vector<float> earlier(static_cast<size_t>(flow.layout()->trainable_size()), 0.25f);
  std::copy(earlier.begin(), earlier.end(), arena.grads());
  const StepResult repaired = flow.loss_and_grad(ctx, arena, batch, nullptr, 0);
  CHECK(repaired.drift.fallback);
  CHECK_FALSE(repaired.drift.layer.empty());
  CHECK(repaired.drift.value > 1e-3);
  CHECK(repaired.drift.layer_value > 0);
  CHECK(repaired.drift.layer_value <= 1e-3);
  const Flow<double> exact = seesaw<double>(3);
  ParamArena<double> truth(exact.layout());
  for (int64_t i = 0; i < exact.layout()->total_size(); ++i) truth.values()[i] = arena.values()[i];
  std::vector<double> wide(x.begin(), x.end());
  const StepResult reference = exact.loss_and_grad(ctx, truth, {wide.data(), batch.shape}, nullptr, 0);
  CHECK_FALSE(reference.drift.fallback);
  for (const ParamLayout::Entry& e : exact.layout()->entries()) {  // the gaps between them keep the 0.25
    if (e.group == Group::fixed) continue;
    CAPTURE(e.name);
    double worst = 0, largest = 0;
    for (int64_t i = e.offset; i < e.offset + e.size; ++i) {
      worst = larger(worst, std::abs(arena.grads()[i] - 0.25 - truth.grads()[i]));
      largest = std::max(largest, std::abs(truth.grads()[i]));
    }
    CHECK(worst / largest < 1e-3);
  }
  const auto check_dx = [&] {
    std::vector<float> dx(32);
    std::vector<double> exact_dx(32), log_prob(8);
    flow.log_prob_and_grad(ctx, arena, batch, nullptr, log_prob.data(), {dx.data(), batch.shape});
    exact.log_prob_and_grad(ctx, truth, {wide.data(), batch.shape}, nullptr, log_prob.data(),
                            {exact_dx.data(), batch.shape});
    double error = 0, size = 0;
    for (int i = 0; i < 32; ++i) {
      error = larger(error, std::abs(dx[i] - exact_dx[i]));
      size = std::max(size, std::abs(exact_dx[i]));
    }
    CHECK(error / size < 1e-3);
  };
  check_dx();

  // One layer that float32 can't invert: named, and gradients stay what they were; that by x needs no
  // inverse.
  set_seesaw(flow, arena, 0.5f);
  for (const ParamLayout::Entry& e : flow.layout()->entries()) {
    if (e.name != "mix1.weight") continue;
    for (int i = 0; i < 16; ++i) arena.values()[e.offset + i] = i % 5 ? 1.0f : 1.0f + 1e-6f;
  }
  std::copy(earlier.begin(), earlier.end(), arena.grads());
  CHECK_THROWS_WITH_AS(flow.loss_and_grad(ctx, arena, batch, nullptr, 0), doctest::Contains("got layer mix1"),
                       NumericError);
  CHECK(std::equal(earlier.begin(), earlier.end(), arena.grads()));
  for (int64_t i = 0; i < exact.layout()->total_size(); ++i) truth.values()[i] = arena.values()[i];
  check_dx();
}

TEST_CASE("checkpoints and rebuilding give the same gradients through levels and a class head") {
  GlowConfig config;
  config.shape = {0, 8, 8, 1};
  config.levels = 2;
  config.steps = 3;
  config.hidden = 6;
  config.classes = 3;
  config.class_weight = 0.5;
  const Flow<double> flow = glow<double>(config);
  ParamArena<double> arena(flow.layout());
  Context ctx("cpu", 2);
  flow.init(arena, 3);
  const Shape shape{5, 8, 8, 1};
  const std::vector<double> x = random_values(shape.size(), 8, 0, 256);
  flow.init_from_data(ctx, arena, {x.data(), shape});
  Rng rng(9, Stream::test);
  for (int64_t i = 0; i < flow.layout()->trainable_size(); ++i) arena.values()[i] += rng.uniform(-0.05, 0.05);
  const int32_t labels[] = {0, 1, 2, 1, 0};
  std::vector<std::vector<double>> grads;
  std::vector<double> losses;
  for (int64_t budget : {int64_t{0}, int64_t{20000}, int64_t{1} << 40}) {
    zero_grad(ctx, arena);
    losses.push_back(flow.loss_and_grad(ctx, arena, {x.data(), shape}, labels, budget).loss);
    grads.emplace_back(arena.grads(), arena.grads() + flow.layout()->trainable_size());
  }
  for (size_t k = 1; k < grads.size(); ++k) {
    CHECK(losses[k] == losses[0]);
    double worst = 0;
    for (size_t i = 0; i < grads[0].size(); ++i) {
      worst = larger(worst, std::abs(grads[k][i] - grads[0][i]) / std::max(1.0, std::abs(grads[0][i])));
    }
    CHECK(worst < 1e-10);
  }
}

TEST_CASE("misuse is refused") {
  GlowConfig config;
  config.shape = {0, 6, 6, 3};
  CHECK_THROWS_AS(glow<float>(config), ShapeError);
  config.levels = 1;
  config.steps = 1;
  config.hidden = 4;
  const Flow<float> flow = glow<float>(config);
  ParamArena<float> arena(flow.layout());
  flow.init(arena, 0);
  Context ctx;
  std::vector<float> x(6 * 6 * 3, 1.0f);
  double out = 0;
  CHECK_THROWS_AS(flow.log_prob(ctx, arena, {x.data(), {1, 6, 6, 3}}, nullptr, &out), ConfigError);
  CHECK_THROWS_AS(flow.init_from_data(ctx, arena, {x.data(), {1, 6, 6, 3}}),
                  NumericError);  // constant channels
  CHECK_FALSE(flow.initialized(arena));
  CHECK_THROWS_AS(flow.log_prob(ctx, arena, {x.data(), {1, 3, 6, 6}}, nullptr, &out), ShapeError);
  const Shape pair{0, 1, 1, 2};
  Flow<float> chain(pair, Base::gaussian);
  CHECK_THROWS_AS(chain.factor_out(1), ShapeError);  // of no layer
  CHECK_THROWS_AS(chain.add("wide", scaling<float>({0, 1, 1, 3})), ShapeError);
  chain.add("first", scaling<float>(pair));
  for (const int64_t keep : {-1, 0, 2, 3}) CHECK_THROWS_AS(chain.factor_out(keep), ShapeError);
  CHECK_THROWS_AS(Context("cuda"), DeviceError);
  CHECK_THROWS_AS(Context("tpu"), DeviceError);
  CHECK_THROWS_WITH_AS(fail<NumericError>("here", "got ", -std::nan("")), "[here] got nan", NumericError);
}

TEST_CASE("a class weight is a finite number") {
  GlowConfig config;
  config.shape = {0, 4, 4, 2};
  config.levels = config.steps = 1;
  config.hidden = 4;
  config.classes = 3;
  for (const double weight : {HUGE_VAL, -1.0, std::nan("")}) {
    config.class_weight = weight;
    CHECK_THROWS_AS(glow<float>(config), ConfigError);
  }
  config.class_weight = 1e20;
  CHECK_NOTHROW(glow<float>(config));
}

TEST_CASE("settings that no file can have are refused before anything is built") {
  constexpr int64_t kHuge = 1'000'000'000;
  GlowConfig g;
  g.shape = {0, 4, 4, 1};
  g.levels = g.steps = 1;
  g.hidden = 4;
  CHECK_NOTHROW(glow<float>(g));
  const auto glow_with = [&](const auto& change) {
    GlowConfig c = g;
    change(c);
    glow<float>(c);
  };
  CHECK_THROWS_AS(glow_with([](auto& c) { c.shape = {0, -4, -4, 1}; }), ShapeError);
  CHECK_THROWS_AS(glow_with([](auto& c) { c.shape = {0, -4, 4, -1}; }), ShapeError);
  CHECK_THROWS_AS(glow_with([](auto& c) { c.shape = {0, 1 << 14, 1 << 14, 1}; }), ConfigError);
  CHECK_THROWS_WITH_AS(glow_with([](auto& c) { c.steps = kHuge; }),
                       "[glow] expected steps in 1 ... 65536, got 1000000000", ConfigError);
  CHECK_THROWS_AS(glow_with([](auto& c) { c.classes = (1 << 20) + 1; }), ConfigError);
  CHECK_THROWS_AS(glow_with([](auto& c) { c.hidden = (1 << 20) + 1; }), ConfigError);
  CHECK_THROWS_AS(glow_with([](auto& c) {
                    c.shape = {0, 1 << 13, 1 << 13, 1};
                    c.levels = 13;
                    c.steps = 1 << 16;
                    c.hidden = 1 << 20;
                  }),
                  ConfigError);

  RealNvpConfig image;
  image.shape = {0, 4, 4, 1};
  image.base_dim = 2;
  image.residual_blocks = 0;
  CHECK_NOTHROW(real_nvp<float>(image));
  const auto image_with = [&](const auto& change) {
    RealNvpConfig c = image;
    change(c);
    real_nvp<float>(c);
  };
  for (const int64_t scales : {int64_t{31}, int64_t{65}, int64_t{1} << 40}) {
    CHECK_THROWS_AS(image_with([&](auto& c) { c.scales = scales; }), ConfigError);
  }
  CHECK_THROWS_AS(image_with([](auto& c) { c.base_dim = int64_t{1} << 62; }), ConfigError);
  CHECK_THROWS_AS(image_with([](auto& c) { c.base_dim = 1 << 20; }), ConfigError);  // twice that at scale 1
  CHECK_THROWS_AS(image_with([](auto& c) { c.residual_blocks = kHuge; }), ConfigError);
  CHECK_THROWS_AS(image_with([](auto& c) { c.shape = {0, -4, -4, 1}; }), ShapeError);
  CHECK_THROWS_AS(image_with([](auto& c) {
                    c.shape = {0, 1, 1, 4};
                    c.scales = 1;
                  }),
                  ShapeError);

  CouplingFlowConfig table = plain_table();
  table.dims = 4;
  const auto table_with = [&](const auto& change) {
    CouplingFlowConfig c = table;
    change(c);
    coupling_flow<float>(c);
  };
  CHECK_THROWS_AS(table_with([](auto& c) { c.dims = (1 << 20) + 1; }), ConfigError);
  CHECK_THROWS_AS(table_with([](auto& c) { c.couplings = 65537; }), ConfigError);
  CHECK_THROWS_AS(table_with([](auto& c) { c.hidden = {int64_t{1} << 62}; }), ConfigError);
  CHECK_THROWS_AS(table_with([](auto& c) { c.hidden.assign(65537, 1); }), ConfigError);
  CHECK_THROWS_AS(table_with([](auto& c) {
                    c.couplings = 65536;
                    c.hidden.assign(65536, 1);
                  }),
                  ConfigError);

  NiceConfig n;
  n.shape = {0, 1, 1, (1 << 20) + 1};
  CHECK_THROWS_AS(nice<float>(n), ConfigError);
  n.shape = {0, -1, -1, 4};
  CHECK_THROWS_AS(nice<float>(n), ShapeError);
}

TEST_CASE("a fresh Real NVP has densities of a usual size with any norms in its nets") {
  RealNvpConfig config;
  config.shape = {0, 8, 8, 3};
  config.base_dim = 16;
  config.residual_blocks = 8;
  const int64_t n = 16;
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
      const Flow<float> flow = real_nvp<float>(config);
      ParamArena<float> arena(flow.layout());
      flow.init(arena, 1);
      flow.init_from_data(ctx, arena, x);
      double log_prob[n];
      flow.log_prob(ctx, arena, x, nullptr, log_prob);
      for (const double v : log_prob) CHECK(std::abs(v) < 30 * static_cast<double>(flow.dims()));
      for (const ParamLayout::Entry& entry : flow.layout()->entries()) {
        if (weight_norm || entry.shape.size() != 4) continue;
        const int64_t k = entry.shape[0], out = entry.shape[3];
        double square = 0;
        for (int64_t r = 0; r < entry.size / out; ++r) {
          const double w = static_cast<double>(arena.values()[entry.offset + r * out]);
          square += w * w;
        }
        const double learned = static_cast<double>(k * k) / 6;  // square of weight norm's first magnitude
        CHECK(std::min(std::abs(square - 1), std::abs(square - learned)) < 1e-5);
      }
    }
  }
}

/// A table flow that is initialised from `rows`, dense rows of its dims().
struct SmallFlow {
  SmallFlow()
      : flow(coupling_flow<double>(config())), arena(flow.layout()), rows(random_values(60, 4, -2, 2)) {
    flow.init(arena, 1);
    flow.init_from_data(ctx, arena, View<const double>(rows.data(), {20, 1, 1, 3}));
  }
  static CouplingFlowConfig config() {
    CouplingFlowConfig c = plain_table();
    c.dims = 3;
    c.couplings = 2;
    c.hidden = {4};
    return c;
  }

  Context ctx{"cpu", 1};
  Flow<double> flow;
  ParamArena<double> arena;
  std::vector<double> rows;
};

TEST_CASE("a training step that is refused changes nothing") {
  CouplingFlowConfig config = SmallFlow::config();
  config.batch_norm = true;
  const Flow<double> flow = coupling_flow<double>(config);
  ParamArena<double> arena(flow.layout());
  Context ctx("cpu", 1);
  const std::vector<double> rows = random_values(60, 4, -2, 2);
  const View<const double> x(rows.data(), {20, 1, 1, 3});
  flow.init(arena, 1);
  flow.init_from_data(ctx, arena, x);
  Optimizer<double> optimizer(flow.layout(), {});
  std::vector<double> average(static_cast<size_t>(flow.layout()->total_size()));
  const std::vector<double> before(arena.values(), arena.values() + flow.layout()->total_size());
  const auto unchanged = [&] { return std::equal(before.begin(), before.end(), arena.values()); };
  const auto step = [&](double max_norm, double decay) {
    flow.train_step(ctx, arena, x, nullptr, -1, {optimizer, max_norm, average.data(), decay});
  };
  CHECK_THROWS_WITH_AS(step(-1, 0.9), "[clip_grad_norm] expected max_norm >= 0, got -1", ConfigError);
  CHECK_THROWS_AS(step(0, 1.5), ConfigError);
  optimizer.config().lr = -1;
  CHECK_THROWS_AS(step(0, 0.9), ConfigError);
  CHECK(unchanged());
  CHECK(optimizer.steps() == 0);
  optimizer.config().lr = 1e-3;
  step(0, 0.9);
  CHECK(!unchanged());
}

TEST_CASE("an optimiser of another model is refused") {
  SmallFlow s;
  CouplingFlowConfig config = SmallFlow::config();
  config.hidden = {40};
  const Flow<double> larger = coupling_flow<double>(config);
  Optimizer<double> optimizer(larger.layout(), {});
  const View<const double> x(s.rows.data(), {20, 1, 1, 3});
  const std::vector<double> before(s.arena.values(), s.arena.values() + s.flow.layout()->total_size());
  const std::string text =
      "[optimizer] expected an arena of " + std::to_string(larger.layout()->trainable_size()) +
      " trained values, " + std::to_string(larger.layout()->decay_size()) +
      " of them in the decay group, got " + std::to_string(s.flow.layout()->trainable_size()) + " and " +
      std::to_string(s.flow.layout()->decay_size());
  CHECK_THROWS_WITH_AS(optimizer.step(s.ctx, s.arena), text.c_str(), ConfigError);
  CHECK_THROWS_WITH_AS(s.flow.train_step(s.ctx, s.arena, x, nullptr, -1, {optimizer}), text.c_str(),
                       ConfigError);
  CHECK(std::equal(before.begin(), before.end(), s.arena.values()));

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

TEST_CASE("a flow refuses outputs that are not of its batch") {
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
