#include <limits>

#include "check_device.hpp"
#include "plain_table.hpp"

// Densities and samples of table flows against the CPU.

namespace evenflow::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// A model with parameters unlike those at the start, where couplings are the identity.
template <class T>
std::unique_ptr<ParamArena<T>> trained(Context& ctx, const std::string& device, const Flow<T>& flow) {
  auto arena = std::make_unique<ParamArena<T>>(flow.layout(), device);
  flow.init(*arena, 3);
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(50);
  flow.init_from_data(ctx, *arena, View<const T>(a.put(random_of<T>(shape.size(), 4, -2, 3)), shape));
  ctx.synchronize();
  const ParamLayout& layout = *flow.layout();
  const std::vector<double> noise = random_values(layout.total_size(), 9, -0.05, 0.05);
  for (int64_t i = 0; i < layout.stats_begin() + layout.stats_size(); ++i) {
    arena->values()[i] += static_cast<T>(noise[static_cast<size_t>(i)]);
  }
  return arena;
}

/// Densities of n rows, then n samples.
template <class T>
std::vector<double> compute(Context& ctx, const ParamArena<T>& arena, const Flow<T>& flow, int64_t n) {
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(n);
  const View<const T> x(a.put(random_of<T>(shape.size(), 6, -2, 3)), shape);
  const View<T> drawn(a.make<T>(shape.size()), shape);
  double* out = a.make<double>(n);
  flow.log_prob(ctx, arena, x, nullptr, out);
  flow.sample(ctx, arena, 5, 0.75, 11, nullptr, drawn);
  std::vector<double> results = a.get(out, n);
  for (const T v : a.get(drawn.data, shape.size())) results.push_back(static_cast<double>(v));
  return results;
}

/// The device's densities and samples are near the CPU's, and the same bits in every order.
template <class T>
void check_flow(const Flow<T>& flow, double bound) {
  CAPTURE(sizeof(T));
  Context cpu("cpu", 1);
  const auto here = trained(cpu, "cpu", flow);
  for (const int64_t n : {131, 1}) {
    CAPTURE(n);
    check_same<double>(bound, [&](Context& ctx, const std::string& device) {
      ParamArena<T> there(flow.layout(), device);
      std::copy(here->values(), here->values() + flow.layout()->total_size(), there.values());
      return compute(ctx, there, flow, n);
    });
  }
}

void check_both(const CouplingFlowConfig& config) {
  check_flow(coupling_flow<double>(config), 1e-10);
  check_flow(coupling_flow<float>(config), 5e-5);
}

}  // namespace

TEST_CASE("device: densities and samples of table flows against the CPU's") {
  CouplingFlowConfig c = plain_table();
  c.dims = 2;
  c.couplings = 4;
  c.hidden = {64, 64};
  check_both(c);
  c.dims = 64;
  c.couplings = 3;
  c.hidden = {40, 17, 33};
  c.permutation = "shuffle";
  c.batch_norm = true;
  check_both(c);
  c.dims = 7;  // odd: halves of different sizes
  c.hidden = {15};
  c.mask = "odd-even";
  c.actnorm = true;
  c.base = "logistic";
  check_both(c);
  c = plain_table();
  c.dims = 6;
  c.couplings = 3;
  c.hidden = {9};
  c.preprocess = "zca";
  c.permutation = "lu";
  check_both(c);
  c.preprocess = "standardize";
  c.bounds = {{-3, 4}, {-3, 4}, {}, {-2.5, HUGE_VAL}, {-HUGE_VAL, 3.5}, {-2.5, 8}};
  check_both(c);
  c.bounds.clear();
  c.dims = 129;
  c.couplings = 2;
  c.preprocess = "none";
  check_both(c);
}

TEST_CASE("device: a value outside of a bound is named") {
  install_emulator();
  CouplingFlowConfig c = plain_table();
  c.dims = 2;
  c.couplings = 1;
  c.hidden = {4};
  c.bounds = {{-3, 4}, {}};
  const Flow<float> flow = coupling_flow<float>(c);
  Context device("emulated");
  const auto there = trained(device, "emulated", flow);
  Arrays a(device);
  const View<const float> x(a.put(std::vector<float>{1, 2, 5, 0}), {2, 1, 1, 2});
  double* out = a.make<double>(2);
  CHECK_THROWS_WITH_AS(flow.log_prob(device, *there, x, nullptr, out),
                       "[log_prob] expected values between -3 and 4 for column 0, got 5 for sample 1",
                       NumericError);
  CHECK_THROWS_WITH_AS(flow.loss_and_grad(device, *there, x, nullptr, -1),
                       "[loss_and_grad] expected values between -3 and 4 for column 0, got 5 for sample 1",
                       NumericError);
}

TEST_CASE("device: a table flow with bfloat16 nets against the CPU's") {
  constexpr double kHalf = 1e-2;  // a sum on the other side of a rounding changes what follows
  CouplingFlowConfig c = plain_table();
  c.conditioner = NetDtype::bfloat16;
  c.dims = 7;
  c.couplings = 3;
  c.hidden = {40, 17, 33};
  check_flow(coupling_flow<float>(c), kHalf);
  c.hidden = {};
  check_flow(coupling_flow<float>(c), kHalf);
  c.dims = 20;
  c.hidden = {256};
  c.permutation = "lu";
  c.preprocess = "whiten";
  check_flow(coupling_flow<float>(c), kHalf);
  c.hidden = {36, 36};
  c.net = "residual";
  check_flow(coupling_flow<float>(c), kHalf);
  c.activation = "tanh";
  c.net = "mlp";
  check_flow(coupling_flow<float>(c), kHalf);
}

TEST_CASE("device: a bfloat16 net rounds what the CPU's rounds") {
  install_emulator();
  CouplingFlowConfig c = plain_table();
  c.dims = 7;
  c.couplings = 1;
  c.hidden = {15};
  c.law = "additive";
  c.preprocess = "none";
  c.conditioner = NetDtype::bfloat16;
  const Flow<float> flow = coupling_flow<float>(c);
  // Weights of few digits: sums before the hidden unit's rounding are exact in any order.
  std::vector<double> values = random_values(flow.layout()->trainable_size(), 8, -1, 1);
  for (double& v : values) v = std::round(512 * v) / 512;
  const auto densities = [&](const std::string& device, int64_t n) {
    Context ctx(device, 1);
    const auto arena = trained(ctx, device, flow);
    ctx.synchronize();
    std::copy(values.begin(), values.end(), arena->values());
    std::vector<double> found = compute(ctx, *arena, flow, n);
    found.resize(static_cast<size_t>(n));
    return found;
  };
  for (const int64_t n : {150, 1}) {
    CAPTURE(n);
    CHECK(gap(densities("emulated", n), densities("cpu", n)) <= 1e-6);
  }
}

TEST_CASE("device: an output with room between its rows") {
  check_same<double>(1e-12, [](Context& ctx, const std::string& device) {
    CouplingFlowConfig config = plain_table();
    config.dims = 3;
    config.couplings = 2;
    config.hidden = {4};
    const Flow<double> flow = coupling_flow<double>(config);
    const auto arena = trained<double>(ctx, device, flow);
    Arrays a(ctx);
    const View<double> x(a.put(std::vector<double>(20, kNan)), {4, 1, 1, 3}, 5);
    flow.inverse(ctx, *arena, a.put(random_of<double>(12, 8)), 4, nullptr, x, a.make<double>(4));
    std::vector<double> values = a.get(x.data, 20);
    flow.sample(ctx, *arena, 0, 1, 3, nullptr, x);
    append(values, a.get(x.data, 20));
    for (size_t i = 0; i < values.size(); ++i) {
      CHECK(std::isnan(values[i]) == (i % 5 > 2));
      if (i % 5 > 2) values[i] = 0;
    }
    return values;
  });
}

}  // namespace evenflow::test
