#include <limits>
#include <stdexcept>
#include <type_traits>

#include "check_device.hpp"
#include "kernels/flow_program.hpp"
#include "kernels/kernel_set.hpp"

// Whole flows in one kernel, against the CPU and against the same device layer by layer.

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

/// Random multiples of `step`.
std::vector<double> multiples(int64_t count, uint64_t seed, double low, double high, double step) {
  std::vector<double> values = random_values(count, seed, low, high);
  for (double& v : values) v = std::round(v / step) * step;
  return values;
}

template <class T>
std::vector<T> inputs(const Flow<T>& flow, int64_t n) {
  const std::vector<double> values = multiples(n * flow.dims(), 6, -2, 3, 1.0 / 256);
  return std::vector<T>(values.begin(), values.end());
}

/// Densities of n rows and n samples, and how many kernels each takes.
template <class T>
struct Results {
  std::vector<double> log_prob;
  std::vector<T> samples;
  int64_t log_prob_launches = 0;
  int64_t sample_launches = 0;

  std::vector<double> all() const {
    std::vector<double> values = log_prob;
    values.insert(values.end(), samples.begin(), samples.end());
    return values;
  }
};

template <class T>
Results<T> compute(Context& ctx, const ParamArena<T>& arena, const Flow<T>& flow, int64_t n) {
  Emulator& emulator = Emulator::get();
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(n);
  const View<const T> x(a.put(inputs(flow, n)), shape);
  const View<T> drawn(a.make<T>(shape.size()), shape);
  double* out = a.make<double>(n);
  Results<T> results;
  const int64_t begin = emulator.launches;
  std::vector<double> copy(static_cast<size_t>(n));
  flow.log_prob(ctx, arena, x, nullptr, out, copy.data());
  const int64_t middle = emulator.launches;
  flow.sample(ctx, arena, 5, 0.75, 11, nullptr, drawn);
  results.log_prob_launches = middle - begin;
  results.sample_launches = emulator.launches - middle;
  results.log_prob = a.get(out, n);
  CHECK(copy == results.log_prob);
  results.samples = a.get(drawn.data, shape.size());
  return results;
}

/// The same by the calls that go layer by layer.
template <class T>
std::vector<double> by_layers(Context& ctx, const ParamArena<T>& arena, const Flow<T>& flow, int64_t n) {
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(n);
  const View<const T> x(a.put(inputs(flow, n)), shape);
  const View<T> drawn(a.make<T>(shape.size()), shape);
  T* z = a.make<T>(shape.size());
  double* out = a.make<double>(n);
  flow.forward(ctx, arena, x, nullptr, z, out);
  ctx.kernels<T>().base_log_prob(ctx, flow.base(), n, flow.dims(), z, T(0), nullptr, out);
  std::vector<double> values = a.get(out, n);
  ctx.kernels<T>().base_sample(ctx, flow.base(), n, flow.dims(), T(0.75), 11, 5, z);
  flow.inverse(ctx, arena, z, n, nullptr, drawn, out);
  for (const T v : a.get(drawn.data, shape.size())) values.push_back(v);
  return values;
}

template <class T>
constexpr double kBound = std::is_same<T, double>::value ? 1e-10 : 1e-5;

/// So many kernels a call on the device in every order: the CPU's results, the layers', and those of a row
/// that do not depend on the batch. 129 rows begin to share blocks.
template <class T>
void check_flow(const Flow<T>& flow, const std::vector<int64_t>& batches, int64_t kernels = 1,
                double bound = kBound<T>) {
  CAPTURE(sizeof(T));
  install_emulator();
  Context cpu("cpu", 1);
  const auto here = trained(cpu, "cpu", flow);
  std::vector<double> longest;  // the densities of the largest batch
  std::vector<T> drawn;
  for (const int64_t n : batches) {
    CAPTURE(n);
    const std::vector<double> wanted = compute(cpu, *here, flow, n).all();
    for (const Emulator::Order order : kOrders) {
      Emulator::get().order = order;
      Context device("emulated");
      auto there = std::make_unique<ParamArena<T>>(flow.layout(), "emulated");
      std::copy(here->values(), here->values() + flow.layout()->total_size(), there->values());
      const Results<T> got = compute(device, *there, flow, n);
      CHECK(got.log_prob_launches == kernels);
      CHECK(got.sample_launches == kernels);
      if (longest.empty()) {
        longest = got.log_prob;
        drawn = got.samples;
      }
      CHECK(std::memcmp(got.log_prob.data(), longest.data(), got.log_prob.size() * sizeof(double)) == 0);
      CHECK(std::memcmp(got.samples.data(), drawn.data(), got.samples.size() * sizeof(T)) == 0);
      if (order != Emulator::ascending) continue;
      CHECK(gap(got.all(), wanted) <= bound);
      if (n != batches.front()) continue;  // smaller ones have its bits
      CHECK(gap(got.all(), by_layers(device, *there, flow, n)) <= bound);
    }
    CHECK(Emulator::get().live() == 0);
  }
  Emulator::get().order = Emulator::ascending;
}

template <class Make>
void check_both(const Make& make, const std::vector<int64_t>& batches, int64_t kernels = 1) {
  check_flow<double>(make(double()), batches, kernels);
  check_flow<float>(make(float()), batches, kernels);
}

/// A table flow of one kernel, n rows for it, and what its calls report once a number of its parameters is
/// another.
class Spoiled {
 public:
  Spoiled(Context& ctx, const RealNvpTableConfig& config, int64_t n)
      : ctx_(ctx),
        flow_(real_nvp<double>(config)),
        arena_(flow_.layout(), "emulated"),
        arrays_(ctx),
        shape_{n, 1, 1, config.dims},
        rows_(random_values(shape_.size(), 1, -1, 1)),
        x_(arrays_.put(rows_), shape_),
        drawn_(arrays_.make<double>(shape_.size()), shape_),
        out_(arrays_.make<double>(n)) {
    ctx_.synchronize();
    flow_.init(arena_, 1);
    CHECK_THROWS_AS(log_prob(x_), ConfigError);  // not initialised
    CHECK_THROWS_AS(sample(), ConfigError);
    flow_.init_from_data(ctx_, arena_, x_);
    CHECK_NOTHROW(log_prob(x_));
    CHECK_NOTHROW(sample());
    rows_.back() = HUGE_VAL;
    CHECK_THROWS_WITH_AS(log_prob({arrays_.put(rows_), shape_}), doctest::Contains("finite inputs"),
                         NumericError);
  }

  /// The middle one of a parameter's numbers.
  double& number(const std::string& parameter) {
    ctx_.synchronize();
    for (const auto& entry : flow_.layout()->entries()) {
      if (entry.name == parameter) return arena_.values()[entry.offset + entry.size / 2];
    }
    throw std::out_of_range(parameter);
  }

  /// What the errors of log_prob and sample contain; null: there is none.
  void check(const std::string& parameter, double value, const char* in_log_prob, const char* in_sample) {
    CAPTURE(parameter);
    CAPTURE(value);
    std::swap(number(parameter), value);
    check_call(in_log_prob, [&] { log_prob(x_); });
    check_call(in_sample, [&] { sample(); });
    std::swap(number(parameter), value);
  }

 private:
  template <class Call>
  static void check_call(const char* text, const Call& call) {
    if (text) {
      CHECK_THROWS_WITH_AS(call(), doctest::Contains(text), NumericError);
    } else {
      CHECK_NOTHROW(call());
    }
  }
  void log_prob(View<const double> x) { flow_.log_prob(ctx_, arena_, x, nullptr, out_); }
  void sample() { flow_.sample(ctx_, arena_, 0, 1, 3, nullptr, drawn_); }

  Context& ctx_;
  Flow<double> flow_;
  ParamArena<double> arena_;
  Arrays arrays_;
  Shape shape_;
  std::vector<double> rows_;
  View<double> x_, drawn_;
  double* out_;
};

}  // namespace

TEST_CASE("device: a table model's density and samples are one kernel") {
  RealNvpTableConfig c;
  c.dims = 2;
  c.couplings = 4;
  c.hidden = {64, 64};
  const auto make = [&c](auto t) { return real_nvp<decltype(t)>(c); };
  check_both(make, {300, 129, 128, 64, 7, 1});
  c.dims = 64;
  c.couplings = 3;
  c.hidden = {40, 17, 33};
  c.permutation = "shuffle";
  c.batch_norm = true;
  check_both(make, {140, 7, 1});
  c.dims = 7;  // odd: halves of different sizes
  c.couplings = 5;
  c.hidden = {15};
  c.mask = "odd-even";
  c.actnorm = true;
  c.prior = "logistic";
  check_both(make, {131, 2});
  c.coupling = "additive";
  c.preprocess = "none";
  c.hidden = {};
  check_both(make, {300, 3});
  c = RealNvpTableConfig();
  c.dims = FlowProgram::kDims;  // as wide as there is room for
  c.couplings = 4;
  c.hidden = {FlowProgram::kWidth, 3};
  check_both(make, {130, 1});
  c.dims = 2;
  c.couplings = 23;  // as long
  check_both(make, {130, 1});
}

TEST_CASE("device: every law, order and scale of a table flow in one kernel") {
  NiceConfig n;
  n.shape = {0, 1, 1, 5};
  n.hidden = {9, 8};
  n.order = "shuffle";
  check_both([&](auto t) { return nice<decltype(t)>(n); }, {133, 4});
  for (const ScaleLaw law : {ScaleLaw::glow, ScaleLaw::real_nvp, ScaleLaw::gaussian}) {
    for (const Mask mask : {Mask::second_half, Mask::even}) {
      check_both(
          [&](auto t) {
            using T = decltype(t);
            const Shape shape{0, 1, 1, 5};
            const MaskSizes sizes = mask_sizes(mask, shape.c);
            Flow<T> flow(shape, Base::gaussian);
            for (const char* name : {"first", "second"}) {
              AffineOptions options;
              options.law = law;
              options.interleaved = law == ScaleLaw::glow;
              options.offset = name[0] == 'f';
              options.initial_gain = 0.7;
              auto net =
                  mlp<T>(shape.with_channels(sizes.pass), 2 * sizes.change, {20}, MlpInit::uniform_zero);
              flow.add(name, affine_coupling<T>(shape, mask, std::move(net), options));
            }
            flow.finalize();
            return flow;
          },
          {129, 3});
    }
  }
}

TEST_CASE("device: a table flow with matrices in one kernel") {
  RealNvpTableConfig c;
  const auto make = [&c](auto t) { return real_nvp<decltype(t)>(c); };
  c.dims = 5;
  c.couplings = 3;
  c.hidden = {9};
  c.preprocess = "whiten";
  check_both(make, {300, 129, 128, 7, 1});
  c.preprocess = "zca";
  c.mask = "odd-even";
  check_both(make, {131, 2});
  c.permutation = "lu";  // and a kernel for the learned ones
  check_both(make, {300, 129, 128, 7, 1}, 2);
  c.preprocess = "standardize";
  c.dims = 2;
  c.prior = "logistic";
  c.actnorm = true;
  check_both(make, {130, 1}, 2);
  c.couplings = 22;  // as long as there is room for
  c.actnorm = false;
  check_both(make, {129, 3}, 2);
  c = RealNvpTableConfig();
  c.dims = FlowProgram::kDims;  // as wide
  c.couplings = 2;
  c.hidden = {20};
  c.permutation = "lu";
  c.preprocess = "none";
  check_both(make, {131, 1}, 2);
  NiceConfig n;
  n.shape = {0, 1, 1, 6};
  n.hidden = {9};
  n.preprocess = "whiten";
  check_both([&](auto t) { return nice<decltype(t)>(n); }, {130, 4});
}

TEST_CASE("device: a table flow of columns within bounds in one kernel") {
  RealNvpTableConfig c;
  const auto make = [&c](auto t) { return real_nvp<decltype(t)>(c); };
  c.dims = 6;
  c.couplings = 3;
  c.hidden = {9};
  c.bounds = {{-3, 4}, {-3, 4}, {}, {-2.5, HUGE_VAL}, {-HUGE_VAL, 3.5}, {-2.5, 8}};
  check_both(make, {300, 129, 128, 7, 1});
  c.preprocess = "none";
  c.bounds.assign(6, {-3, 4});
  check_both(make, {131, 1});
  NiceConfig n;
  n.shape = {0, 1, 1, 6};
  n.hidden = {9};
  n.bounds = c.bounds;
  check_both([&](auto t) { return nice<decltype(t)>(n); }, {130, 4});
  // More different ends than a program has steps: layer by layer.
  c.dims = FlowProgram::kDims;
  c.couplings = 1;
  c.bounds.clear();
  for (int i = 0; i < FlowProgram::kDims; ++i) c.bounds.push_back({-3.0 - i, 4});
  install_emulator();
  Context device("emulated"), cpu("cpu", 1);
  const Flow<double> flow = make(double());
  const auto here = trained(cpu, "cpu", flow);
  auto there = std::make_unique<ParamArena<double>>(flow.layout(), "emulated");
  std::copy(here->values(), here->values() + flow.layout()->total_size(), there->values());
  const Results<double> got = compute(device, *there, flow, 3);
  CHECK(got.log_prob_launches > 1);
  CHECK(gap(got.all(), compute(cpu, *here, flow, 3).all()) <= kBound<double>);
}

TEST_CASE("device: a value outside of a bound is named") {
  install_emulator();
  RealNvpTableConfig c;
  c.dims = 2;
  c.couplings = 1;
  c.hidden = {4};
  c.bounds = {{-3, 4}, {}};
  const Flow<float> flow = real_nvp<float>(c);
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

TEST_CASE("device: a table flow with bfloat16 nets in one kernel") {
  constexpr double kHalf = 1e-2;  // a sum on the other side of a rounding changes what follows
  RealNvpTableConfig c;
  c.conditioner = NetDtype::bfloat16;
  c.dims = 7;
  c.couplings = 3;
  c.hidden = {40, 17, 33};
  check_flow(real_nvp<float>(c), {300, 129, 128, 7, 1}, 1, kHalf);
  c.mask = "odd-even";
  c.hidden = {};
  check_flow(real_nvp<float>(c), {131, 2}, 1, kHalf);
  c.dims = 20;
  c.hidden = {FlowProgram::kWidth};
  c.permutation = "lu";
  c.preprocess = "whiten";
  check_flow(real_nvp<float>(c), {130, 1}, 2, kHalf);
}

TEST_CASE("device: a bfloat16 net in one kernel rounds what the layers round") {
  install_emulator();
  RealNvpTableConfig c;
  c.dims = 7;
  c.couplings = 1;
  c.hidden = {15};
  c.coupling = "additive";
  c.preprocess = "none";
  c.conditioner = NetDtype::bfloat16;
  const Flow<float> flow = real_nvp<float>(c);
  Context ctx("emulated");
  const auto arena = trained(ctx, "emulated", flow);
  ctx.synchronize();
  // Sums before the hidden unit's rounding are exact in any order.
  const int64_t trainable = flow.layout()->trainable_size();
  const std::vector<double> values = multiples(trainable, 8, -1, 1, 1.0 / 512);
  std::copy(values.begin(), values.end(), arena->values());
  for (const int64_t n : {150, 1}) {
    std::vector<double> wanted = by_layers(ctx, *arena, flow, n);
    wanted.resize(static_cast<size_t>(n));  // samples come from draws of all bits
    CHECK(gap(compute(ctx, *arena, flow, n).log_prob, wanted) <= 1e-6);
  }
}

TEST_CASE("device: models that are not for one kernel go layer by layer") {
  install_emulator();
  const auto check_layered = [](const RealNvpTableConfig& c, auto t) {
    using T = decltype(t);
    const Flow<T> flow = real_nvp<T>(c);
    Context cpu("cpu", 1), ctx("emulated");
    const auto here = trained(cpu, "cpu", flow);
    ParamArena<T> there(flow.layout(), "emulated");
    std::copy(here->values(), here->values() + flow.layout()->total_size(), there.values());
    const Results<T> wanted = compute(cpu, *here, flow, 3), got = compute(ctx, there, flow, 3);
    CHECK(got.log_prob_launches > 1);
    CHECK(got.sample_launches > 1);
    CHECK(gap(got.all(), wanted.all()) <= 2e-4);
  };
  RealNvpTableConfig c;
  c.dims = 4;
  c.couplings = 2;
  c.hidden = {FlowProgram::kWidth + 1};
  check_layered(c, float());
  c.couplings = 1;
  c.hidden = {(1 << 16) + 8};  // no width is cut to sixteen bits
  check_layered(c, double());  // not by matrix units, whose tiles of 128 rows take long
  c.hidden = {8};
  c.dims = FlowProgram::kDims + 1;
  check_layered(c, float());
  c.dims = 4;
  c.couplings = FlowProgram::kSteps / 3 + 1;
  check_layered(c, float());
}

TEST_CASE("device: an output with room between its rows") {
  check_same<double>(1e-12, [](Context& ctx, const std::string& device) {
    RealNvpTableConfig config;
    config.dims = 3;
    config.couplings = 2;
    config.hidden = {4};
    const Flow<double> flow = real_nvp<double>(config);
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

TEST_CASE("device: what a kernel for a whole flow can't compute is the layers' error") {
  install_emulator();
  RealNvpTableConfig t;
  t.dims = 3;
  t.couplings = 2;
  t.hidden = {4};
  t.permutation = "shuffle";
  Context ctx("emulated");
  for (const int64_t n : {4, 150}) {
    CAPTURE(n);
    Spoiled flow(ctx, t, n);
    for (const double value : {1e9, -1.0, 3.0, 0.5, kNan}) {
      flow.check("permutation1.permutation", value, "permutation1", "permutation1");
    }
    const double before = flow.number("permutation1.permutation");
    flow.check("permutation1.permutation", before == 0 ? 1 : 0, "twice", "twice");
    flow.check("coupling1.dense1.bias", kNan, "from layer", "from layer");
  }
}

TEST_CASE("device: what a spoiled matrix gives in a kernel for a whole flow is the layers' error") {
  install_emulator();
  RealNvpTableConfig t;
  t.dims = 3;
  t.couplings = 2;
  t.hidden = {4};
  t.permutation = "lu";
  t.preprocess = "whiten";
  Context ctx("emulated");
  for (const int64_t n : {4, 150}) {
    CAPTURE(n);
    Spoiled flow(ctx, t, n);
    const char* singular = "log-determinant -inf from layer permutation1";
    flow.check("permutation1.logs", -HUGE_VAL, singular, "from layer permutation1");
    flow.check("permutation1.logs", kNan, "from layer permutation1", "from layer permutation1");
    flow.check("permutation1.sign", 0, nullptr, "from layer permutation1");
    for (const double value : {3.0, -1.0, 1e9, 0.5, kNan}) {
      flow.check("permutation1.permutation", value, "[permutation1] expected a permutation",
                 "[permutation1] expected");
    }
    const double before = flow.number("permutation1.permutation");
    flow.check("permutation1.permutation", before == 0 ? 1 : 0, "twice", "twice");
    flow.check("preprocess.matrix", kNan, "from layer preprocess", nullptr);
    flow.check("preprocess.inverse", kNan, nullptr, "from layer preprocess");
    flow.check("preprocess.mean", HUGE_VAL, "from layer preprocess", "from layer preprocess");
    flow.check("preprocess.logdet", kNan, "log-determinant nan from layer preprocess", nullptr);
  }
}

}  // namespace evenflow::test
