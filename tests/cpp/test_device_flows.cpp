#include <limits>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "check_device.hpp"
#include "laws.hpp"
#include "plain_table.hpp"

// Densities and samples of table flows against the CPU, and the errors of spoiled parameters.

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

/// Densities of n rows, then n samples, from number `first` on.
template <class T>
std::vector<double> compute(Context& ctx, const ParamArena<T>& arena, const Flow<T>& flow, int64_t n,
                            int64_t first = 0) {
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(n);
  const T* rows = a.put(random_of<T>((first + n) * flow.dims(), 6, -2, 3));
  const View<const T> x(rows + first * flow.dims(), shape);
  const View<T> drawn(a.make<T>(shape.size()), shape);
  double* out = a.make<double>(n);
  flow.log_prob(ctx, arena, x, nullptr, out);
  flow.sample(ctx, arena, 5 + first, 0.75, 11, nullptr, drawn);
  std::vector<double> results = a.get(out, n);
  for (const T v : a.get(drawn.data, shape.size())) results.push_back(static_cast<double>(v));
  return results;
}

template <class T>
constexpr double kBound = std::is_same<T, double>::value ? 1e-10 : 1e-5;

/// The device's results are near the CPU's, and the same bits in every order.
template <class T>
void check_flow(const Flow<T>& flow, double bound = kBound<T>,
                const std::vector<int64_t>& batches = {131, 1}) {
  CAPTURE(sizeof(T));
  install_emulator();
  Context cpu("cpu", 1);
  const auto here = trained(cpu, "cpu", flow);
  for (const int64_t n : batches) {
    CAPTURE(n);
    const std::vector<double> wanted = compute(cpu, *here, flow, n);
    std::vector<double> first;
    for (const Emulator::Order order : kOrders) {
      Emulator::get().order = order;
      Context device("emulated");
      ParamArena<T> there(flow.layout(), "emulated");
      std::copy(here->values(), here->values() + flow.layout()->total_size(), there.values());
      const std::vector<double> got = compute(device, there, flow, n);
      if (order == Emulator::ascending) first = got;
      CHECK(gap(got, wanted) <= bound);
      CHECK(same_bits(got, first));
    }
    CHECK(Emulator::get().live() == 0);
  }
  Emulator::get().order = Emulator::ascending;
}

template <class Make>
void check_both(const Make& make) {
  check_flow<double>(make(double()));
  check_flow<float>(make(float()));
}

/// Rows and samples alone, and a few of them, have the bits that they have among many.
template <class T>
void check_rows(const Flow<T>& flow) {
  CAPTURE(sizeof(T));
  install_emulator();
  Context ctx("emulated");
  const auto arena = trained(ctx, "emulated", flow);
  constexpr int64_t kRows = 1300;
  const std::vector<double> all = compute(ctx, *arena, flow, kRows);
  const auto part = [&](int64_t first, int64_t n) {
    const auto begin = all.begin() + first, drawn = all.begin() + kRows + first * flow.dims();
    std::vector<double> rows(begin, begin + n);
    rows.insert(rows.end(), drawn, drawn + n * flow.dims());
    return rows;
  };
  for (const auto& rows : {std::pair<int64_t, int64_t>{0, 1}, {131, 1}, {1299, 1}, {5, 30}, {1100, 129}}) {
    const int64_t first = rows.first, n = rows.second;  // CAPTURE is a lambda, which captures no binding
    CAPTURE(first);
    CAPTURE(n);
    CHECK(same_bits(compute(ctx, *arena, flow, n, first), part(first, n)));
  }
}

/// A table flow, n rows for it, and what its calls report once a number of its parameters is
/// another.
class Spoiled {
 public:
  Spoiled(Context& ctx, const CouplingFlowConfig& config, int64_t n)
      : ctx_(ctx),
        flow_(coupling_flow<double>(config)),
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

TEST_CASE("device: a table model's density and samples against the CPU's") {
  CouplingFlowConfig c = plain_table();
  c.dims = 2;
  c.couplings = 4;
  c.hidden = {64, 64};
  const auto make = [&c](auto t) { return coupling_flow<decltype(t)>(c); };
  check_both(make);
  c.dims = 64;
  c.couplings = 3;
  c.hidden = {40, 17, 33};
  c.permutation = "shuffle";
  c.batch_norm = true;
  check_both(make);
  c.dims = 7;  // odd: halves of different sizes
  c.couplings = 5;
  c.hidden = {15};
  c.mask = "odd-even";
  c.actnorm = true;
  c.base = "logistic";
  check_both(make);
  c.law = "additive";
  c.preprocess = "none";
  c.hidden = {};
  check_both(make);
}

TEST_CASE("device: every law, order and scale of a table flow against the CPU's") {
  NiceConfig n;
  n.shape = {0, 1, 1, 5};
  n.hidden = {9, 8};
  n.order = "shuffle";
  check_both([&](auto t) { return nice<decltype(t)>(n); });
  for (const std::string law : {"glow", "real_nvp", "gaussian", "spline"}) {
    for (const Mask mask : {Mask::second_half, Mask::even}) {
      check_both([&](auto t) {
        using T = decltype(t);
        const Shape shape{0, 1, 1, 5};
        const MaskSizes sizes = mask_sizes(mask, shape.c);
        Flow<T> flow(shape, Base::gaussian);
        for (const char* name : {"first", "second"}) {
          CouplingOptions options = law_options(law, law == "glow");
          options.shared = {{0.7, false}, {0, false, name[0] == 'f'}};
          auto net = mlp<T>(shape.with_channels(sizes.pass), numbers_of_law(options.law) * sizes.change, {20},
                            MlpInit::uniform_zero);
          flow.add(name, coupling<T>(shape, mask, std::move(net), options));
        }
        flow.finalize();
        return flow;
      });
    }
  }
}

TEST_CASE("device: a table flow with matrices against the CPU's") {
  CouplingFlowConfig c = plain_table();
  const auto make = [&c](auto t) { return coupling_flow<decltype(t)>(c); };
  c.dims = 5;
  c.couplings = 3;
  c.hidden = {9};
  c.preprocess = "whiten";
  check_both(make);
  c.preprocess = "zca";
  c.mask = "odd-even";
  check_both(make);
  c.permutation = "lu";
  check_both(make);
  c.preprocess = "standardize";
  c.dims = 2;
  c.base = "logistic";
  c.actnorm = true;
  check_both(make);
  c = plain_table();
  c.dims = 128;  // wider than what the thin products take
  c.couplings = 2;
  c.hidden = {20};
  c.permutation = "lu";
  c.preprocess = "none";
  check_flow<double>(make(double()));
  // The CPU applies so many channels' factors one by one, rounding in between; the device has W, rounded
  // once.
  check_flow<float>(make(float()), 5 * kBound<float>);
  NiceConfig n;
  n.shape = {0, 1, 1, 6};
  n.hidden = {9};
  n.preprocess = "whiten";
  check_both([&](auto t) { return nice<decltype(t)>(n); });
}

TEST_CASE("device: a table flow of columns within bounds against the CPU's") {
  CouplingFlowConfig c = plain_table();
  const auto make = [&c](auto t) { return coupling_flow<decltype(t)>(c); };
  c.dims = 6;
  c.couplings = 3;
  c.hidden = {9};
  c.bounds = {{-3, 4}, {-3, 4}, {}, {-2.5, HUGE_VAL}, {-HUGE_VAL, 3.5}, {-2.5, 8}};
  check_both(make);
  c.preprocess = "none";
  c.bounds.assign(6, {-3, 4});
  check_both(make);
  NiceConfig n;
  n.shape = {0, 1, 1, 6};
  n.hidden = {9};
  n.bounds = c.bounds;
  check_both([&](auto t) { return nice<decltype(t)>(n); });
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
  c.mask = "odd-even";
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

TEST_CASE("device: table flows wide, long and of as many rows as tiles have") {
  CouplingFlowConfig c = plain_table();
  const auto make = [&c](auto t) { return coupling_flow<decltype(t)>(c); };
  for (const int64_t more : {0, 1}) {
    CAPTURE(more);
    c.couplings = 2;
    c.dims = 128 + more;
    c.hidden = {256 + more, 3};
    check_flow(make(float()), 1e-5, {128 + more, 1});
  }
  c.dims = 4;
  c.couplings = 33;
  c.hidden = {8};
  check_both(make);
  c.couplings = 1;
  c.hidden = {(1 << 16) + 8};
  check_flow(make(double()), kBound<double>, {3});  // not by matrix units, whose tiles of 128 rows take long
  c.hidden = {8};
  c.dims = 128;
  for (int64_t i = 0; i < c.dims; ++i) c.bounds.push_back({-3.0 - static_cast<double>(i), 4});
  check_flow(make(double()), kBound<double>, {3});
}

TEST_CASE("device: a row of a table has its bits alone and among others") {
  CouplingFlowConfig c = plain_table();
  const auto both = [&c] {
    check_rows(coupling_flow<double>(c));
    check_rows(coupling_flow<float>(c));
  };
  c.dims = 7;
  c.couplings = 2;
  c.hidden = {20, 128};  // the last product of wider ones is divided by the number of rows
  c.batch_norm = true;
  both();
  c.conditioner = NetDtype::bfloat16;
  check_rows(coupling_flow<float>(c));
  c = plain_table();
  c.dims = 6;
  c.couplings = 2;
  c.hidden = {20};
  c.law = "spline";
  c.permutation = "lu";
  c.preprocess = "whiten";
  both();
  c.dims = 70;
  c.law = "affine";
  c.preprocess = "none";
  c.base = "logistic";
  both();
}

TEST_CASE("device: a row of a table with a wide net is near what it is among others") {
  install_emulator();
  CouplingFlowConfig c = plain_table();
  c.dims = 8;
  c.couplings = 1;
  c.hidden = {1024};
  c.law = "additive";
  c.conditioner = NetDtype::bfloat16;
  const Flow<float> flow = coupling_flow<float>(c);
  Context ctx("emulated");
  const auto arena = trained(ctx, "emulated", flow);
  const int64_t n = 37 * 128 + 1;  // the net's last product is divided into seven parts, for a row into eight
  const std::vector<double> all = compute(ctx, *arena, flow, n), alone = compute(ctx, *arena, flow, 1);
  std::vector<double> among{all[0]};
  among.insert(among.end(), all.begin() + n, all.begin() + n + c.dims);
  CHECK(gap(alone, among) <= 1e-6);
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

TEST_CASE("device: a spoiled order or bias is the layers' error") {
  install_emulator();
  CouplingFlowConfig t = plain_table();
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

TEST_CASE("device: a spoiled matrix is the layers' error") {
  install_emulator();
  CouplingFlowConfig t = plain_table();
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
