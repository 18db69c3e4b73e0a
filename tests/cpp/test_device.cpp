#include <doctest/doctest.h>

#include <cmath>
#include <functional>

#include "check_layer.hpp"
#include "emulator.hpp"
#include "kernels/device/matrix_products.hpp"
#include "kernels/kernel_set_impl.hpp"

// The device's kernels and the layers above them on an emulated device, against the CPU's.

namespace evenflow::test {
namespace {

template <class T>
double gap(const std::vector<T>& got, const std::vector<T>& wanted) {
  if (got.size() != wanted.size()) return HUGE_VAL;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double truth = static_cast<double>(wanted[i]);
    const double error = std::abs(static_cast<double>(got[i]) - truth) / std::max(1.0, std::abs(truth));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

template <class T>
std::vector<T> random_of(int64_t n, uint64_t seed, double low = -1, double high = 1) {
  const std::vector<double> v = random_values(n, seed, low, high);
  return std::vector<T>(v.begin(), v.end());
}

/// run(ctx) on the CPU and on the emulated device in every order: near the CPU's, and the same bits.
template <class T>
void check_same(double bound, const std::function<std::vector<T>(Context&, const std::string&)>& run) {
  install_emulator();
  Context cpu("cpu", 1);
  const std::vector<T> wanted = run(cpu, "cpu");
  std::vector<T> first;
  for (const Emulator::Order order : kOrders) {
    Emulator::get().order = order;
    {
      Context device("emulated");
      const std::vector<T> got = run(device, "emulated");
      if (order == Emulator::ascending) {
        CHECK(gap(got, wanted) <= bound);
        first = got;
      }
      CHECK(std::memcmp(got.data(), first.data(), got.size() * sizeof(T)) == 0);
    }
    CHECK(Emulator::get().live() == 0);  // all memory came back
  }
  Emulator::get().order = Emulator::ascending;
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}
template <class T>
void append_doubles(std::vector<T>& to, const std::vector<double>& from) {
  for (const double v : from) to.push_back(static_cast<T>(v));
}

struct ConvCase {
  Shape in;
  int64_t cout;
  int kernel;
  bool edge;
};

// Tiles are 64 x 64 x 16, chunks of pixels 1024.
const ConvCase kConvs[] = {{{1, 1, 1, 1}, 1, 1, false},    {{3, 1, 1, 17}, 65, 1, false},
                           {{65, 1, 1, 16}, 64, 1, false}, {{1025, 1, 1, 3}, 2, 1, false},
                           {{2, 3, 5, 4}, 7, 3, true},     {{1, 1, 1, 3}, 5, 3, true},
                           {{2, 4, 3, 9}, 3, 3, false},    {{5, 15, 15, 2}, 3, 3, true}};

template <class T>
void check_conv(const ConvCase& c, double bound) {
  CAPTURE(to_string(c.in));
  ConvDims dims;
  dims.in = c.in;
  dims.cout = c.cout;
  dims.kernel = c.kernel;
  dims.edge = c.edge;
  const Shape out = c.in.with_channels(c.cout);
  check_same<T>(bound, [&](Context& ctx, const std::string&) {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    Arrays a(ctx);
    // A wider array than x: rows are strided.
    const int64_t stride = c.in.c + 3;
    const View<const T> x(a.put(random_of<T>(c.in.pixels() * stride, 1)) + 1, c.in, stride);
    const T* w = a.put(random_of<T>(dims.weight_size(), 2));
    const Epilogue<T> epilogue{a.put(random_of<T>(c.cout, 3)), a.put(random_of<T>(c.cout, 4, 0.5, 2)), true};
    const View<const T> dy(a.put(random_of<T>(out.size(), 5)), out);
    const View<T> y(a.make<T>(out.size()), out), plain(a.make<T>(out.size()), out);
    const View<T> dx(a.make<T>(c.in.size()), c.in), more(a.make<T>(c.in.size(), T(0.5)), c.in);
    T* dw = a.make<T>(dims.weight_size(), T(0.25));
    kernels.conv_forward(ctx, dims, x, w, epilogue, y);
    kernels.conv_forward(ctx, dims, x, w, {}, plain);
    kernels.conv_backward_data(ctx, dims, dy, w, dx, false);
    kernels.conv_backward_data(ctx, dims, dy, w, more, true);
    kernels.conv_backward_weights(ctx, dims, x, dy, dw);
    std::vector<T> result = a.get(y.data, out.size());
    append(result, a.get(plain.data, out.size()));
    append(result, a.get(dx.data, c.in.size()));
    append(result, a.get(more.data, c.in.size()));
    append(result, a.get(dw, dims.weight_size()));
    return result;
  });
}

using DeviceKernels =
    KernelSetImpl<DeviceExec<EmulatedLauncher>, DeviceProducts<EmulatedLauncher, float>, float>;

/// A chain of bfloat16 numbers by matrix units against the device's generic products, each with the same
/// activations: only the order of float32 sums differs.
void check_matrix_units(const Shape& in, const std::vector<int64_t>& widths,
                        const std::vector<int>& kernels_of, const std::vector<bool>& relu) {
  CAPTURE(to_string(in));
  CAPTURE(widths.back());
  install_emulator();
  const DeviceKernels generic;
  std::vector<float> first;
  for (const Emulator::Order order : kOrders) {
    Emulator::get().order = order;
    Context ctx("emulated");
    Arrays a(ctx);
    const KernelSet<float>* sets[] = {&generic, &ctx.kernels<float>()};
    std::vector<float> results[2];
    // x and h are slices of wider arrays.
    const int64_t x_stride = in.c + 3, h_stride = widths.back() + 2, pixels = in.pixels();
    const View<const float> x(a.put(random_of<float>(pixels * x_stride, 1)) + 1, in, x_stride);
    const int count = static_cast<int>(widths.size());
    Bf16* acts = nullptr;
    for (int which = 0; which < 2; ++which) {
      const KernelSet<float>& kernels = *sets[which];
      std::vector<StackUnit<float>> units;
      Shape at = in;
      for (size_t u = 0; u < widths.size(); ++u) {
        StackUnit<float> unit;
        unit.dims.in = at;
        unit.dims.cout = widths[u];
        unit.dims.kernel = kernels_of[u];
        unit.dims.edge = kernels_of[u] == 3 && u % 2 == 0;
        unit.w = a.put(random_of<float>(unit.dims.weight_size(), 10 + u, -0.5, 0.5));
        if (u != 1) unit.epilogue.bias = a.put(random_of<float>(widths[u], 20 + u));
        if (u != 2) unit.epilogue.scale = a.put(random_of<float>(widths[u], 30 + u, 0.5, 2));
        unit.epilogue.relu = relu[u];
        unit.dw = a.make<float>(unit.dims.weight_size(), 0.25f);
        if (unit.epilogue.bias) unit.dbias = a.make<float>(widths[u], 0.25f);
        if (unit.epilogue.scale) unit.dlogs = a.make<float>(widths[u], 0.25f);
        unit.logs_factor = 3;
        units.push_back(unit);
        at = at.with_channels(widths[u]);
      }
      const View<float> h(a.make<float>(pixels * h_stride), at, h_stride);
      const View<float> dx(a.make<float>(pixels * x_stride, 0.5f) + 1, in, x_stride);
      const View<float> dh(a.put(random_of<float>(at.size(), 2)), at);
      if (which == 0) acts = a.make<Bf16>(hidden_size(units.data(), count, pixels, 2) + 1, Bf16{0});
      kernels.stack_forward(ctx, units.data(), count, true, x, which ? nullptr : acts, h);
      std::vector<float>& result = results[which];
      result = a.get(h.data, pixels * h_stride);
      kernels.stack_backward(ctx, units.data(), count, true, x, acts, h, dh, dx);
      append(result, a.get(dx.data - 1, pixels * x_stride));
      for (const StackUnit<float>& unit : units) {
        append(result, a.get(unit.dw, unit.dims.weight_size()));
        if (unit.dbias) append(result, a.get(unit.dbias, unit.dims.cout));
        if (unit.dlogs) append(result, a.get(unit.dlogs, unit.dims.cout));
      }
    }
    // A sum that falls on the other side of a rounding to bfloat16 changes what follows by 2^-9 of one term.
    CHECK(gap(results[1], results[0]) <= 5e-3);
    if (order == Emulator::ascending) first = results[1];
    CHECK(std::memcmp(results[1].data(), first.data(), first.size() * sizeof(float)) == 0);
  }
  Emulator::get().order = Emulator::ascending;
}

/// A chain with a hidden layer or more; half: bfloat16 inside.
template <class T>
void check_stack(const Shape& in, const std::vector<int64_t>& widths, const std::vector<int>& kernels_of,
                 bool half, double bound) {
  CAPTURE(to_string(in));
  check_same<T>(bound, [&](Context& ctx, const std::string&) {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    Arrays a(ctx);
    std::vector<StackUnit<T>> units;
    Shape at = in;
    for (size_t u = 0; u < widths.size(); ++u) {
      StackUnit<T> unit;
      unit.dims.in = at;
      unit.dims.cout = widths[u];
      unit.dims.kernel = kernels_of[u];
      unit.dims.edge = kernels_of[u] == 3;
      unit.w = a.put(random_of<T>(unit.dims.weight_size(), 10 + u, -0.5, 0.5));
      unit.epilogue = {a.put(random_of<T>(widths[u], 20 + u)), a.put(random_of<T>(widths[u], 30 + u, 0.5, 2)),
                       u + 1 < widths.size()};
      unit.dw = a.make<T>(unit.dims.weight_size(), T(0.25));
      unit.dbias = a.make<T>(widths[u], T(0.25));
      unit.dlogs = a.make<T>(widths[u], T(0.25));
      unit.logs_factor = T(3);
      units.push_back(unit);
      at = at.with_channels(widths[u]);
    }
    const int count = static_cast<int>(units.size());
    const View<const T> x(a.put(random_of<T>(in.size(), 1)), in);
    const View<T> h(a.make<T>(at.size()), at), again(a.make<T>(at.size()), at);
    const View<T> dh(a.put(random_of<T>(at.size(), 2)), at), dx(a.make<T>(in.size(), T(0.5)), in);
    const int64_t bytes = half ? 2 : static_cast<int64_t>(sizeof(T));
    char* acts = a.make<char>(hidden_size(units.data(), count, in.pixels(), bytes) * bytes + 64, 0);
    kernels.stack_forward(ctx, units.data(), count, half, x, acts, h);
    kernels.stack_forward(ctx, units.data(), count, half, x, nullptr, again);
    std::vector<T> result = a.get(h.data, at.size());
    append(result, a.get(again.data, at.size()));
    if (half) return result;  // units near zero fire here and not there
    kernels.stack_backward(ctx, units.data(), count, half, x, acts, h, dh, dx);
    append(result, a.get(dx.data, in.size()));
    for (const StackUnit<T>& unit : units) {
      append(result, a.get(unit.dw, unit.dims.weight_size()));
      append(result, a.get(unit.dbias, unit.dims.cout));
      append(result, a.get(unit.dlogs, unit.dims.cout));
    }
    return result;
  });
}

/// Everything a layer computes, all of its calls one after another.
template <class T>
std::vector<T> all_of(Context& ctx, const std::string& device, const LayerCase& c,
                      std::unique_ptr<Layer<T>> layer) {
  auto layout = std::make_shared<ParamLayout>();
  layer->declare(Scope(*layout, ""));
  layout->finalize();
  ParamArena<T> arena(layout, device);
  Rng rng(7);
  layer->init(arena, rng);
  const std::vector<T> noise = random_of<T>(layout->trainable_size() + 1, 9, -c.noise, c.noise);
  for (int64_t i = 0; i < layout->trainable_size(); ++i) arena.values()[i] += noise[static_cast<size_t>(i)];
  const Shape in = layer->input_shape().with_batch(c.batch), out = layer->output_shape().with_batch(c.batch);
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < c.batch; ++i)
    labels.push_back(static_cast<int32_t>(i % std::max<int64_t>(1, c.classes)));
  Arrays a(ctx);
  const View<const T> x(a.put(random_of<T>(in.size(), 4, c.low, c.high)), in);
  layer->init_from_data(ctx, arena, x);
  T* stats = a.make<T>(layout->stats_size() + 1, T(0));
  const Params<T> params = arena.params(c.training ? stats : nullptr, a.put(labels));
  const View<T> z(a.make<T>(in.size()), out), back(a.make<T>(in.size()), in), dx(a.make<T>(in.size()), in);
  const View<T> dz(a.make<T>(in.size()), out), z2(a.make<T>(in.size()), out);
  const View<const T> g(a.put(random_of<T>(in.size(), 11)), out);
  const View<const T> gx(g.data, in);
  double* det = a.make<double>(c.batch, 0.5);
  double* det_back = a.make<double>(c.batch, 0.5);
  const double* h = a.put(random_values(c.batch, 12, -1, 1));
  T* kept = a.make<T>(layer->kept_size(c.batch) + 1, T(0));
  layer->forward(ctx, params, x, z, det, kept);
  layer->inverse(ctx, params, z, back, det_back);
  std::vector<T> result = a.get(z.data, in.size());
  append(result, a.get(back.data, in.size()));
  append_doubles(result, a.get(det, c.batch));
  append_doubles(result, a.get(det_back, c.batch));
  layer->backward(ctx, params, z, g, h, back, dx, nullptr);
  append(result, a.get(back.data, in.size()));
  append(result, a.get(dx.data, in.size()));
  layer->backward(ctx, params, z, g, h, back, dx, kept);
  append(result, a.get(dx.data, in.size()));
  if (!c.training) {
    layer->inverse_backward(ctx, params, x, gx, h, z2, dz);
    append(result, a.get(z2.data, in.size()));
    append(result, a.get(dz.data, in.size()));
  }
  append(result, a.get(stats, layout->stats_size()));
  ctx.synchronize();
  const ParamArena<T>& done = arena;
  result.insert(result.end(), done.values(), done.values() + layout->total_size());
  result.insert(result.end(), done.grads(), done.grads() + layout->total_size());
  return result;
}

template <class Make>
void check_layer_on_device(const std::string& name, LayerCase c, const Make& make) {
  CAPTURE(name);
  for (const int64_t batch : {c.batch, int64_t{1}}) {
    if (batch == 1 && c.batch > 3) continue;  // a batch of one has no variance
    CAPTURE(batch);
    c.batch = batch;
    check_same<double>(1e-10, [&](Context& ctx, const std::string& device) {
      return all_of<double>(ctx, device, c, make(double()));
    });
  }
  check_same<float>(2e-4, [&](Context& ctx, const std::string& device) {
    return all_of<float>(ctx, device, c, make(float()));
  });
}

/// Initialisation, density, samples, gradients and three optimiser steps of a whole model.
template <class T>
std::vector<T> train(Context& ctx, const std::string& device, const Flow<T>& flow, int64_t n, double low,
                     double high) {
  ParamArena<T> arena(flow.layout(), device);
  flow.init(arena, 3);
  const Shape shape = flow.sample_shape().with_batch(n);
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < n; ++i)
    labels.push_back(static_cast<int32_t>(i % std::max<int64_t>(1, flow.classes())));
  Arrays a(ctx);
  const View<const T> x(a.put(random_of<T>(shape.size(), 4, low, high)), shape);
  flow.init_from_data(ctx, arena, x);
  OptimizerConfig config;
  config.lr = 1e-2;
  config.weight_decay = 1e-3;
  Optimizer<T> optimizer(flow.layout(), config, device);
  SharedBuffer<T> average(flow.layout()->total_size(), device);
  std::vector<T> result;
  for (int step = 0; step < 3; ++step) {
    zero_grad(ctx, arena);
    const StepResult r = flow.loss_and_grad(ctx, arena, x, labels.data(), step == 0 ? 0 : -1);
    CHECK(!r.drift.fallback);
    append(result,
           std::vector<T>{static_cast<T>(r.loss), static_cast<T>(r.class_nll), static_cast<T>(r.class_error),
                          static_cast<T>(clip_grad_norm(ctx, arena, 5.0))});
    optimizer.step(ctx, arena);
    update_average(ctx, arena, average.data(), 0.9);
  }
  const View<T> z(a.make<T>(shape.size()), {n, 1, 1, flow.dims()}), y(a.make<T>(shape.size()), shape);
  const View<T> dz(a.make<T>(shape.size()), z.shape), dx(a.make<T>(shape.size()), shape);
  double* det = a.make<double>(n);
  flow.forward(ctx, arena, x, labels.data(), z.data, det);
  append(result, a.get(z.data, shape.size()));
  append_doubles(result, a.get(det, n));
  flow.inverse(ctx, arena, z.data, n, labels.data(), y, det);
  append(result, a.get(y.data, shape.size()));
  flow.log_prob(ctx, arena, x, labels.data(), det);
  append_doubles(result, a.get(det, n));
  flow.sample(ctx, arena, 5, 0.7, 11, labels.data(), y);
  append(result, a.get(y.data, shape.size()));
  flow.backward(ctx, arena, z.data, z.data, det, labels.data(), y, dx);
  append(result, a.get(dx.data, shape.size()));
  flow.inverse_backward(ctx, arena, x, x, det, labels.data(), z.data, dz.data);
  append(result, a.get(dz.data, shape.size()));
  ctx.synchronize();
  const ParamArena<T>& done = arena;
  result.insert(result.end(), done.values(), done.values() + flow.layout()->total_size());
  result.insert(result.end(), average.data(), average.data() + average.size());
  return result;
}

template <class Make>
void check_model(const char* name, const Make& make, int64_t n, double low, double high) {
  CAPTURE(name);
  check_same<double>(1e-7, [&](Context& ctx, const std::string& device) {
    return train<double>(ctx, device, make(double()), n, low, high);
  });
}

}  // namespace

TEST_CASE("device: convolutions against the CPU's") {
  for (const ConvCase& c : kConvs) {
    check_conv<double>(c, 1e-12);
    check_conv<float>(c, 2e-5);
  }
}

TEST_CASE("device: chains of convolutions against the CPU's") {
  check_stack<double>({2, 3, 3, 2}, {5, 7, 4}, {3, 1, 3}, false, 1e-12);
  check_stack<double>({70, 1, 1, 3}, {33, 5}, {1, 1}, false, 1e-12);
  check_stack<double>({2, 3, 2, 3}, {4}, {3}, false, 1e-12);
  check_stack<float>({3, 4, 4, 6}, {17, 9, 12}, {3, 1, 3}, false, 2e-4);
  check_stack<float>({3, 4, 4, 6}, {17, 9, 12}, {3, 1, 3}, true, 3e-2);
  check_stack<float>({40, 1, 1, 1}, {37, 20, 2}, {1, 1, 1}, true, 3e-2);
}

TEST_CASE("device: bfloat16 chains by matrix units") {
  // Tiles are 128 x (16, 32 or 128) x 32.
  check_matrix_units({1, 1, 1, 1}, {1, 1}, {1, 1}, {true, false});
  check_matrix_units({129, 1, 1, 3}, {37, 130, 2}, {1, 1, 1}, {true, true, false});
  check_matrix_units({2, 8, 9, 6}, {40, 20, 12}, {3, 1, 3}, {true, true, false});
  check_matrix_units({3, 5, 3, 9}, {17, 33, 24}, {3, 3, 3}, {true, false, false});
  check_matrix_units({1, 2, 2, 2}, {300, 8}, {1, 3}, {true, true});
  check_matrix_units({40, 4, 4, 5}, {4}, {3}, {false});
  check_matrix_units({300, 1, 1, 70}, {16, 16, 16, 140}, {1, 1, 1, 1}, {true, true, true, false});
}

TEST_CASE("device: reductions over sizes that fit no chunk") {
  for (const int64_t n : {1, 255, 257, 4095, 4096, 4097, 70000}) {
    CAPTURE(n);
    check_same<double>(1e-12, [&](Context& ctx, const std::string&) {
      const KernelSet<double>& kernels = ctx.kernels<double>();
      Arrays a(ctx);
      const std::vector<double> values = random_values(n, 1, -2, 2);
      const double* x = a.put(values);
      const double* y = a.put(random_values(n, 2, -2, 2));
      double* found = a.make<double>(4);
      kernels.sum_squares(ctx, n, x, found);
      kernels.distance(ctx, {x, {1, 1, 1, n}}, {y, {1, 1, 1, n}}, found + 1);
      kernels.count_not_finite(ctx, {x, {1, 1, 1, n}}, found + 3);
      std::vector<double> result = a.get(found, 4);
      for (const int64_t cols : {int64_t{1}, int64_t{33}, n}) {
        const Shape shape{n / cols, 1, 1, cols};
        double* mean = a.make<double>(cols);
        double* var = a.make<double>(cols);
        if (shape.n == 0) continue;
        kernels.moments(ctx, -1, {x, shape}, mean, var);
        append(result, a.get(mean, cols));
        append(result, a.get(var, cols));
      }
      for (const int64_t groups : {int64_t{1}, int64_t{3}, n}) {
        if (n / groups == 0) continue;
        double* out = a.make<double>(groups, 0.5);
        kernels.base_log_prob(ctx, Base::logistic, groups, n / groups, x, 0, nullptr, out);
        append(result, a.get(out, groups));
      }
      return result;
    });
  }
}

TEST_CASE("device: matrices of 1x1 convolutions") {
  for (const int64_t n : {1, 2, 7, 8, 33, 48}) {
    CAPTURE(n);
    check_same<double>(1e-11, [&](Context& ctx, const std::string&) {
      const KernelSet<double>& kernels = ctx.kernels<double>();
      Arrays a(ctx);
      const double size = 0.5 / std::sqrt(static_cast<double>(n));
      std::vector<double> sign, permutation;
      for (int64_t i = 0; i < n; ++i) {
        sign.push_back(i % 3 ? 1 : -1);
        permutation.push_back(static_cast<double>((n / 2 + n - i) % n));
      }
      // What lies on the other side of the diagonals is not looked at.
      const LuParameters<double> of{a.put(random_values(n * n, 1, -size, size)),
                                    a.put(random_values(n * n, 2, -size, size)),
                                    a.put(random_values(n, 3, -0.5, 0.5)), a.put(sign), a.put(permutation)};
      const double* dw = a.put(random_values(n * n, 4, -1, 1));
      double* w = a.make<double>(n * n);
      double* inverse = a.make<double>(n * n);
      double* alone = a.make<double>(n * n);
      double* log_det = a.make<double>(1);
      double* dlower = a.make<double>(n * n, 0.25);
      double* dupper = a.make<double>(n * n, 0.25);
      double* dlogs = a.make<double>(n, 0.25);
      kernels.lu_matrix(ctx, n, of, alone, nullptr, log_det);
      kernels.lu_matrix(ctx, n, of, w, inverse, log_det);
      kernels.lu_gradients(ctx, n, of, dw, a.put(std::vector<double>{0.75}), 6, {dlower, dupper, dlogs});
      std::vector<double> result = a.get(w, n * n);
      CHECK(result == a.get(alone, n * n));
      const std::vector<double> back = a.get(inverse, n * n);
      double worst = 0;
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = i == j ? -1 : 0;
          for (int64_t k = 0; k < n; ++k) sum += result[i * n + k] * back[k * n + j];
          worst = std::max(worst, std::abs(sum));
        }
      }
      CHECK(worst <= 1e-12);
      append(result, back);
      append(result, a.get(log_det, 1));
      append(result, a.get(dlower, n * n));
      append(result, a.get(dupper, n * n));
      append(result, a.get(dlogs, n));
      return result;
    });
  }
}

TEST_CASE("device: numbers that are not finite are seen") {
  install_emulator();
  Context ctx("emulated");
  Arrays a(ctx);
  std::vector<double> x(5000, 1.0), y = x;
  x[4999] = std::nan("");
  x[7] = HUGE_VAL;
  const Shape flat{1, 1, 1, 5000};
  const KernelSet<double>& kernels = ctx.kernels<double>();
  double* found = a.make<double>(2);
  kernels.count_not_finite(ctx, {a.put(x), flat}, found);
  CHECK(a.get(found, 1)[0] == 2);
  kernels.distance(ctx, {a.put(x), flat}, {a.put(y), flat}, found);
  CHECK(std::isinf(relative_distance(a.get(found, 2).data())));
  kernels.distance(ctx, {a.put(y), flat}, {a.put(y), flat}, found);
  CHECK(relative_distance(a.get(found, 2).data()) == 0);
}

TEST_CASE("device: every layer against the CPU's") {
  const Shape odd{0, 2, 3, 5}, pair{0, 1, 1, 2}, square{0, 4, 2, 3};
  LayerCase c;
  c.batch = 3;
  check_layer_on_device("scaling", c, [=](auto t) { return scaling<decltype(t)>(odd); });
  check_layer_on_device("rescale", c, [=](auto t) { return rescale<decltype(t)>(odd, 0.25, 3); });
  check_layer_on_device("squeeze", c,
                        [=](auto t) { return squeeze<decltype(t)>(square, SqueezeOrder::diagonal); });
  check_layer_on_device("unsqueeze", c, [=](auto t) {
    return unsqueeze<decltype(t)>(Shape{0, 2, 1, 12}, SqueezeOrder::raster);
  });
  check_layer_on_device("flatten", c, [=](auto t) { return flatten<decltype(t)>(odd); });
  for (const Order order : {Order::reverse, Order::shuffle, Order::tile}) {
    check_layer_on_device("permutation", c, [=](auto t) { return permutation<decltype(t)>(odd, order); });
  }
  for (const Shape& shape : {odd, pair}) {
    check_layer_on_device("lu", c, [=](auto t) { return lu_conv1x1<decltype(t)>(shape); });
    check_layer_on_device("plain", c, [=](auto t) { return plain_conv1x1<decltype(t)>(shape); });
  }
  LayerCase unit = c;
  unit.low = 0.05;
  unit.high = 0.95;
  check_layer_on_device("logit", unit, [=](auto t) { return logit<decltype(t)>(odd); });
  for (const int64_t classes : {0, 3}) {
    LayerCase classy = c;
    classy.classes = classes;
    check_layer_on_device("top prior", classy,
                          [=](auto t) { return top_prior<decltype(t)>(odd, classes == 0, classes); });
    if (classes) {
      check_layer_on_device("top prior, both", classy,
                            [=](auto t) { return top_prior<decltype(t)>(odd, true, classes); });
    }
  }
  LayerCase data = c;
  data.batch = 9;
  check_layer_on_device("actnorm", data, [=](auto t) { return actnorm<decltype(t)>(odd); });
  check_layer_on_device("standardize", data, [=](auto t) { return standardize<decltype(t)>(odd); });
  for (const Whitening kind : {Whitening::zca, Whitening::covariance}) {
    check_layer_on_device("whiten", data,
                          [=](auto t) { return whiten<decltype(t)>(Shape{0, 1, 1, 3}, kind); });
  }
}

TEST_CASE("device: batch norm against the CPU's") {
  for (const bool training : {false, true}) {
    for (const Mask mask : {Mask::first_half, Mask::even, Mask::checkerboard1}) {
      const Shape shape = is_checkerboard(mask) ? Shape{0, 3, 2, 2} : Shape{0, 1, 2, 5};
      LayerCase c;
      c.batch = 5;
      c.training = training;
      check_layer_on_device("batch_norm", c, [=](auto t) { return batch_norm<decltype(t)>(shape, mask); });
    }
  }
}

TEST_CASE("device: couplings and nets against the CPU's") {
  for (const Mask mask : {Mask::second_half, Mask::first_half, Mask::odd, Mask::checkerboard0}) {
    const Shape shape{0, 3, 2, 5};
    const MaskSizes sizes = mask_sizes(mask, shape.c);
    const Shape pass = shape.with_channels(sizes.pass);
    LayerCase c;
    check_layer_on_device("additive", c, [=](auto t) {
      using T = decltype(t);
      return additive_coupling<T>(shape, mask, mlp<T>(pass, sizes.change, {6}, MlpInit::nice));
    });
    for (const ScaleLaw law : {ScaleLaw::glow, ScaleLaw::real_nvp, ScaleLaw::bounded, ScaleLaw::gaussian}) {
      AffineOptions options;
      options.law = law;
      options.interleaved = law == ScaleLaw::glow;
      options.offset = law == ScaleLaw::real_nvp;
      check_layer_on_device("affine", c, [=](auto t) {
        using T = decltype(t);
        return affine_coupling<T>(shape, mask, mlp<T>(pass, 2 * sizes.change, {6, 5}, MlpInit::nice),
                                  options);
      });
    }
  }
  LayerCase c;
  c.batch = 5;
  check_layer_on_device("glow net", c, [=](auto t) {
    using T = decltype(t);
    const Shape shape{0, 4, 3, 4};
    return affine_coupling<T>(shape, Mask::second_half, glow_net<T>(shape.with_channels(2), 4, 7),
                              AffineOptions());
  });
  for (int bits = 0; bits < 64; bits += 9) {  // every switch on and off
    ResNetConfig config;
    config.width = 3;
    config.blocks = (bits & 1) ? 2 : 0;
    config.bottleneck = bits & 2;
    config.skip = bits & 4;
    config.batch_norm = bits & 8;
    config.weight_norm = bits & 16;
    config.checkerboard = (bits & 32) ? 1 : -1;
    c.training = config.batch_norm;
    check_layer_on_device("res_net", c, [=](auto t) {
      using T = decltype(t);
      const Shape shape{0, 2, 3, 2};
      return additive_coupling<T>(shape, Mask::checkerboard0, res_net<T>(shape, 2, config));
    });
  }
}

TEST_CASE("device: whole models, training and all, against the CPU's") {
  GlowConfig g;
  g.shape = {0, 8, 8, 3};
  g.levels = 2;
  g.steps = 1;
  g.hidden = 6;
  check_model("glow", [=](auto t) { return glow<decltype(t)>(g); }, 4, 0, 255);
  g.shape = {0, 4, 4, 2};
  g.levels = 1;
  g.classes = 3;
  g.class_weight = 0.1;
  g.permutation = "shuffle";
  g.coupling = "additive";
  check_model("glow with classes", [=](auto t) { return glow<decltype(t)>(g); }, 5, 0, 255);
  RealNvpImageConfig r;
  r.shape = {0, 4, 4, 1};
  r.scales = 2;
  r.base_dim = 3;
  r.residual_blocks = 1;
  check_model("real nvp, images", [=](auto t) { return real_nvp<decltype(t)>(r); }, 6, 0, 255);
  RealNvpTableConfig t;
  t.dims = 5;
  t.couplings = 3;
  t.hidden = {7, 6};
  t.permutation = "lu";
  t.actnorm = true;
  check_model("real nvp, tables", [=](auto u) { return real_nvp<decltype(u)>(t); }, 40, -2, 2);
  NiceConfig n;
  n.shape = {0, 1, 1, 6};
  n.couplings = 4;
  n.hidden = {9, 8};
  n.preprocess = "whiten";
  check_model("nice", [=](auto u) { return nice<decltype(u)>(n); }, 40, -2, 2);
}

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
      losses.push_back(clip_grad_norm(ctx, arena, 5.0));
      optimizer.step(ctx, arena);
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

TEST_CASE("device: noise is the CPU's") {
  check_same<double>(1e-12, [&](Context& ctx, const std::string&) {
    Arrays a(ctx);
    double* out = a.make<double>(3 * 7);
    double* levels = a.make<double>(2 * 5);
    ctx.kernels<double>().base_sample(ctx, Base::gaussian, 3, 7, 0.5, 42, 9, out);
    std::vector<double> result = a.get(out, 21);
    ctx.kernels<double>().base_sample(ctx, Base::logistic, 3, 7, 0.5, 42, 9, out);
    append(result, a.get(out, 21));
    const std::vector<uint8_t> bytes{0, 1, 2, 3, 250, 255, 254, 128, 127, 7};
    ctx.kernels<double>().dequantize(ctx, 2, 5, a.put(bytes), 5, true, 3, 1, levels);
    append(result, a.get(levels, 10));
    return result;
  });
}

TEST_CASE("device: a failure names the layer, as on the CPU") {
  install_emulator();
  RealNvpTableConfig t;
  t.dims = 3;
  t.couplings = 2;
  t.hidden = {4};
  const Flow<double> flow = real_nvp<double>(t);
  ParamArena<double> arena(flow.layout(), "emulated");
  flow.init(arena, 1);
  Context ctx("emulated"), cpu("cpu");
  Arrays a(ctx);
  const Shape shape{4, 1, 1, 3};
  const View<const double> x(a.put(random_values(12, 1, -1, 1)), shape);
  double* out = a.make<double>(4);
  CHECK_THROWS_AS(flow.log_prob(ctx, arena, x, nullptr, out), ConfigError);  // not initialised
  flow.init_from_data(ctx, arena, x);
  flow.log_prob(ctx, arena, x, nullptr, out);
  CHECK_THROWS_AS(flow.log_prob(cpu, arena, x, nullptr, out), DeviceError);  // the arena is elsewhere
  std::vector<double> bad = random_values(12, 1, -1, 1);
  bad[7] = std::nan("");
  CHECK_THROWS_WITH_AS(flow.log_prob(ctx, arena, {a.put(bad), shape}, nullptr, out),
                       doctest::Contains("finite inputs"), NumericError);
  ctx.synchronize();
  const auto& entries = flow.layout()->entries();
  arena.values()[entries[2].offset] = HUGE_VAL;
  CHECK_THROWS_WITH_AS(flow.log_prob(ctx, arena, x, nullptr, out), doctest::Contains("from layer"),
                       NumericError);
}

TEST_CASE("device: a permutation that a caller spoiled is an error, not an access out of bounds") {
  install_emulator();
  RealNvpTableConfig t;
  t.dims = 3;
  t.couplings = 2;
  t.hidden = {4};
  t.permutation = "lu";
  const Flow<double> flow = real_nvp<double>(t);
  ParamArena<double> arena(flow.layout(), "emulated");
  flow.init(arena, 1);
  Context ctx("emulated");
  Arrays a(ctx);
  const Shape shape{4, 1, 1, 3};
  const View<const double> x(a.put(random_values(12, 1, -1, 1)), shape);
  flow.init_from_data(ctx, arena, x);
  for (const double value : {1e9, -2.0, std::nan("")}) {
    ctx.synchronize();
    for (const auto& entry : flow.layout()->entries()) {
      if (entry.name == "permutation1.permutation") arena.values()[entry.offset + 1] = value;
    }
    double* out = a.make<double>(4);
    CHECK_THROWS_WITH_AS(flow.log_prob(ctx, arena, x, nullptr, out), doctest::Contains("permutation1"),
                         NumericError);
    const View<double> drawn(a.make<double>(12), shape);
    CHECK_THROWS_AS(flow.sample(ctx, arena, 0, 1, 3, nullptr, drawn), NumericError);
    CHECK_THROWS_AS(flow.loss_and_grad(ctx, arena, x, nullptr, -1), NumericError);
  }
}

}  // namespace evenflow::test
