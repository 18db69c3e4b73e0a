#include <utility>

#include "check_device.hpp"
#include "kernels/kernel_set.hpp"
#include "plain_table.hpp"

// Passes that a device records.

namespace evenflow::test {
namespace {

/// Gradients, densities and samples, call after call with other data: what a training step's gradient, a
/// density and samples come to, and how many of the last calls' three passes were graphs.
template <class T>
std::vector<double> repeated(const std::string& device, const Flow<T>& flow, int64_t n, double low,
                             double high, int64_t& graphs) {
  Context ctx(device);
  ParamArena<T> arena(flow.layout(), device);
  flow.init(arena, 3);
  Optimizer<T> optimizer(flow.layout(), OptimizerConfig(), device);
  const Shape shape = flow.sample_shape().with_batch(n);
  std::vector<double> results;
  for (int call = 0; call < 5; ++call) {
    Arrays a(ctx);  // at the same places in each call
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < n; ++i)
      labels.push_back(static_cast<int32_t>((i + call) % std::max<int64_t>(1, flow.classes())));
    const View<const T> x(a.put(random_of<T>(shape.size(), 20 + call, low, high)), shape);
    const View<T> drawn(a.make<T>(shape.size()), shape);
    double* log_prob = a.make<double>(n);
    if (call == 0) flow.init_from_data(ctx, arena, x);
    const int64_t before = Emulator::get().graphs;
    zero_grad(ctx, arena);
    const StepResult r = flow.loss_and_grad(ctx, arena, x, labels.data(), -1);
    CHECK(!r.drift.fallback);
    append(results, {r.loss, r.class_nll, r.class_error, clip_grad_norm(ctx, arena, 1e9)});
    optimizer.step(ctx, arena);
    flow.log_prob(ctx, arena, x, labels.data(), log_prob);
    flow.sample(ctx, arena, 5 * call, 0.7, 11, labels.data(), drawn);
    graphs = Emulator::get().graphs - before;
    append(results, a.get(log_prob, n));
    for (const T v : a.get(drawn.data, shape.size())) results.push_back(static_cast<double>(v));
  }
  ctx.synchronize();
  const ParamArena<T>& done = arena;
  for (int64_t i = 0; i < flow.layout()->total_size(); ++i) results.push_back(done.values()[i]);
  return results;
}

/// `wanted` of the three are graphs, whose results are the CPU's.
void check_recorded(const std::string& name, const Flow<double>& flow, int64_t n, double low, double high,
                    int64_t wanted = 3) {
  CAPTURE(name);
  install_emulator();
  Emulator::get().separate_arrays = false;
  int64_t graphs = 0, none = 0;
  const std::vector<double> got = repeated(std::string("emulated"), flow, n, low, high, graphs);
  Emulator::get().separate_arrays = true;
  CHECK(graphs == wanted);
  CHECK(gap(got, repeated(std::string("cpu"), flow, n, low, high, none)) <= 1e-7);
  CHECK(Emulator::get().live() == 0);
}

}  // namespace

TEST_CASE("device: passes of every kind of model are graphs") {
  GlowConfig g = small_glow();
  for (const char* kind : {"lu", "plain", "shuffle", "reverse"}) {
    g.permutation = kind;
    check_recorded(kind, glow<double>(g), 4, 0, 255);
  }
  g.permutation = "lu";
  g.classes = 3;
  check_recorded("classes", glow<double>(g), 5, 0, 255);
  g.class_weight = 0.1;
  check_recorded("class head", glow<double>(g), 5, 0, 255);
  RealNvpConfig r;
  r.shape = {0, 4, 4, 1};
  r.scales = 2;
  r.base_dim = 3;
  r.residual_blocks = 1;
  check_recorded("real nvp, images", real_nvp<double>(r), 6, 0, 255);
  CouplingFlowConfig t = plain_table();
  t.dims = 5;
  t.couplings = 3;
  t.hidden = {7};
  t.batch_norm = true;
  for (const char* mask : {"halves", "odd-even"}) {
    t.mask = mask;
    check_recorded(mask, coupling_flow<double>(t), 20, -2, 2);
  }
  NiceConfig nice_config = small_nice();
  for (const char* order : {"tile", "shuffle", "none"}) {
    nice_config.order = order;
    check_recorded(order, nice<double>(nice_config), 20, -2, 2);
  }
}

TEST_CASE("device: recordings that others spoil leave passes as they are") {
  install_emulator();
  Emulator::get().spoils_recordings = true;
  check_recorded("spoilt", glow<double>(small_glow()), 4, 0, 255, 0);
  Emulator::get().spoils_recordings = false;
}

namespace {

/// As if another rank had other rows.
class Other : public Ranks {
 public:
  void sum(double* values, int64_t count) override {
    for (int64_t i = 1; i < count; ++i) values[i] = 2 * values[i] + 0.1;
  }
};

/// The norm of a batch norm's gradient with ranks, after passes without.
double norm_with_ranks(const std::string& device) {
  CouplingFlowConfig t = plain_table();
  t.dims = 5;
  t.couplings = 2;
  t.hidden = {7};
  t.batch_norm = true;
  const Flow<double> flow = coupling_flow<double>(t);
  Context ctx(device);
  ParamArena<double> arena(flow.layout(), device);
  flow.init(arena, 3);
  Arrays a(ctx);
  const Shape shape{6, 1, 1, 5};
  const View<const double> x(a.put(random_values(30, 1, -2, 2)), shape);
  flow.init_from_data(ctx, arena, x);
  const auto norm = [&] {
    zero_grad(ctx, arena);
    flow.loss_and_grad(ctx, arena, x, nullptr, -1);
    return clip_grad_norm(ctx, arena, 0);
  };
  double alone = 0;
  for (int call = 0; call < 4; ++call) alone = norm();
  Other ranks;
  const RanksScope scope(ctx, &ranks);
  const double together = norm();
  CHECK(std::abs(together / alone - 1) > 1e-3);
  return together;
}

}  // namespace

TEST_CASE("device: a graph without ranks is not one with them") {
  install_emulator();
  Emulator::get().separate_arrays = false;
  const int64_t before = Emulator::get().graphs;
  CHECK(norm_with_ranks("emulated") == doctest::Approx(norm_with_ranks("cpu")).epsilon(1e-10));
  CHECK(Emulator::get().graphs > before);
  Emulator::get().separate_arrays = true;
}

TEST_CASE("device: a graph is of one precision") {
  install_emulator();
  Emulator::get().separate_arrays = false;
  {
    const Flow<float> flow = glow<float>(small_glow());
    const Shape shape = flow.sample_shape().with_batch(4);
    Context ctx("emulated");
    ParamArena<float> arena(flow.layout(), "emulated");
    flow.init(arena, 3);
    Arrays a(ctx);
    const View<const float> x(a.put(random_of<float>(shape.size(), 20, 0, 255)), shape);
    double* log_prob = a.make<double>(4);
    flow.init_from_data(ctx, arena, x);
    ctx.synchronize();
    const std::vector<float> noise = random_of<float>(flow.layout()->stats_begin(), 21, -0.05, 0.05);
    for (size_t i = 0; i < noise.size(); ++i) arena.values()[i] += noise[i];  // nets begin with zeros
    int64_t graphs = 0;
    const auto call = [&](MatmulPrecision precision) {
      ctx.set_matmul_precision(precision);
      graphs = -Emulator::get().graphs;
      flow.log_prob(ctx, arena, x, nullptr, log_prob);
      graphs += Emulator::get().graphs;
      return a.get(log_prob, 4);
    };
    std::vector<double> results[2];
    for (const MatmulPrecision precision : {MatmulPrecision::highest, MatmulPrecision::high}) {
      std::vector<double>& first = results[precision == MatmulPrecision::high];
      first = call(precision);
      CHECK(graphs == 0);
      for (int i = 0; i < 3; ++i) CHECK(same_bits(call(precision), first));
      CHECK(graphs == 1);
    }
    CHECK(!same_bits(results[0], results[1]));
    CHECK(same_bits(call(MatmulPrecision::highest), results[0]));
    CHECK(graphs == 1);
  }
  Emulator::get().separate_arrays = true;
  CHECK(Emulator::get().live() == 0);
}

namespace {

/// The error of each call, or nothing, after some calls that had none. spoil(first value of the entry).
std::vector<std::string> errors_of(const std::string& device, const Flow<double>& flow,
                                   const std::string& entry, const std::function<void(double*)>& spoil) {
  Context ctx(device);
  ParamArena<double> arena(flow.layout(), device);
  flow.init(arena, 3);
  const Shape shape = flow.sample_shape().with_batch(4);
  std::vector<std::string> errors;
  for (int call = 0; call < 5; ++call) {
    Arrays a(ctx);
    const View<const double> x(a.put(random_of<double>(shape.size(), 20 + call, 0, 255)), shape);
    const View<double> y(a.make<double>(shape.size()), shape);
    const double* latents = a.put(random_values(shape.size(), 30 + call, -1, 1));
    double* z = a.make<double>(shape.size());
    double* out = a.make<double>(4);
    if (call == 0) flow.init_from_data(ctx, arena, x);
    ctx.synchronize();
    for (const auto& e : flow.layout()->entries()) {
      if (call == 4 && e.name == entry) spoil(arena.values() + e.offset);
    }
    errors.clear();
    for (const std::function<void()>& f : std::vector<std::function<void()>>{
             [&] { flow.loss_and_grad(ctx, arena, x, nullptr, -1); },
             [&] { flow.log_prob(ctx, arena, x, nullptr, out); },
             [&] { flow.sample(ctx, arena, 0, 0.7, 11, nullptr, y); },
             [&] { flow.forward(ctx, arena, x, nullptr, z, out); },
             [&] { flow.inverse(ctx, arena, latents, 4, nullptr, y, out); },
             [&] { flow.log_prob_and_grad(ctx, arena, x, nullptr, out, y); }}) {
      errors.emplace_back();
      try {
        f();
      } catch (const NumericError& e) {
        errors.back() = e.what();
      }
      if (call < 4) CHECK(errors.back().empty());
    }
  }
  return errors;
}

}  // namespace

TEST_CASE("device: parameters that make no layer are the CPU's error, from a graph too") {
  install_emulator();
  GlowConfig g = small_glow();
  const auto check = [&](const char* kind, const char* entry, const std::string& text, size_t least,
                         const std::function<void(double*)>& spoil) {
    CAPTURE(std::string(kind));
    g.permutation = kind;
    const Flow<double> flow = glow<double>(g);
    Emulator::get().separate_arrays = false;
    const std::string name = std::string("level0.step0.permutation.") + entry;
    const std::vector<std::string> got = errors_of("emulated", flow, name, spoil);
    Emulator::get().separate_arrays = true;
    CHECK(got == errors_of("cpu", flow, name, spoil));
    size_t failed = 0;
    for (const std::string& error : got) failed += error.find(text) != std::string::npos;
    CHECK(failed >= least);
  };
  check("plain", "weight", "[level0.step0.permutation] expected an invertible", 6,
        [](double* w) { std::copy(w, w + 8, w + 8); });
  check("plain", "weight", "got log |det W| = nan", 6, [](double* w) { w[3] = std::nan(""); });
  check("lu", "permutation", "expected a permutation of 0 ... 7, got 9 at 2", 6,
        [](double* order) { order[2] = 9; });
  for (const double value : {9.0, -1.0, 0.5, std::nan("")}) {
    check("shuffle", "permutation", "at 2", 6, [&](double* order) { order[2] = value; });
  }
  for (const char* kind : {"shuffle", "lu"}) {
    check(kind, "permutation", "twice", 6, [](double* order) { order[2] = order[1]; });
  }
}

namespace {

struct Trained {
  std::vector<double> results;
  std::vector<std::string> errors;
  int64_t graphs = 0;  ///< of the steps after the second one
};

/// Whole training steps with other rates and bounds each, of which one fails, and all that they change.
template <class T>
Trained trained(const std::string& device, const Flow<T>& flow, Rule rule, int64_t n, double high) {
  Emulator& emulator = Emulator::get();
  Context ctx(device);
  ParamArena<T> arena(flow.layout(), device);
  flow.init(arena, 3);
  OptimizerConfig config;
  config.rule = rule;
  config.momentum = 0.5;
  config.eps = 1e-4;  // or gradients that are rounding errors would count like others
  config.weight_decay = 1e-3;
  Optimizer<T> optimizer(flow.layout(), config, device);
  SharedBuffer<T> average(flow.layout()->total_size(), device);
  const Shape shape = flow.sample_shape().with_batch(n);
  Trained out;
  const ParamArena<T>& read = arena;
  for (int call = 0; call < 9; ++call) {
    Arrays a(ctx);  // at the same places in each call
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < n; ++i)
      labels.push_back(static_cast<int32_t>((i + call) % std::max<int64_t>(1, flow.classes())));
    std::vector<T> values = random_of<T>(shape.size(), 20 + call, 0, high);
    if (call == 6) values[3] = T(1e300);
    const View<const T> x(a.put(values), shape);
    if (call == 0) flow.init_from_data(ctx, arena, x);
    optimizer.config().lr = 1e-3 / (1 + call);
    const double max_norm = call % 3 ? 0.1 * call : 0;
    const int64_t before = emulator.graphs;
    try {
      const StepResult r = flow.train_step(ctx, arena, x, labels.data(), -1,
                                           {optimizer, max_norm, call % 4 ? average.data() : nullptr, 0.9});
      CHECK(!r.drift.fallback);
      append(out.results, {r.loss, r.nll, r.class_nll, r.class_error, r.grad_norm});
      out.errors.emplace_back();
    } catch (const NumericError& e) {
      out.errors.emplace_back(e.what());
    }
    if (call > 1) out.graphs += emulator.graphs - before;
    // The gradient is as it was left: clipped, and known to be finite.
    append(out.results, {clip_grad_norm(ctx, arena, 0), static_cast<double>(optimizer.steps())});
    ctx.synchronize();
    for (const T* from : {read.values(), const_cast<const T*>(average.data())}) {
      for (int64_t i = 0; i < flow.layout()->total_size(); ++i) out.results.push_back(from[i]);
    }
    for (SharedBuffer<T>& moment : optimizer.moments()) {
      for (int64_t i = 0; i < moment.size(); ++i) out.results.push_back(moment.data()[i]);
    }
  }
  return out;
}

void check_trained(const std::string& name, const Flow<double>& flow, Rule rule, int64_t n, double high) {
  CAPTURE(name);
  install_emulator();
  Emulator::get().separate_arrays = false;
  const Trained got = trained(std::string("emulated"), flow, rule, n, high);
  Emulator::get().separate_arrays = true;
  const Trained wanted = trained(std::string("cpu"), flow, rule, n, high);
  CHECK(gap(got.results, wanted.results) <= 1e-7);
  CHECK(got.errors == wanted.errors);
  CHECK(!got.errors[6].empty());
  CHECK(got.graphs == 7);  // of every call, with an average or without, the one that fails too
  CHECK(Emulator::get().live() == 0);
}

}  // namespace

TEST_CASE("device: the gradient of a training step is a graph") {
  GlowConfig g = small_glow();
  check_trained("glow", glow<double>(g), Rule::adamax, 4, 255);
  g.classes = 3;
  g.class_weight = 0.1;
  check_trained("class head", glow<double>(g), Rule::rmsprop, 5, 255);
  RealNvpConfig r;
  r.shape = {0, 4, 4, 1};
  r.scales = 2;
  r.base_dim = 3;
  r.residual_blocks = 1;
  check_trained("real nvp, images", real_nvp<double>(r), Rule::adam, 6, 255);
  check_trained("nice", nice<double>(small_nice()), Rule::sgd, 20, 1);
}

namespace {

/// Parameters after steps of which each third one has another setting, one setting after the other.
std::vector<double> steps_of_settings(const std::string& device, const Flow<double>& flow, Rule rule) {
  Context ctx(device);
  ParamArena<double> arena(flow.layout(), device);
  flow.init(arena, 3);
  OptimizerConfig config;
  config.rule = rule;
  Optimizer<double> optimizer(flow.layout(), config, device);
  const Shape shape = flow.sample_shape().with_batch(20);
  bool fresh = true;
  const auto step = [&](uint64_t seed) {
    Arrays a(ctx);  // at the same places in each call
    const View<const double> x(a.put(random_of<double>(shape.size(), seed, 0, 1)), shape);
    if (std::exchange(fresh, false)) flow.init_from_data(ctx, arena, x);
    flow.train_step(ctx, arena, x, nullptr, -1, {optimizer});
    ctx.synchronize();
  };
  using C = OptimizerConfig;
  for (const auto setting :
       {&C::momentum, &C::beta1, &C::beta2, &C::decay, &C::eps, &C::weight_decay, &C::shrink}) {
    for (uint64_t call = 0; call < 3; ++call) step(20 + call);
    optimizer.config().*setting = 0.9 * optimizer.config().*setting + 0.01;
  }
  step(20);
  const ParamArena<double>& done = arena;
  return std::vector<double>(done.values(), done.values() + flow.layout()->total_size());
}

}  // namespace

TEST_CASE("device: steps of other settings have the same graph") {
  install_emulator();
  const Flow<double> flow = nice<double>(small_nice());
  for (const Rule rule : {Rule::sgd, Rule::rmsprop, Rule::adam, Rule::adamax}) {
    CAPTURE(static_cast<int>(rule));
    Emulator::get().separate_arrays = false;
    const int64_t before = Emulator::get().graphs;
    const std::vector<double> got = steps_of_settings("emulated", flow, rule);
    Emulator::get().separate_arrays = true;
    CHECK(Emulator::get().graphs - before == 21);  // of all steps but the first
    CHECK(gap(got, steps_of_settings("cpu", flow, rule)) <= 1e-7);
  }
}

TEST_CASE("device: a gradient's graph is of its input's rows, its weight, and what it is added to") {
  install_emulator();
  const Flow<double> flow = glow<double>(small_glow());
  Emulator::get().separate_arrays = false;
  Context ctx("emulated");
  ParamArena<double> arena(flow.layout(), "emulated");
  flow.init(arena, 3);
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(4);
  const std::vector<double> values = random_of<double>(2 * shape.size(), 5, 0, 255);
  const View<const double> x(a.put(values), shape), apart(x.data, shape, 2 * shape.c);
  flow.init_from_data(ctx, arena, x);
  const auto norm = [&](View<const double> of, double weight, bool fresh = true) {
    if (fresh) zero_grad(ctx, arena);
    flow.loss_and_grad(ctx, arena, of, nullptr, -1, weight);
    return clip_grad_norm(ctx, arena, 0);
  };
  double once = 0;
  const int64_t before = Emulator::get().graphs;
  for (int call = 0; call < 3; ++call) once = norm(x, 1);
  CHECK(Emulator::get().graphs - before == 2);
  CHECK(norm(x, 0.25) == doctest::Approx(once / 4).epsilon(1e-9));
  const double others = norm(apart, 1);
  CHECK(norm(x, 1) == doctest::Approx(once).epsilon(1e-9));
  CHECK(norm(x, 1, false) == doctest::Approx(2 * once).epsilon(1e-9));
  std::vector<double> dense;  // what `apart` is, elsewhere
  for (size_t i = 0; i < values.size(); ++i) {
    if (i / static_cast<size_t>(shape.c) % 2 == 0) dense.push_back(values[i]);
  }
  CHECK(others == doctest::Approx(norm({a.put(dense), shape}, 1)).epsilon(1e-9));
  CHECK(std::abs(others / once - 1) > 1e-3);
  Emulator::get().separate_arrays = true;
}

TEST_CASE("device: a recorded step draws the dropout of its own seed") {
  install_emulator();
  CouplingFlowConfig config = plain_table();
  config.dims = 5;
  config.couplings = 3;
  config.hidden = {20, 20};
  config.net = "residual";
  config.dropout = 0.3;
  const auto losses_of = [&](const std::string& device) {
    Context ctx(device);
    const Flow<double> flow = coupling_flow<double>(config);
    ParamArena<double> arena(flow.layout(), device);
    flow.init(arena, 3);
    Arrays a(ctx);
    const Shape shape = flow.sample_shape().with_batch(40);
    const View<const double> x(a.put(random_of<double>(shape.size(), 20, -2, 2)), shape);
    flow.init_from_data(ctx, arena, x);
    Optimizer<double> optimizer(flow.layout(), {Rule::adam, 1e-2}, device);
    std::vector<double> losses;
    for (uint64_t step = 0; step < 6; ++step) {
      Given<double> given;
      given.masks.seed = step;
      losses.push_back(flow.train_step(ctx, arena, x, given, step % 2 ? -1 : 0, {optimizer}).loss);
    }
    return losses;
  };
  CHECK(gap(losses_of("emulated"), losses_of("cpu")) <= 1e-10);
}

TEST_CASE("device: a gradient is one graph, and waits once") {
  install_emulator();
  Emulator& emulator = Emulator::get();
  GlowConfig config = small_glow();
  config.shape = {0, 4, 4, 3};
  constexpr int kSteps = 7;
  const auto losses_of = [&](const std::string& device) {
    Context ctx(device);
    const Flow<double> flow = glow<double>(config);
    ParamArena<double> arena(flow.layout(), device);
    flow.init(arena, 3);
    const Shape shape = flow.sample_shape().with_batch(4);
    Optimizer<double> optimizer(flow.layout(), OptimizerConfig(), device);
    std::vector<double> losses;
    for (int step = 0; step < kSteps; ++step) {
      Arrays a(ctx);  // at the same place in each step, with other data
      const View<const double> x(a.put(random_of<double>(shape.size(), 20 + step, 0, 255)), shape);
      if (step == 0) flow.init_from_data(ctx, arena, x);
      zero_grad(ctx, arena);
      emulator.before_wait = -1;
      // Once with another batch size in between.
      const View<const double> some(x.data, shape.with_batch(step == 4 ? 3 : 4));
      losses.push_back(flow.loss_and_grad(ctx, arena, some, nullptr, -1).loss);
      if (device != "cpu") CHECK(emulator.before_wait == emulator.launches);
      // Clipped or not, a step needs no other look at the gradient.
      emulator.before_wait = -1;
      losses.push_back(clip_grad_norm(ctx, arena, step % 2 ? 1e-3 : 1e9));
      optimizer.step(ctx, arena);
      if (device != "cpu") CHECK(emulator.before_wait < 0);
    }
    Arrays a(ctx);
    double* log_prob = a.make<double>(4);
    const View<double> y(a.make<double>(flow.dims() * 4), flow.sample_shape().with_batch(4));
    for (int call = 0; call < 4; ++call) {
      const std::vector<double> x = random_of<double>(y.shape.size(), 40 + call, 0, 255);
      ctx.to_device(y.data, x.data(), x.size() * sizeof(double));
      flow.log_prob(ctx, arena, y, nullptr, log_prob);
      append(losses, a.get(log_prob, 4));
      flow.sample(ctx, arena, 5 * call, 0.7, 11, nullptr, y);
      append(losses, a.get(y.data, y.shape.size()));
    }
    return losses;
  };
  emulator.separate_arrays = false;
  emulator.graphs = 0;
  const std::vector<double> got = losses_of("emulated");
  emulator.separate_arrays = true;
  CHECK(emulator.graphs >= 3 + 2 + 2);
  CHECK(gap(got, losses_of("cpu")) <= 1e-7);
  CHECK(emulator.live() == 0);
}

}  // namespace evenflow::test
