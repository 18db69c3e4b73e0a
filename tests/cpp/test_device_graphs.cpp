#include "check_device.hpp"

// Passes that a device records.

namespace evenflow::test {

TEST_CASE("device: a training step is one graph, and waits once") {
  install_emulator();
  Emulator& emulator = Emulator::get();
  GlowConfig config;
  config.shape = {0, 4, 4, 3};
  config.levels = 2;
  config.steps = 1;
  config.hidden = 6;
  config.permutation = "lu";
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
