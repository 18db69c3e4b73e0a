#include <doctest/doctest.h>

#include "check_device.hpp"
#include "core/device.hpp"
#include "kernels/device/exec.hpp"
#include "kernels/flow_program.hpp"
#include "kernels/kernel_set.hpp"

// What a device computes for all layers of a pass together, and how many kernels a pass is.

namespace evenflow::test {
namespace {

/// Every pass of an initialised flow: numbers, and gradients of parameters.
template <class T>
std::vector<T> passes(Context& ctx, const std::string& device, const Flow<T>& flow, int64_t n) {
  ParamArena<T> arena(flow.layout(), device);
  const ParamArena<T>& read = arena;
  flow.init(arena, 3);
  Rng rng(4);
  for (int64_t i = 0; i < flow.layout()->trainable_size(); ++i) {
    arena.values()[i] += static_cast<T>(0.005 * rng.normal());
  }
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(n);
  const int64_t size = shape.size();
  const View<const T> x(a.put(random_of<T>(size, 5, 0, 255)), shape);
  const View<T> back(a.make<T>(size), shape), dx(a.make<T>(size), shape), drawn(a.make<T>(size), shape);
  T* z = a.make<T>(size);
  double *det = a.make<double>(n), *log_prob = a.make<double>(n), *back_det = a.make<double>(n);
  flow.init_from_data(ctx, arena, x);
  flow.forward(ctx, arena, x, {}, z, det);
  flow.inverse(ctx, arena, z, n, {}, back, back_det);
  flow.log_prob(ctx, arena, x, {}, log_prob);
  flow.sample(ctx, arena, 0, 0.7, 11, {}, drawn);
  flow.log_prob_and_grad(ctx, arena, x, {}, log_prob, dx);
  std::vector<T> result = a.get(z, size);
  for (const View<T>& v : {back, dx, drawn}) append(result, a.get(v.data, size));
  for (const double* d : {det, log_prob, back_det}) append_doubles(result, a.get(d, n));
  zero_grad(ctx, arena);
  const double loss = flow.loss_and_grad(ctx, arena, x, {}, -1).loss;
  ctx.synchronize();
  result.push_back(static_cast<T>(loss));
  append(result, std::vector<T>(read.grads(), read.grads() + flow.layout()->trainable_size()));
  return result;
}

/// Kernels of a training step.
int64_t launches(const Flow<float>& flow, int64_t n) {
  Context ctx("emulated");
  ParamArena<float> arena(flow.layout(), "emulated");
  flow.init(arena, 3);
  Optimizer<float> optimizer(flow.layout(), OptimizerConfig(), "emulated");
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(n);
  const View<const float> x(a.put(random_of<float>(shape.size(), 5, 0, 255)), shape);
  flow.init_from_data(ctx, arena, x);
  const int64_t before = Emulator::get().launches;
  flow.train_step(ctx, arena, x, {}, -1, {optimizer});
  return Emulator::get().launches - before;
}

}  // namespace

TEST_CASE("device: more layers than one launch derives from" * doctest::test_suite("any device")) {
  GlowConfig g;
  g.shape = {0, 2, 2, 2};
  g.levels = 1;
  g.steps = 65;
  g.hidden = 2;
  const auto flow = glow<double>(g);
  check_same<double>(1e-8,
                     [&](Context& ctx, const std::string& device) { return passes(ctx, device, flow, 3); });
}

TEST_CASE_TEMPLATE("device: a 1x1 convolution's whole way back" * doctest::test_suite("any device"), T, float,
                   double) {
  const double bound = std::is_same<T, double>::value ? 1e-12 : 5e-5;
  for (const int64_t pixels : {0, 1, 7, 1057}) {
    for (const int64_t c : {1, 2, 6, 12, 13, 64, 65}) {
      if (pixels > 7 && c > 64) continue;
      for (const int64_t between : {0, 1, 2, 4}) {  // numbers from one row to the next
        CAPTURE(pixels);
        CAPTURE(c);
        CAPTURE(between);
        ConvDims dims;
        dims.in = {pixels, 1, 1, c};
        dims.cout = c;
        check_same<T>(bound, [&](Context& ctx, const std::string&) {
          Arrays a(ctx);
          const int64_t stride = c + between, room = pixels * stride + 1;
          const View<const T> z(a.put(random_of<T>(room, 1)), dims.in, stride);
          const View<const T> dz(a.put(random_of<T>(room, 2)), dims.in, stride);
          const T *w = a.put(random_of<T>(c * c, 3)), *inverse = a.put(random_of<T>(c * c, 4));
          const View<T> x(a.make<T>(room), dims.in, stride), dx(a.make<T>(room), dims.in, stride);
          double* dw = a.make<double>(c * c, ctx.on_host() ? 0 : -7);
          if (!ctx.on_host()) {
            flow_kernels<T>(*ctx.device()).matrix_backward(ctx, dims, z, dz, w, inverse, x, dx, dw);
          } else if (pixels > 0) {
            const KernelSet<T>& kernels = ctx.kernels<T>();
            kernels.conv_forward(ctx, dims, z, inverse, {}, x);
            kernels.conv_backward_data(ctx, dims, dz, w, dx, false);
            for (int64_t p = 0; p < pixels * c * c; ++p) {
              const int64_t pixel = p / (c * c), i = p / c % c, j = p % c;
              dw[i * c + j] += static_cast<double>(x.data[pixel * stride + i]) *
                               static_cast<double>(dz.data[pixel * stride + j]);
            }
          }
          std::vector<T> result = a.get(x.data, room);
          append(result, a.get(dx.data, room));
          append_doubles(result, a.get(dw, c * c));
          return result;
        });
      }
    }
  }
}

TEST_CASE("device: parts of a gradient are complete when a watch is told so") {
  install_emulator();
  const auto flow = glow<double>(small_glow());
  const int64_t size = flow.layout()->trainable_size();
  ParamArena<double> arena(flow.layout(), "emulated");
  const ParamArena<double>& read = arena;
  Context ctx("emulated");
  flow.init(arena, 3);
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(4);
  const View<const double> x(a.put(random_of<double>(shape.size(), 5, 0, 255)), shape);
  flow.init_from_data(ctx, arena, x);
  std::vector<double> told(static_cast<size_t>(size));
  GradientWatch watch{{}, nullptr};
  watch.complete = [&](size_t part) {
    ctx.synchronize();
    const GradientPart& of = watch.parts[part];
    std::copy(read.grads() + of.first, read.grads() + of.end, told.begin() + of.first);
  };
  const auto gradient = [&](const GradientWatch* with) {
    zero_grad(ctx, arena);
    flow.loss_and_grad(ctx, arena, x, {}, -1, 1, with);
    ctx.synchronize();
    return std::vector<double>(read.grads(), read.grads() + size);
  };
  const std::vector<double> together = gradient(nullptr);
  for (const int64_t least : {int64_t{0}, int64_t{100}, size}) {
    CAPTURE(least);
    watch.parts = flow.gradient_parts(least);
    const std::vector<double> watched = gradient(&watch);
    CHECK(same_bits(told, watched));
    CHECK(gap(watched, together) <= 1e-12);
  }
}

TEST_CASE("device: a gradient that is taken again from checkpoints is not added to the first") {
  GlowConfig g = small_glow();
  g.steps = 8;
  const auto flow = glow<float>(g);
  check_same<float>(2e-3, [&](Context& ctx, const std::string& device) {
    ParamArena<float> arena(flow.layout(), device);
    const ParamArena<float>& read = arena;
    flow.init(arena, 3);
    Arrays a(ctx);
    const Shape shape = flow.sample_shape().with_batch(3);
    const View<const float> x(a.put(random_of<float>(shape.size(), 5, 0, 255)), shape);
    flow.init_from_data(ctx, arena, x);
    ctx.synchronize();
    int number = 0;  // steps that lose some digits each, by going up and down
    for (const ParamLayout::Entry& entry : flow.layout()->entries()) {
      if (entry.name.find("actnorm.bias") == std::string::npos) continue;
      for (int64_t i = 0; i < entry.size; ++i) arena.values()[entry.offset + i] += number % 2 ? -8e3f : 8e3f;
      ++number;
    }
    CHECK(flow.loss_and_grad(ctx, arena, x, {}, -1).drift.fallback);
    ctx.synchronize();
    std::vector<float> grads(read.grads(), read.grads() + flow.layout()->trainable_size());
    float largest = 0;
    for (const float value : grads) largest = std::max(largest, std::abs(value));
    for (float& value : grads) value /= largest;
    return grads;
  });
}

TEST_CASE("device: sums over more rows than one kernel adds") {
  check_same<double>(1e-12, [&](Context& ctx, const std::string&) {
    Arrays a(ctx);
    constexpr int64_t kRows = 1500, kColumns = 11;
    const std::vector<double> partial = random_values(kRows * 2 * kColumns, 1, -1, 1);
    double *bias = a.make<double>(kColumns), *logs = a.make<double>(kColumns);
    const ops::AddPair<double> finish{0.5, bias, logs};
    if (!ctx.on_host()) {
      DeviceExec<EmulatedLauncher>::sum_rows(ctx, kRows, kColumns, a.put(partial), finish);
    } else {
      for (int64_t c = 0; c < kColumns; ++c) {
        double sums[2] = {0, 0};
        for (int64_t r = 0; r < kRows; ++r) {
          for (int64_t s = 0; s < 2; ++s) sums[s] += partial[static_cast<size_t>((2 * r + s) * kColumns + c)];
        }
        finish(c, sums, 1);
      }
    }
    std::vector<double> result = a.get(bias, kColumns);
    append(result, a.get(logs, kColumns));
    return result;
  });
}

// Where kernels are short, a step takes as long as they are many.
TEST_CASE("device: few kernels for each step of a Glow") {
  install_emulator();
  GlowConfig g;
  g.shape = {0, 4, 4, 3};
  g.levels = 1;
  g.hidden = 16;
  for (const NetDtype dtype : {NetDtype::bfloat16, NetDtype::same}) {
    g.conditioner = dtype;
    g.steps = 2;
    const auto two = glow<float>(g);
    g.steps = 3;
    const auto three = glow<float>(g);
    CHECK(launches(three, 2) - launches(two, 2) == 31);
  }
}

}  // namespace evenflow::test
