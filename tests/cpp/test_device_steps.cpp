#include <utility>

#include "check_device.hpp"
#include "kernels/kernel_set.hpp"
#include "plain_table.hpp"

// Whole training steps, one after the other.

namespace evenflow::test {
namespace {

/// The error of each call, or nothing, after calls that had none. spoil(first value of the entry).
std::vector<std::string> errors_of(const std::string& device, const Flow<double>& flow,
                                   const std::string& entry, const std::function<void(double*)>& spoil) {
  Context ctx(device);
  ParamArena<double> arena(flow.layout(), device);
  flow.init(arena, 3);
  const Shape shape = flow.sample_shape().with_batch(4);
  std::vector<std::string> errors;
  for (int call = 0; call < 2; ++call) {
    Arrays a(ctx);
    const View<const double> x(a.put(random_of<double>(shape.size(), 20 + call, 0, 255)), shape);
    const View<double> y(a.make<double>(shape.size()), shape);
    const double* latents = a.put(random_values(shape.size(), 30 + call, -1, 1));
    double* z = a.make<double>(shape.size());
    double* out = a.make<double>(4);
    if (call == 0) flow.init_from_data(ctx, arena, x);
    ctx.synchronize();
    for (const auto& e : flow.layout()->entries()) {
      if (call == 1 && e.name == entry) spoil(arena.values() + e.offset);
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
      if (call == 0) CHECK(errors.back().empty());
    }
  }
  return errors;
}

}  // namespace

TEST_CASE("device: parameters that make no layer are the CPU's error") {
  install_emulator();
  GlowConfig g = small_glow();
  const auto check = [&](const char* kind, const char* entry, const std::string& text,
                         const std::function<void(double*)>& spoil) {
    CAPTURE(std::string(kind));
    g.permutation = kind;
    const Flow<double> flow = glow<double>(g);
    const std::string name = std::string("level0.step0.permutation.") + entry;
    const std::vector<std::string> got = errors_of("emulated", flow, name, spoil);
    CHECK(got == errors_of("cpu", flow, name, spoil));
    size_t failed = 0;
    for (const std::string& error : got) failed += error.find(text) != std::string::npos;
    CHECK(failed == got.size());
  };
  check("plain", "weight", "[level0.step0.permutation] expected an invertible",
        [](double* w) { std::copy(w, w + 8, w + 8); });
  check("plain", "weight", "got log |det W| = nan", [](double* w) { w[3] = std::nan(""); });
  check("lu", "permutation", "expected a permutation of 0 ... 7, got 9 at 2",
        [](double* order) { order[2] = 9; });
  for (const double value : {9.0, -1.0, 0.5, std::nan("")}) {
    check("shuffle", "permutation", "at 2", [&](double* order) { order[2] = value; });
  }
  for (const char* kind : {"shuffle", "lu"}) {
    check(kind, "permutation", "twice", [](double* order) { order[2] = order[1]; });
  }
}

namespace {

struct Trained {
  std::vector<double> results;
  std::vector<std::string> errors;
};

/// Training steps with other rates and bounds each, of which one fails, and all that they change.
Trained trained(const std::string& device, const Flow<double>& flow, Rule rule, int64_t n, double high) {
  Context ctx(device);
  ParamArena<double> arena(flow.layout(), device);
  flow.init(arena, 3);
  OptimizerConfig config;
  config.rule = rule;
  config.momentum = 0.5;
  config.eps = 1e-4;  // or gradients that are rounding errors would count like others
  config.weight_decay = 1e-3;
  Optimizer<double> optimizer(flow.layout(), config, device);
  SharedBuffer<double> average(flow.layout()->total_size(), device);
  const Shape shape = flow.sample_shape().with_batch(n);
  Trained out;
  const ParamArena<double>& read = arena;
  for (int call = 0; call < 9; ++call) {
    Arrays a(ctx);
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < n; ++i)
      labels.push_back(static_cast<int32_t>((i + call) % std::max<int64_t>(1, flow.classes())));
    std::vector<double> values = random_of<double>(shape.size(), 20 + call, 0, high);
    if (call == 6) values[3] = 1e300;
    const View<const double> x(a.put(values), shape);
    if (call == 0) flow.init_from_data(ctx, arena, x);
    optimizer.config().lr = 1e-3 / (1 + call);
    const double max_norm = call % 3 ? 0.1 * call : 0;
    try {
      const StepResult r = flow.train_step(ctx, arena, x, labels.data(), -1,
                                           {optimizer, max_norm, call % 4 ? average.data() : nullptr, 0.9});
      CHECK(!r.drift.fallback);
      append(out.results, {r.loss, r.nll, r.class_nll, r.class_error, r.grad_norm});
      out.errors.emplace_back();
    } catch (const NumericError& e) {
      out.errors.emplace_back(e.what());
    }
    // The gradient is as it was left: clipped, and known to be finite.
    append(out.results, {clip_grad_norm(ctx, arena, 0), static_cast<double>(optimizer.steps())});
    ctx.synchronize();
    for (const double* from : {read.values(), const_cast<const double*>(average.data())}) {
      for (int64_t i = 0; i < flow.layout()->total_size(); ++i) out.results.push_back(from[i]);
    }
    for (SharedBuffer<double>& moment : optimizer.moments()) {
      for (int64_t i = 0; i < moment.size(); ++i) out.results.push_back(moment.data()[i]);
    }
  }
  return out;
}

void check_trained(const std::string& name, const Flow<double>& flow, Rule rule, int64_t n, double high) {
  CAPTURE(name);
  install_emulator();
  const Trained got = trained("emulated", flow, rule, n, high), wanted = trained("cpu", flow, rule, n, high);
  CHECK(gap(got.results, wanted.results) <= 1e-7);
  CHECK(got.errors == wanted.errors);
  CHECK(!got.errors[6].empty());
  CHECK(Emulator::get().live() == 0);
}

}  // namespace

TEST_CASE("device: training steps are the CPU's") {
  GlowConfig g = small_glow();
  check_trained("glow", glow<double>(g), Rule::adamax, 4, 255);
  g.classes = 3;
  g.class_weight = 0.1;
  check_trained("class head", glow<double>(g), Rule::rmsprop, 5, 255);
  RealNvpConfig r;
  r.shape = {0, 4, 4, 1};
  r.levels = 2;
  r.base_dim = 3;
  r.residual_blocks = 1;
  check_trained("real nvp, images", real_nvp<double>(r), Rule::adam, 6, 255);
  check_trained("nice", nice<double>(small_nice()), Rule::sgd, 20, 1);
}

namespace {

/// As if another rank had other rows.
class Other : public Ranks {
 public:
  void sum(double* values, int64_t count) override {
    for (int64_t i = 1; i < count; ++i) values[i] = 2 * values[i] + 0.1;
  }
};

}  // namespace

TEST_CASE("device: a batch norm's moments are those of all ranks") {
  CouplingFlowConfig config = plain_table();
  config.dims = 5;
  config.couplings = 2;
  config.hidden = {7};
  config.batch_norm = true;
  check_same<double>(1e-10, [&](Context& ctx, const std::string& device) {
    const Flow<double> flow = coupling_flow<double>(config);
    ParamArena<double> arena(flow.layout(), device);
    flow.init(arena, 3);
    Arrays a(ctx);
    const View<const double> x(a.put(random_values(30, 1, -2, 2)), {6, 1, 1, 5});
    flow.init_from_data(ctx, arena, x);
    const auto norm = [&] {
      zero_grad(ctx, arena);
      flow.loss_and_grad(ctx, arena, x, nullptr, -1);
      return clip_grad_norm(ctx, arena, 0);
    };
    const double alone = norm();
    Other ranks;
    const RanksScope scope(ctx, &ranks);
    const double together = norm();
    CHECK(std::abs(together / alone - 1) > 1e-3);
    return std::vector<double>{alone, together};
  });
}

TEST_CASE("device: a step draws the dropout of its own seed") {
  CouplingFlowConfig config = plain_table();
  config.dims = 5;
  config.couplings = 3;
  config.hidden = {20, 20};
  config.net = "residual";
  config.dropout = 0.3;
  check_same<double>(1e-10, [&](Context& ctx, const std::string& device) {
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
  });
}

TEST_CASE("device: a gradient's results are read when the whole pass is queued") {
  install_emulator();
  Emulator& emulator = Emulator::get();
  Context ctx("emulated");
  const Flow<double> flow = glow<double>(small_glow());
  ParamArena<double> arena(flow.layout(), "emulated");
  flow.init(arena, 3);
  Optimizer<double> optimizer(flow.layout(), OptimizerConfig(), "emulated");
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(4);
  const View<const double> x(a.put(random_of<double>(shape.size(), 20, 0, 255)), shape);
  flow.init_from_data(ctx, arena, x);
  zero_grad(ctx, arena);
  emulator.before_wait = -1;
  flow.loss_and_grad(ctx, arena, x, nullptr, -1);
  CHECK(emulator.before_wait == emulator.launches);
  // Clipped or not, a step needs no other look at the gradient.
  emulator.before_wait = -1;
  clip_grad_norm(ctx, arena, 1e-3);
  optimizer.step(ctx, arena);
  CHECK(emulator.before_wait < 0);
}

}  // namespace evenflow::test
