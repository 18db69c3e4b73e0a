#include "check_device.hpp"
#include "kernels/kernel_set.hpp"
#include "laws.hpp"
#include "plain_table.hpp"

// The device's kernels and the layers above them on an emulated device, against the CPU's.

namespace evenflow::test {
namespace {

/// Everything a layer computes, all of its calls one after another.
template <class T>
std::vector<T> all_of(Context& ctx, const std::string& device, const LayerCase& c, const Place& place,
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
  const Placed<T> given(a, in, place, 4, c.low, c.high);
  const View<const T> x = given.view;
  layer->init_from_data(ctx, arena, x);
  T* stats = a.make<T>(layout->stats_size() + 1, T(0));
  Params<T> params = arena.params();
  Mode<T> mode, keeping;
  mode.batch_stats = c.training ? stats : nullptr;
  params.mode = &mode;
  params.given.labels = a.put(labels);
  params.given.context = a.put(random_of<T>(c.batch * c.context, 13));
  params.given.dcontext = c.context ? a.make<T>(c.batch * c.context, T(0)) : nullptr;
  const Placed<T> z(a, out, place, 5), back(a, in, place, 6), dx(a, in, place, 7), again(a, in, place, 8),
      kept_dx(a, in, place, 9), dz(a, out, place, 10), z2(a, out, place, 14), known_dz(a, out, place, 16);
  const View<T> g = Placed<T>(a, out, place, 11).view, gx = Placed<T>(a, in, place, 15).view;
  double* det = a.make<double>(c.batch, 0.5);
  double* det_back = a.make<double>(c.batch, 0.5);
  const double* h = a.put(random_values(c.batch, 12, -1, 1));
  keeping = mode;
  keeping.kept = a.make<T>(layer->kept_size(c.batch) + 1, T(0));
  Params<T> kept = params;
  kept.mode = &keeping;
  layer->forward(ctx, kept, x, z.view, det);
  layer->inverse(ctx, params, z.view, back.view, det_back);
  layer->backward(ctx, params, z.view, g, h, again.view, dx.view);
  keeping.known = true;  // the inputs, from the call before
  layer->backward(ctx, kept, z.view, g, h, again.view, kept_dx.view);
  if (!c.training) {
    layer->inverse_backward(ctx, params, x, gx, h, z2.view, dz.view);
    mode.known = true;
    layer->inverse_backward(ctx, params, x, gx, h, z2.view, known_dz.view);
  }
  std::vector<T> result;
  append_all(result, a, {z, back, dx, again, kept_dx, dz, z2, known_dz});
  append_doubles(result, a.get(det, c.batch));
  append_doubles(result, a.get(det_back, c.batch));
  append(result, a.get(stats, layout->stats_size()));
  append(result, a.get(params.given.dcontext, c.batch * c.context));
  ctx.synchronize();
  const ParamArena<T>& done = arena;
  result.insert(result.end(), done.values(), done.values() + layout->total_size());
  result.insert(result.end(), done.grads(), done.grads() + layout->total_size());
  return result;
}

template <class Make>
void check_layer_on_device(const std::string& name, const LayerCase& c, const Make& make) {
  CAPTURE(name);
  const auto check = [&](auto zero, double bound, const Place& place, const LayerCase& of_batch) {
    using T = decltype(zero);
    CAPTURE(place.before);
    CAPTURE(of_batch.batch);
    check_same<T>(bound, [&](Context& ctx, const std::string& device) {
      return all_of<T>(ctx, device, of_batch, place, make(zero));
    });
  };
  for (const Place& place : kPlaces) check(double(), 1e-10, place, c);
  for (const int place : {1, 2}) check(float(), 2e-4, kPlaces[place], c);
  LayerCase one = c;
  one.batch = 1;
  if (c.batch <= 3) check(double(), 1e-10, kPlaces[0], one);  // a batch of one has no variance
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
  Given<T> given(labels.data());
  std::vector<double> weights;
  for (int step = 0; step < 3; ++step) {
    zero_grad(ctx, arena);
    weights = random_values(n, 40 + step, 0, 3);
    given.sample_weight = step == 0 ? nullptr : weights.data();
    const StepResult r = flow.loss_and_grad(ctx, arena, x, given, step == 0 ? 0 : -1);
    CHECK(!r.drift.fallback);
    append(result,
           std::vector<T>{static_cast<T>(r.loss), static_cast<T>(r.class_nll), static_cast<T>(r.class_error),
                          static_cast<T>(clip_grad_norm(ctx, arena, 5.0))});
    optimizer.step(ctx, arena);
    update_average(ctx, arena, average.data(), 0.9);
  }
  result.push_back(static_cast<T>(flow.train_step(ctx, arena, x, given, -1, {optimizer}).loss));
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
  const double temperature = flow.base() == Base::uniform ? 1 : 0.7;
  flow.sample(ctx, arena, 5, temperature, 11, labels.data(), y);
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
void check_model(const std::string& name, const Make& make, int64_t n, double low, double high) {
  CAPTURE(name);
  check_same<double>(1e-7, [&](Context& ctx, const std::string& device) {
    return train<double>(ctx, device, make(double()), n, low, high);
  });
}

/// The largest number of |a b - 1|, of matrices (n, n).
double off_identity(const std::vector<double>& a, const std::vector<double>& b, int64_t n) {
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = i == j ? -1 : 0;
      for (int64_t k = 0; k < n; ++k) sum += a[i * n + k] * b[k * n + j];
      worst = larger(worst, std::abs(sum));
    }
  }
  return worst;
}

}  // namespace

TEST_SUITE_BEGIN("any device");

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
      kernels.optim.sum_squares(ctx, n, x, found);
      kernels.optim.distance(ctx, {x, {1, 1, 1, n}}, {y, {1, 1, 1, n}}, found + 1);
      kernels.optim.distance(ctx, {x, {n, 1, 1, 1}}, {y, {n, 1, 1, 1}}, found + 2);
      kernels.optim.count_not_finite(ctx, {x, {1, 1, 1, n}}, found + 3);
      std::vector<double> result = a.get(found, 4);
      for (const int64_t cols : {int64_t{1}, int64_t{33}, n}) {
        const Shape shape{n / cols, 1, 1, cols};
        double* mean = a.make<double>(cols);
        double* var = a.make<double>(cols);
        if (shape.n == 0) continue;
        kernels.channel.moments(ctx, -1, {x, shape}, mean, var);
        append(result, a.get(mean, cols));
        append(result, a.get(var, cols));
      }
      for (const int64_t groups : {int64_t{1}, int64_t{3}, std::min<int64_t>(n, 257)}) {  // blocks, all alike
        if (n / groups == 0) continue;
        double* out = a.make<double>(groups, 0.5);
        kernels.prior.base_log_prob(ctx, Base::logistic, groups, n / groups, x, 0, nullptr, out);
        append(result, a.get(out, groups));
      }
      return result;
    });
  }
}

TEST_CASE("device: matrices of 1x1 convolutions") {
  for (const int64_t n : {1, 2, 7, 8, 33, 64, 65}) {
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
      kernels.mixing.lu_matrix(ctx, n, of, alone, nullptr, log_det);
      kernels.mixing.lu_matrix(ctx, n, of, w, inverse, log_det);
      kernels.mixing.lu_gradients(ctx, n, of, dw, a.put(std::vector<double>{0.75}), 6,
                                  {dlower, dupper, dlogs});
      std::vector<double> result = a.get(w, n * n);
      CHECK(result == a.get(alone, n * n));
      const std::vector<double> back = a.get(inverse, n * n);
      CHECK(off_identity(result, back, n) <= 1e-12);
      append(result, back);
      append(result, a.get(log_det, 1));
      append(result, a.get(dlower, n * n));
      append(result, a.get(dupper, n * n));
      append(result, a.get(dlogs, n));
      return result;
    });
  }
}

TEST_SUITE_END();

TEST_CASE("device: inverses of free matrices are the CPU's, bit for bit") {
  for (const int64_t n : {1, 2, 3, 7, 8, 33, 48}) {
    CAPTURE(n);
    check_same<double>(0, [&](Context& ctx, const std::string&) {
      const KernelSet<double>& kernels = ctx.kernels<double>();
      Arrays a(ctx);
      std::vector<double> values = random_values(n * n, 1, -1, 1);
      if (n > 1) values[0] = 0;  // not without an exchange of rows
      const double* w = a.put(values);
      double* inverse = a.make<double>(n * n);
      double* exact = a.make<double>(n * n);
      double* gradient = a.make<double>(n * n, 0.25);
      double* log_det = a.make<double>(3);
      kernels.mixing.plain_matrix(ctx, n, w, nullptr, nullptr, log_det);
      kernels.mixing.plain_matrix(ctx, n, w, inverse, exact, log_det + 1);
      kernels.mixing.plain_gradients(ctx, n, a.put(random_values(n * n, 4, -1, 1)), exact,
                                     a.put(std::vector<double>{0.75}), 6, gradient);
      // The first row is the last one too.
      std::copy(values.begin(), values.begin() + n, values.end() - n);
      kernels.mixing.plain_matrix(ctx, n, a.put(values), nullptr, nullptr, log_det + 2);
      const std::vector<double> back = a.get(inverse, n * n), found = a.get(log_det, 3);
      CHECK(found[0] == found[1]);
      CHECK(found[2] == (n == 1 ? found[0] : -HUGE_VAL));
      CHECK(back == a.get(exact, n * n));
      std::vector<double> result = a.get(w, n * n);
      CHECK(off_identity(result, back, n) <= 1e-11);
      append(result, back);
      append(result, a.get(gradient, n * n));
      result.push_back(found[0]);
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
  kernels.optim.count_not_finite(ctx, {a.put(x), flat}, found);
  CHECK(a.get(found, 1)[0] == 2);
  kernels.optim.distance(ctx, {a.put(x), flat}, {a.put(y), flat}, found);
  CHECK(std::isinf(a.get(found, 1)[0]));
  kernels.optim.distance(ctx, {a.put(y), flat}, {a.put(y), flat}, found);
  CHECK(a.get(found, 1)[0] == 0);
}

TEST_SUITE_BEGIN("any device");

TEST_CASE("device: every layer against the CPU's") {
  for (const int64_t channels : {5, 8}) {
    const Shape shape{0, 2, 3, channels};
    LayerCase c;
    const auto check = [&](const char* name, const auto& make) { check_layer_on_device(name, c, make); };
    check("scaling", [=](auto t) { return scaling<decltype(t)>(shape); });
    check("rescale", [=](auto t) { return rescale<decltype(t)>(shape, 0.25, 3); });
    check("flatten", [=](auto t) { return flatten<decltype(t)>(shape); });
    for (const Order order : {Order::reverse, Order::shuffle, Order::even_first}) {
      check("permutation", [=](auto t) { return permutation<decltype(t)>(shape, order); });
    }
    for (const Shape& of : {shape, Shape{0, 1, 1, 2}}) {
      check("lu", [=](auto t) { return lu_conv1x1<decltype(t)>(of); });
      check("plain", [=](auto t) { return plain_conv1x1<decltype(t)>(of); });
    }
    for (const int64_t pass : {3, 4}) {
      const Shape square{0, 4, 2, pass};
      check("squeeze", [=](auto t) { return squeeze<decltype(t)>(square, SqueezeOrder::diagonal); });
      const Shape deep{0, 2, 1, 4 * pass};
      check("unsqueeze", [=](auto t) { return unsqueeze<decltype(t)>(deep, SqueezeOrder::raster); });
    }
    for (const int64_t classes : {0, 3}) {
      c.classes = classes;
      check("top prior", [=](auto t) { return top_prior<decltype(t)>(shape, classes == 0, classes); });
    }
    check("top prior, both", [=](auto t) { return top_prior<decltype(t)>(shape, true, 3); });
    c = LayerCase();
    c.low = 0.05;
    c.high = 0.95;
    check("logit", [=](auto t) { return logit<decltype(t)>(shape); });
    check("unit box", [=](auto t) { return unit_box<decltype(t)>(shape); });
    std::vector<Bounds> ends{{0, 1}, {}, {0, HUGE_VAL}, {-HUGE_VAL, 1}, {-1, 2}};
    ends.resize(static_cast<size_t>(channels));
    check("unbound", [=](auto t) { return unbound<decltype(t)>(shape, ends); });
    c = LayerCase();
    c.batch = 9;
    check("actnorm", [=](auto t) { return actnorm<decltype(t)>(shape); });
    check("standardize", [=](auto t) { return standardize<decltype(t)>(shape); });
    for (const Whitening kind : {Whitening::zca, Whitening::covariance}) {
      check("whiten", [=](auto t) { return whiten<decltype(t)>(Shape{0, 1, 1, 3}, kind); });
    }
  }
}

TEST_CASE_TEMPLATE("device: a class head against the CPU's", T, float, double) {
  const Shape shape{4, 2, 3, 5};
  constexpr int64_t kClasses = 3, kChannels = 5, kSamples = 4;
  check_same<T>(std::is_same<T, double>::value ? 1e-12 : 2e-5, [&](Context& ctx, const std::string&) {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    Arrays a(ctx);
    const View<const T> x(a.put(random_of<T>(shape.size(), 1, -2, 2)), shape);
    const T* weight = a.put(random_of<T>(kChannels * kClasses, 2));
    const T* logs = a.put(random_of<T>(kClasses, 3));
    double* pooled = a.make<double>(kSamples * kChannels);
    double* raw = a.make<double>(kSamples * kClasses);
    double* logp = a.make<double>(kSamples * kClasses);
    T* dweight = a.make<T>(kChannels * kClasses, T(0.25));
    T* dbias = a.make<T>(kClasses, T(0.25));
    T* dlogs = a.make<T>(kClasses, T(0.25));
    const View<T> dx(a.make<T>(shape.size(), T(0.5)), shape);
    double* results = a.make<double>(2);
    kernels.prior.head_log_prob(ctx, x, kClasses, weight, a.put(random_of<T>(kClasses, 4)), logs, pooled, raw,
                                logp);
    const double* sample_weight = a.put(std::vector<double>{0.5, 2, 0, 1.25});
    kernels.prior.head_backward(ctx, kClasses, a.put(std::vector<int32_t>{2, 0, 1, 2}), sample_weight, weight,
                                logs, 0.75, pooled, raw, logp, dweight, dbias, dlogs, dx, results);
    std::vector<T> result = a.get(dx.data, shape.size());
    append(result, a.get(dweight, kChannels * kClasses));
    append(result, a.get(dbias, kClasses));
    append(result, a.get(dlogs, kClasses));
    append_doubles(result, a.get(logp, kSamples * kClasses));
    append_doubles(result, a.get(results, 2));
    return result;
  });
}

TEST_CASE("device: batch norm against the CPU's") {
  for (const bool training : {false, true}) {
    for (const Mask mask : {Mask::first_half, Mask::even, Mask::checkerboard1}) {
      const Shape shape = is_checkerboard(mask) ? Shape{0, 3, 2, 4} : Shape{0, 1, 2, 5};
      LayerCase c;
      c.batch = 5;
      c.training = training;
      check_layer_on_device("batch_norm", c, [=](auto t) { return batch_norm<decltype(t)>(shape, mask); });
    }
  }
}

TEST_CASE("device: couplings and nets against the CPU's") {
  for (const Mask mask : {Mask::second_half, Mask::first_half, Mask::odd, Mask::checkerboard0}) {
    const Shape shape{0, 3, 2, mask == Mask::odd ? 5 : 8};
    const MaskSizes sizes = mask_sizes(mask, shape.c);
    const Shape pass = shape.with_channels(sizes.pass);
    LayerCase c;
    for (const LawOptions& law : every_law()) {
      const CouplingOptions options{law, law.name == "glow", {}};
      check_layer_on_device(law.name.c_str(), c, [=](auto t) {
        using T = decltype(t);
        const int64_t outputs = sizes.change * numbers_of_law(law);
        return coupling<T>(shape, mask, mlp<T>(pass, outputs, {6, 5}, MlpInit::nice), options);
      });
    }
  }
  LayerCase c;
  c.batch = 5;
  check_layer_on_device("listed channels", c, [](auto t) {
    using T = decltype(t);
    const Shape shape{0, 3, 2, 5};
    return coupling<T>(shape, {1, 2, 4}, mlp<T>(shape.with_channels(2), 6, {6, 5}, MlpInit::nice),
                       law_options("affine"));
  });
  for (const LawOptions& law : every_law()) {
    for (const std::vector<int64_t>& changed : {std::vector<int64_t>{1, 4}, {0, 1, 2, 3, 4}}) {
      check_layer_on_device("elementwise", c,
                            [=](auto t) { return elementwise<decltype(t)>({0, 3, 2, 5}, changed, law); });
    }
  }
  check_layer_on_device("more channels than an order's block", c, [](auto t) {
    std::vector<int64_t> changed;
    for (int64_t i = 0; i < 300; i += 2) changed.push_back(i);
    return batch_norm<decltype(t)>({0, 1, 1, 300}, changed);
  });
  check_layer_on_device("glow net", c, [=](auto t) {
    using T = decltype(t);
    const Shape shape{0, 4, 3, 4};
    return coupling<T>(shape, Mask::second_half, glow_net<T>(shape.with_channels(2), 4, 7),
                       law_options("glow", true));
  });
  for (const Activation activation : kActivations) {
    LayerCase given;
    for (const int64_t context : {0, 2}) {
      given.context = context;
      const Shape shape{0, 1, 1, 5}, pass{0, 1, 1, 3 + context};
      check_layer_on_device("mlp", given, [=](auto t) {
        using T = decltype(t);
        return coupling<T>(shape, Mask::second_half,
                           mlp<T>(pass, 4, {6, 5}, MlpInit::nice, NetDtype::same, activation),
                           law_options("affine", false));
      });
      check_layer_on_device("residual net", given, [=](auto t) {
        using T = decltype(t);
        return coupling<T>(shape, Mask::second_half, residual_net<T>(pass, 4, {7, 2, context, activation}),
                           law_options("affine", false));
      });
    }
  }
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
  RealNvpConfig r;
  r.shape = {0, 4, 4, 1};
  r.levels = 2;
  r.base_dim = 3;
  r.residual_blocks = 1;
  check_model("real nvp, images", [=](auto t) { return real_nvp<decltype(t)>(r); }, 6, 0, 255);
  CouplingFlowConfig t = plain_table();
  t.dims = 5;
  t.couplings = 3;
  t.hidden = {7, 6};
  t.permutation = "lu";
  t.actnorm = true;
  check_model("real nvp, tables", [=](auto u) { return coupling_flow<decltype(u)>(t); }, 40, -2, 2);
  t.law = "spline";
  t.bins = 4;
  t.unconditional = true;
  t.mask = "log2";
  t.permutation = "lu-shuffle";
  check_model("splines of both parts", [=](auto u) { return coupling_flow<decltype(u)>(t); }, 40, -2, 2);
  t.actnorm = false;
  t.base = "uniform";
  t.preprocess = "none";
  t.permutation = "reverse";
  check_model("a uniform base", [=](auto u) { return coupling_flow<decltype(u)>(t); }, 40, 0.02, 0.98);
  t = plain_table();
  t.dims = 1;
  t.couplings = 3;
  t.law =
      "spline";  // gradients of a shift and a scale of standardised data are 0, or which sign rounding has
  check_model("one column", [=](auto u) { return coupling_flow<decltype(u)>(t); }, 40, -2, 2);
  NiceConfig n;
  n.shape = {0, 1, 1, 6};
  n.couplings = 4;
  n.hidden = {9, 8};
  n.preprocess = "whiten";
  check_model("nice", [=](auto u) { return nice<decltype(u)>(n); }, 40, -2, 2);
}

TEST_CASE_TEMPLATE("device: noise is the CPU's", T, float, double) {
  check_same<T>(std::is_same<T, double>::value ? 1e-12 : 2e-5, [&](Context& ctx, const std::string&) {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    Arrays a(ctx);
    T* out = a.make<T>(3 * 7);
    T* levels = a.make<T>(2 * 5);
    kernels.prior.base_sample(ctx, Base::gaussian, 3, 7, T(0.5), 42, 9, out);
    std::vector<T> result = a.get(out, 21);
    kernels.prior.base_sample(ctx, Base::logistic, 3, 7, T(0.5), 42, 9, out);
    append(result, a.get(out, 21));
    kernels.prior.base_sample(ctx, Base::uniform, 3, 7, T(1), 42, 9, out);
    append(result, a.get(out, 21));
    const std::vector<uint8_t> bytes{0, 1, 2, 3, 250, 255, 254, 128, 127, 7};
    kernels.prior.dequantize(ctx, 2, 5, a.put(bytes), 5, true, 3, 1, levels);
    append(result, a.get(levels, 10));
    return result;
  });
}

TEST_SUITE_END();

TEST_CASE("device: a failure names the layer, as on the CPU") {
  install_emulator();
  CouplingFlowConfig t = plain_table();
  t.dims = 3;
  t.couplings = 2;
  t.hidden = {4};
  const Flow<double> flow = coupling_flow<double>(t);
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

TEST_CASE("device: no memory is an error, and a call like any other once there is some") {
  install_emulator();
  Emulator::get().separate_arrays = false;
  {
    const Flow<double> flow = glow<double>(small_glow());
    ParamArena<double> arena(flow.layout(), "emulated");
    flow.init(arena, 1);
    Context start("emulated");
    Arrays a(start);
    const Shape shape{600, 4, 4, 2};  // more than the first block of a workspace
    const View<const double> x(a.put(random_values(shape.size(), 1, 0, 255)), shape);
    flow.init_from_data(start, arena, x);
    const auto gradient = [&](Context& ctx) {
      zero_grad(ctx, arena);
      const double loss = flow.loss_and_grad(ctx, arena, x, nullptr, -1).loss;
      return std::vector<double>{loss, clip_grad_norm(ctx, arena, 0)};
    };
    const std::vector<double> wanted = gradient(start);
    int64_t failed = 0;
    for (bool done = false; !done; ++failed) {
      Context ctx("emulated");
      ctx.device()->follow(*start.device());
      Emulator::get().allocations_left = failed;
      try {
        const std::vector<double> got = gradient(ctx);
        CHECK(got == wanted);
        done = Emulator::get().allocations_left > 0;
      } catch (const DeviceError& e) {
        CHECK(std::string(e.what()).find("expected memory") != std::string::npos);
      }
      Emulator::get().allocations_left = -1;
      CHECK(gradient(ctx) == wanted);
    }
    CHECK(failed > 3);
  }
  Emulator::get().separate_arrays = true;
}

TEST_CASE("device: a step looks at labels before kernels do") {
  install_emulator();
  GlowConfig config = small_glow();
  config.classes = 3;
  const Flow<double> flow = glow<double>(config);
  Context ctx("emulated");
  ParamArena<double> arena(flow.layout(), "emulated");
  flow.init(arena, 3);
  Optimizer<double> optimizer(flow.layout(), {}, "emulated");
  Arrays a(ctx);
  const Shape shape = flow.sample_shape().with_batch(2);
  const View<const double> x(a.put(random_of<double>(shape.size(), 5, 0, 255)), shape);
  flow.init_from_data(ctx, arena, x);
  const int32_t labels[] = {0, 3};
  CHECK_THROWS_WITH_AS(flow.train_step(ctx, arena, x, labels, -1, {optimizer}),
                       "[train_step] expected labels in 0 ... 2, got 3 at 1", ConfigError);
}

}  // namespace evenflow::test
