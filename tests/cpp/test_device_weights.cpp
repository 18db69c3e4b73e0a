#include <algorithm>

#include "check_device.hpp"
#include "kernels/kernel_set.hpp"
#include "plain_table.hpp"

// Steps whose samples have weights, other ones in each call.

namespace evenflow::test {
namespace {

/// What gradients and whole steps come to, and all that they change.
std::vector<double> steps(const std::string& device, const Flow<double>& flow, int64_t n, double low,
                          double high) {
  Context ctx(device);
  ParamArena<double> arena(flow.layout(), device);
  flow.init(arena, 3);
  OptimizerConfig config;
  config.eps = 1e-4;  // or gradients that are rounding errors would count like others
  Optimizer<double> optimizer(flow.layout(), config, device);
  const Shape shape = flow.sample_shape().with_batch(n);
  const ParamArena<double>& read = arena;
  std::vector<double> results;
  for (int call = 0; call < 6; ++call) {
    Arrays a(ctx);
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < n; ++i) {
      labels.push_back(static_cast<int32_t>(i % std::max<int64_t>(1, flow.classes())));
    }
    const std::vector<double> weights = random_values(n, 40 + call, 0, 3);
    Given<double> given(labels.data());
    given.sample_weight = weights.data();
    const View<const double> x(a.put(random_values(shape.size(), 20 + call, low, high)), shape);
    if (call == 0) flow.init_from_data(ctx, arena, x);
    zero_grad(ctx, arena);
    const StepResult r = flow.loss_and_grad(ctx, arena, x, given, -1);
    append(results, {r.loss, r.nll, r.class_nll, r.class_error, clip_grad_norm(ctx, arena, 0)});
    const StepResult s = flow.train_step(ctx, arena, x, given, -1, {optimizer});
    append(results, {s.loss, s.nll, s.class_nll, s.class_error, s.grad_norm});
    ctx.synchronize();
    append(results, std::vector<double>(read.values(), read.values() + flow.layout()->total_size()));
  }
  return results;
}

void check_steps(const Flow<double>& flow, int64_t n, double low, double high) {
  install_emulator();
  CHECK(gap(steps("emulated", flow, n, low, high), steps("cpu", flow, n, low, high)) <= 1e-7);
  CHECK(Emulator::get().live() == 0);
}

}  // namespace

TEST_CASE("device: steps of weighted samples are the CPU's") {
  GlowConfig g = small_glow();
  g.classes = 3;
  g.class_weight = 0.1;
  check_steps(glow<double>(g), 5, 0, 255);
  CouplingFlowConfig t = plain_table();
  t.dims = 5;
  t.couplings = 3;
  t.hidden = {7};
  for (const bool batch_norm : {false, true}) {
    t.batch_norm = batch_norm;
    check_steps(coupling_flow<double>(t), 20, -2, 2);
  }
}

TEST_CASE("device: rows times numbers of their own") {
  check_same<float>(0, [](Context& ctx, const std::string&) {
    Arrays a(ctx);
    constexpr int64_t kRows = 33, kColumns = 70;
    float* x = a.put(random_of<float>(kRows * kColumns, 1));
    ctx.kernels<float>().move.scale_rows(ctx, kRows, kColumns, a.put(random_values(kRows, 2, 0, 3)), x);
    return a.get(x, kRows * kColumns);
  });
}

}  // namespace evenflow::test
