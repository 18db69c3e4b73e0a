#include <utility>

#include "check_device.hpp"
#include "kernels/kernel_set.hpp"
#include "laws.hpp"

// A device's maps and sums by columns: with accesses of sixteen bytes, and a number at a time.

namespace evenflow::test {
namespace {

template <class T>
std::vector<T> channel_maps(Context& ctx, const Shape& shape, const Place& place, int parity) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  Arrays a(ctx);
  const auto view = [&](uint64_t seed) { return Placed<T>(a, shape, place, seed); };
  const int64_t c = shape.c;
  const T* shift = a.put(random_of<T>(c, 1));
  const T* scale = a.put(random_of<T>(c, 2, 0.5, 2));
  const T* beta = a.put(random_of<T>(c, 3));
  const Placed<T> x = view(4), dy = view(5);
  std::vector<Placed<T>> out;
  for (uint64_t i = 0; i < 11; ++i) out.push_back(view(10 + i));
  double* sums = a.make<double>(4 * 2 * c);
  T* mean = a.make<T>(c);
  T* var = a.make<T>(c);
  kernels.channel.forward(ctx, parity, x.view, shift, scale, out[0].view);
  kernels.channel.inverse(ctx, parity, x.view, shift, scale, out[1].view);
  kernels.channel.backward(ctx, parity, x.view, dy.view, shift, scale, out[2].view, out[3].view, sums);
  kernels.channel.moments(ctx, parity, x.view, mean, var);
  kernels.channel.batch_norm_sums(ctx, parity, x.view, dy.view, sums + 2 * c);
  kernels.channel.batch_norm_backward(ctx, parity, x.view, dy.view, shift, scale, mean, var, out[4].view,
                                      out[5].view);
  kernels.net.norm_relu(ctx, x.view, shift, scale, beta, true, out[6].view);
  kernels.net.norm_relu_sums(ctx, x.view, shift, scale, beta, true, out[7].view, sums + 4 * c);
  kernels.net.norm_relu_backward(ctx, x.view, shift, scale, mean, var, dy.view, out[8].view);
  T* bias_gradient = a.make<T>(c);
  T* logs_gradient = a.make<T>(c);
  kernels.net.epilogue_backward(ctx, x.view, out[9].view, {shift, scale, true}, bias_gradient, logs_gradient,
                                T(3));
  kernels.net.epilogue_backward(ctx, x.view, out[10].view, {shift, nullptr, false}, bias_gradient, nullptr,
                                T(3));
  std::vector<T> result;
  append_all(result, a, out);
  append_doubles(result, a.get(sums, 6 * c));
  for (const T* v : {mean, var, bias_gradient, logs_gradient}) append(result, a.get(v, c));
  return result;
}

template <class T>
std::vector<T> units(Context& ctx, const Shape& shape, const Place& place) {
  const auto& net = ctx.kernels<T>().net;
  Arrays a(ctx);
  const auto view = [&](uint64_t seed) { return Placed<T>(a, shape, place, seed); };
  const Placed<T> x = view(1), dy = view(2);
  std::vector<Placed<T>> out;
  for (const Activation activation : kActivations) {
    for (uint64_t i = 0; i < 3; ++i) out.push_back(view(10 + i));
    const Placed<T>* last = out.data() + out.size() - 3;
    net.activate(ctx, activation, x.view, last[0].view);
    const View<T> at = activation == Activation::silu ? x.view : last[0].view;
    for (const bool accumulate : {false, true}) {
      net.activate_backward(ctx, activation, at, dy.view, last[1 + accumulate].view, accumulate);
    }
  }
  for (uint64_t i = 0; i < 5; ++i) out.push_back(view(20 + i));
  const Placed<T>* last = out.data() + out.size() - 5;
  net.gate(ctx, x.view, last[0].view);
  net.gate_backward(ctx, x.view, last[0].view, last[1].view, last[2].view);
  const MaskSeed seed{5, 1000};
  HostScope host(ctx);
  for (const bool accumulate : {false, true}) {
    net.dropout(ctx, 0.3, host.send(&seed, 1), 2, 7, x.view, last[3 + accumulate].view, accumulate);
  }
  std::vector<T> result;
  append_all(result, a, out);
  return result;
}

template <class T>
std::vector<T> moves(Context& ctx, const Shape& shape, const Place& place) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  Arrays a(ctx);
  const auto view = [&](uint64_t seed) { return Placed<T>(a, shape, place, seed); };
  const Placed<T> x = view(1);
  std::vector<Placed<T>> out;
  for (uint64_t i = 0; i < 4; ++i) out.push_back(view(10 + i));
  kernels.move.copy(ctx, x.view, out[0].view);
  kernels.move.add(ctx, x.view, out[1].view);
  kernels.move.mask_pixels(ctx, x.view, 1, false, out[2].view);
  kernels.move.mask_pixels(ctx, x.view, 0, true, out[3].view);
  // Samples further apart than their pixels.
  const int64_t step = (shape.pixels_per_sample() + 1) * x.view.stride;
  T* apart = a.make<T>(shape.n * step);
  kernels.move.copy_blocks(ctx, x.view, shape.pixels_per_sample() * x.view.stride,
                           View<T>(apart, shape, x.view.stride), step);
  // One pixel's values at all pixels of a sample, and back from all of them.
  T* everywhere = a.make<T>(shape.size());
  kernels.move.copy_blocks(ctx, View<const T>(x.view.data, shape, 0), x.view.stride,
                           View<T>(everywhere, shape), shape.per_sample());
  T* sums = a.make<T>(shape.n * shape.c, T(0.5));
  kernels.move.add_pixel_sums(ctx, x.view, View<T>(sums, {shape.n, 1, 1, shape.c}));
  std::vector<T> result;
  append_all(result, a, out);
  append(result, a.get(apart, shape.n * step));
  append(result, a.get(everywhere, shape.size()));
  append(result, a.get(sums, shape.n * shape.c));
  return result;
}

template <class T>
std::vector<T> flat_arrays(Context& ctx, int64_t n, int64_t before) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  Arrays a(ctx);
  const int64_t size = before + n;
  const auto array = [&](uint64_t seed, double low) {
    return a.put(random_of<T>(size, seed, low, 1)) + before;
  };
  std::vector<T*> out;
  OptimizerConfig config;
  config.momentum = 0.9;
  config.weight_decay = 1e-2;
  const T* g = array(1, -1);
  for (const Rule rule : {Rule::sgd, Rule::rmsprop, Rule::adam, Rule::adamax}) {
    config.rule = rule;
    for (uint64_t i = 0; i < 3; ++i) out.push_back(array(2 + i, i == 1 ? 0.1 : -1));
    T* const* last = out.data() + out.size() - 3;
    kernels.optim.step(ctx, config, n, n / 2, 1e-2, g, last[0], last[1], last[2]);
  }
  for (uint64_t i = 0; i < 6; ++i) out.push_back(array(20 + i, -1));
  T* const* last = out.data() + out.size() - 6;
  kernels.optim.average(ctx, n, g, T(0.1), last[0]);
  kernels.move.scale(ctx, n, T(0.5), last[1]);
  kernels.move.zero(ctx, n, last[2]);
  kernels.move.fill(ctx, n, T(3), last[3]);
  double* found = a.make<double>(7, 0.5);
  kernels.optim.sum_squares(ctx, n, g, found);
  const View<const T> flat(g, {1, 1, 1, n}), other(last[4], {1, 1, 1, n});
  kernels.optim.distance(ctx, flat, other, found + 1);
  kernels.optim.distance(ctx, {g, {n, 1, 1, 1}}, {last[4], {n, 1, 1, 1}}, found + 2);
  kernels.optim.count_not_finite(ctx, flat, found + 3);
  if (n > 0) {
    kernels.prior.base_log_prob(ctx, Base::gaussian, 1, n, g, T(0.5), last[5], found + 4);
    kernels.prior.base_log_prob(ctx, Base::logistic, 1, n, g, T(0.5), nullptr, found + 5);
    kernels.prior.base_log_prob(ctx, Base::uniform, 1, n, array(26, 0), T(0.5), nullptr, found + 6);
  }
  std::vector<T> result;
  for (const T* values : out) append(result, a.get(values - before, size));
  append_doubles(result, a.get(found, 7));
  return result;
}

}  // namespace

TEST_SUITE_BEGIN("any device");

TEST_CASE_TEMPLATE("device: maps of views with gaps and without", T, float, double) {
  const double bound = std::is_same<T, double>::value ? 1e-12 : 2e-5;
  for (const int64_t c : {1, 2, 3, 4, 6, 8, 12}) {
    for (const Place& place : kPlaces) {
      CAPTURE(c);
      CAPTURE(place.before);
      CAPTURE(place.between);
      const Shape shape{3, 4, 6, c};
      for (const int parity : {-1, 1}) {
        check_same<T>(bound, [&](Context& ctx, const std::string&) {
          return channel_maps<T>(ctx, shape, place, parity);
        });
      }
      check_same<T>(bound, [&](Context& ctx, const std::string&) { return moves<T>(ctx, shape, place); });
      check_same<T>(bound, [&](Context& ctx, const std::string&) { return units<T>(ctx, shape, place); });
    }
  }
}

TEST_CASE_TEMPLATE("device: maps of empty batches and of single numbers", T, float, double) {
  const double bound = std::is_same<T, double>::value ? 1e-12 : 2e-5;
  for (const Shape& shape : {Shape{0, 2, 2, 4}, Shape{1, 2, 2, 1}, Shape{1, 2, 2, 4}}) {
    CAPTURE(to_string(shape));
    check_same<T>(bound, [&](Context& ctx, const std::string&) { return moves<T>(ctx, shape, {0, 0}); });
  }
}

TEST_CASE_TEMPLATE("device: the flat arena at every alignment", T, float, double) {
  const double bound = std::is_same<T, double>::value ? 1e-12 : 2e-5;
  for (const int64_t n : {0, 1, 2, 3, 4, 5, 8, 1023, 4096, 4097, 9000}) {
    for (int64_t before = 0; before < 4; ++before) {
      CAPTURE(n);
      CAPTURE(before);
      check_same<T>(bound, [&](Context& ctx, const std::string&) { return flat_arrays<T>(ctx, n, before); });
    }
  }
}

TEST_CASE_TEMPLATE("device: weight norm of few columns and many", T, float, double) {
  const double bound = std::is_same<T, double>::value ? 1e-12 : 2e-5;
  for (const auto& size : {std::pair<int64_t, int64_t>{9, 3}, {7, 4}, {1, 8}, {1500, 12}}) {
    const int64_t rows = size.first, cols = size.second;  // CAPTURE is a lambda, which captures no binding
    CAPTURE(rows);
    CAPTURE(cols);
    check_same<T>(bound, [&, n = rows, c = cols](Context& ctx, const std::string&) {
      const KernelSet<T>& kernels = ctx.kernels<T>();
      Arrays a(ctx);
      const T* v = a.put(random_of<T>(n * c, 1));
      const T* dw = a.put(random_of<T>(n * c, 2));
      const T* gain = a.put(random_of<T>(c, 3, 0.5, 2));
      std::vector<T> result;
      for (const T* g : {gain, static_cast<const T*>(nullptr)}) {
        T* norms = a.make<T>(c);
        T* w = a.make<T>(n * c);
        T* dv = a.make<T>(n * c, T(0.25));
        T* dg = a.make<T>(c, T(0.25));
        kernels.net.weight_norm(ctx, n, c, v, g, norms, w);
        kernels.net.weight_norm_backward(ctx, n, c, v, g, norms, dw, dv, g ? dg : nullptr);
        for (const T* values : {norms, dg}) append(result, a.get(values, c));
        for (const T* values : {w, dv}) append(result, a.get(values, n * c));
      }
      return result;
    });
  }
}

TEST_CASE_TEMPLATE("device: sums by columns over many chunks", T, float, double) {
  const double bound = std::is_same<T, double>::value ? 1e-12 : 2e-5;
  for (const auto& size : {std::pair<int64_t, int64_t>{9000, 3}, {3000, 12}, {700, 132}, {5, 300}}) {
    const int64_t rows = size.first, cols = size.second;
    CAPTURE(rows);
    CAPTURE(cols);
    const Shape shape{rows, 1, 1, cols};
    check_same<T>(bound, [&, c = cols](Context& ctx, const std::string&) {
      Arrays a(ctx);
      const Placed<T> z(a, shape, {0, 0}, 1), dz(a, shape, {0, 0}, 2);
      std::vector<Placed<T>> out{{a, shape, {0, 0}, 3}, {a, shape, {0, 0}, 4}};
      double* sums = a.make<double>(2 * c);
      ctx.kernels<T>().channel.backward(ctx, -1, z.view, dz.view, a.put(random_of<T>(c, 5)),
                                        a.put(random_of<T>(c, 6, 0.5, 2)), out[0].view, out[1].view, sums);
      std::vector<T> result;
      append_all(result, a, out);
      append_doubles(result, a.get(sums, 2 * c));
      return result;
    });
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

TEST_CASE_TEMPLATE("device: sums over the samples of a batch", T, float, double) {
  for (const int64_t n : {1, 3, 512, 4097, 20000}) {  // of one block and of several
    CAPTURE(n);
    check_same<T>(std::is_same<T, float>::value ? 1e-6 : 1e-12, [&](Context& ctx, const std::string&) {
      const KernelSet<T>& kernels = ctx.kernels<T>();
      Arrays a(ctx);
      const double* gains = a.put(random_values(2 * n, 1, 0, 1));
      double* total = a.make<double>(1);
      kernels.move.sum_doubles(ctx, n, gains, total);
      return std::vector<T>{static_cast<T>(a.get(total, 1)[0])};
    });
  }
}

}  // namespace evenflow::test

TEST_SUITE_END();
