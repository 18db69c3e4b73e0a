#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "check_layer.hpp"
#include "isa_choice.hpp"
#include "kernels/cpu/gemm/row_strips.hpp"
#include "kernels/kernel_set.hpp"
#include "laws.hpp"

// Convolutions against a direct sum, on shapes that fit no block, for every instruction set of this machine.

namespace evenflow::test {
namespace {

struct ConvCase {
  Shape in;
  int64_t cout;
  int kernel;
  bool edge;
};

const ConvCase kCases[] = {{{1, 1, 1, 1}, 1, 1, false},
                           {{3, 1, 1, 5}, 7, 1, false},
                           {{2, 3, 3, 17}, 33, 1, false},
                           {{2, 3, 2, 2}, 5, 3, true},
                           {{1, 1, 1, 3}, 4, 3, true},
                           {{2, 5, 4, 9}, 4, 3, true},
                           {{1, 4, 7, 40}, 6, 3, false},
                           {{3, 2, 2, 6}, 70, 3, true},
                           {{1, 1, 6, 3}, 3, 3, false},
                           {{1, 8, 8, 12}, 37, 3, true},
                           {{130, 1, 1, 401}, 65, 1, false},
                           {{5, 4, 4, 70}, 12, 3, true},
                           {{3, 2, 2, 5}, 2, 1, false},
                           {{13, 1, 1, 3}, 2, 1, false},
                           {{9, 1, 1, 2}, 2, 1, false},
                           // Inputs that end with a tile of a gradient of weights, of each height.
                           {{20, 1, 1, 8}, 33, 1, false},
                           {{19, 1, 1, 10}, 16, 1, false},
                           {{35, 1, 1, 16}, 40, 1, false},
                           {{18, 1, 1, 22}, 9, 1, false},
                           {{33, 1, 1, 30}, 18, 1, false},
                           {{40, 1, 1, 2}, 64, 1, false},
                           // Weights that are far, with few rows.
                           {{1, 1, 1, 301}, 450, 1, false},
                           {{7, 1, 1, 301}, 450, 1, false},
                           {{12, 1, 1, 9}, 1639, 3, true},
                           // One column of pixels; enough of them for several threads.
                           {{2, 3, 1, 2}, 5, 3, true},
                           {{1, 5, 1, 7}, 4, 3, true},
                           {{2, 40, 40, 5}, 8, 3, true},
                           {{2, 40, 40, 9}, 4, 3, true},
                           // Rows whose sums have the same order whatever their number.
                           {{9, 5, 5, 21}, 35, 3, true},
                           {{40, 1, 1, 1}, 32, 1, false},
                           {{40, 1, 1, 32}, 2, 1, false},
                           {{40, 1, 1, 32}, 4, 3, false},
                           {{40, 1, 1, 33}, 32, 1, false},
                           {{40, 1, 1, 32}, 48, 3, false},
                           {{40, 1, 1, 70}, 100, 3, false},
                           {{40, 1, 1, 301}, 450, 1, false}};

/// Value of the padded image with its indicator channel.
double padded(const ConvCase& c, const std::vector<double>& x, int64_t n, int64_t i, int64_t j, int64_t k) {
  const bool outside = i < 0 || j < 0 || i >= c.in.h || j >= c.in.w;
  if (k == c.in.c) return outside ? 1 : 0;
  return outside ? 0 : x[((n * c.in.h + i) * c.in.w + j) * c.in.c + k];
}

/// Calls f(output row, weight index of output 0, input value, input index or -1) for every product.
template <class F>
void for_each_product(const ConvCase& c, const std::vector<double>& x, const F& f) {
  const int64_t depth = c.in.c + (c.edge ? 1 : 0), half = c.kernel / 2;
  for (int64_t n = 0; n < c.in.n; ++n) {
    for (int64_t i = 0; i < c.in.h; ++i) {
      for (int64_t j = 0; j < c.in.w; ++j) {
        for (int64_t t = 0; t < c.kernel * c.kernel; ++t) {
          const int64_t si = i + t / c.kernel - half, sj = j + t % c.kernel - half;
          const bool inside = si >= 0 && sj >= 0 && si < c.in.h && sj < c.in.w;
          for (int64_t k = 0; k < depth; ++k) {
            const int64_t index = inside && k < c.in.c ? ((n * c.in.h + si) * c.in.w + sj) * c.in.c + k : -1;
            f((n * c.in.h + i) * c.in.w + j, (t * depth + k) * c.cout, padded(c, x, n, si, sj, k), index);
          }
        }
      }
    }
  }
}

template <class T>
std::vector<T> as(const std::vector<double>& v) {
  return std::vector<T>(v.begin(), v.end());
}

template <class T>
double worst(const std::vector<T>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double w = 0;
  for (size_t i = 0; i < b.size(); ++i) w = larger(w, std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i])));
  return w;
}

template <class T>
void check_conv(const ConvCase& c, int threads, double bound) {
  CAPTURE(to_string(c.in));
  CAPTURE(c.cout);
  CAPTURE(c.kernel);
  Context ctx("cpu", threads);
  const KernelSet<T>& kernels = ctx.kernels<T>();
  ConvDims dims;
  dims.in = c.in;
  dims.cout = c.cout;
  dims.kernel = c.kernel;
  dims.edge = c.edge;
  const Shape out = c.in.with_channels(c.cout);
  // Values on a coarse grid: float32 sums of a few hundred products are then exact enough to compare.
  const std::vector<double> x = random_values(c.in.size(), 1, -1, 1),
                            w = random_values(dims.weight_size(), 2, -1, 1);
  const std::vector<double> bias = random_values(c.cout, 3, -1, 1), scale = random_values(c.cout, 4, 0.5, 2);
  const std::vector<double> dy = random_values(out.size(), 5, -1, 1),
                            start = random_values(dims.weight_size(), 6, -1, 1);
  std::vector<double> y(static_cast<size_t>(out.size())), dx(static_cast<size_t>(c.in.size())), dw = start;
  for_each_product(c, x, [&](int64_t row, int64_t weight, double value, int64_t input) {
    for (int64_t o = 0; o < c.cout; ++o) {
      y[row * c.cout + o] += value * w[weight + o];
      dw[weight + o] += value * dy[row * c.cout + o];
      if (input >= 0) dx[input] += w[weight + o] * dy[row * c.cout + o];
    }
  });
  std::vector<double> activated = y;
  for (int64_t i = 0; i < out.size(); ++i) {
    activated[i] = std::max(0.0, (y[i] + bias[i % c.cout]) * scale[i % c.cout]);
  }

  const std::vector<T> tx = as<T>(x), tw = as<T>(w), tb = as<T>(bias), ts = as<T>(scale), tdy = as<T>(dy);
  std::vector<T> got(static_cast<size_t>(out.size()), T(9)), gx(static_cast<size_t>(c.in.size()), T(9));
  std::vector<T> gw = as<T>(start);
  kernels.net.conv_forward(ctx, dims, {tx.data(), c.in}, tw.data(), {}, {got.data(), out});
  CHECK(worst(got, y) < bound);
  // A sample has the same bits among others, and for any number of threads.
  Context alone("cpu", 1);
  for (const int64_t n : {1, 8, 10}) {
    ConvDims few = dims;
    std::vector<T> part(got.size());
    for (int64_t i = 0; i < c.in.n; i += n) {
      few.in.n = std::min(n, c.in.n - i);
      alone.kernels<T>().net.conv_forward(alone, few, {&tx[i * c.in.per_sample()], few.in}, tw.data(), {},
                                          {&part[i * out.per_sample()], out.with_batch(few.in.n)});
    }
    CHECK(part == got);
  }
  kernels.net.conv_forward(ctx, dims, {tx.data(), c.in}, tw.data(), {tb.data(), ts.data(), true},
                           {got.data(), out});
  CHECK(worst(got, activated) < bound);
  kernels.net.conv_backward_data(ctx, dims, {tdy.data(), out}, tw.data(), {gx.data(), c.in}, false);
  CHECK(worst(gx, dx) < bound);
  kernels.net.conv_backward_data(ctx, dims, {tdy.data(), out}, tw.data(), {gx.data(), c.in}, true);
  for (double& v : dx) v *= 2;
  CHECK(worst(gx, dx) < 2 * bound);
  kernels.net.conv_backward_weights(ctx, dims, {tx.data(), c.in}, {tdy.data(), out}, gw.data());
  CHECK(worst(gw, dw) < bound);
}

TEST_CASE("convolutions against direct sums") {
  for (const char* isa : {"baseline", "avx2", "avx512"}) {
    const IsaChoice chosen(isa);
    CAPTURE(isa);
    for (const ConvCase& c : kCases) {
      for (int threads : {1, 2, 3}) {
        check_conv<double>(c, threads, 1e-12);
        // A gradient of weights is a sum over all pixels.
        check_conv<float>(c, threads, c.in.pixels() > 1000 ? 1e-4 : 2e-5);
      }
    }
  }
  check_conv<float>({{300, 1, 1, 200}, 130, 1, false}, 70, 2e-4);  // more threads than seats
}

TEST_CASE("NaN passes through ReLU") {
  for (const char* isa : {"baseline", "avx2", "avx512"}) {
    const IsaChoice chosen(isa);
    Context ctx("cpu", 1);
    ConvDims dims;
    dims.in = {40, 1, 1, 5};
    dims.cout = 20;
    std::vector<float> x(200, 1.0f), w(100, 1.0f), y(800), one(20, 1.0f);
    x[7] = std::nanf("");
    ctx.kernels<float>().net.conv_forward(ctx, dims, {x.data(), dims.in}, w.data(),
                                          {one.data(), one.data(), true},
                                          {y.data(), dims.in.with_channels(20)});
    CHECK(std::isnan(y[20]));
    CHECK(std::isnan(y[39]));
    CHECK(y[0] == 6.0f);
    CHECK(y[40] == 6.0f);
  }
}

TEST_CASE("couplings of more channels than a job takes") {
  for (const int64_t c : {150, 1030, 4100}) {
    CAPTURE(c);
    const Shape shape{3, 1, 1, c};
    const CouplingPlan plan{laws::Glow(), c, true, -1};
    Context ctx("cpu", 2);
    const std::vector<double> x = random_values(3 * c, 1, -1, 1), h = random_values(6 * c, 2, -1, 1);
    std::vector<double> z(x.size()), logdet(3, 0.5);
    ctx.kernels<double>().coupling.forward(ctx, plan, {}, {x.data(), shape},
                                           {h.data(), shape.with_channels(2 * c)}, {z.data(), shape},
                                           logdet.data());
    for (int64_t n = 0; n < 3; ++n) {
      double expected = 0.5;
      for (int64_t i = 0; i < c; ++i)
        expected -= std::log1p(std::exp(-h[static_cast<size_t>((n * c + i) * 2 + 1)] - 2));
      CHECK(logdet[static_cast<size_t>(n)] == doctest::Approx(expected).epsilon(1e-9));
    }
  }
}

/// What a coupling of these pixels makes, with what lies between them: z, x, dx and dh; and its sums.
template <class T>
std::pair<std::vector<std::vector<T>>, std::vector<double>> coupled(const Shape& shape,
                                                                    const CouplingPlan& plan) {
  const int64_t n = shape.n, size = shape.pixels() * (shape.c + 2), h_stride = 2 * shape.c + 1,
                h_size = shape.pixels() * h_stride;
  const Shape h_shape = shape.with_channels(2 * shape.c);
  const auto numbers = [](int64_t count, uint64_t seed) { return as<T>(random_values(count, seed, -1, 1)); };
  const std::vector<T> in = numbers(size, 1), h = numbers(h_size, 2), dz = numbers(size, 3),
                       before = numbers(size, 4);
  std::vector<T> z = before, x = before, back = before, dx = before, dh = numbers(h_size, 5);
  const auto view = [&](auto& of) { return View<T>(of.data(), shape, shape.c + 2); };
  const auto values = [&](const auto& of) { return View<const T>(of.data(), shape, shape.c + 2); };
  const View<const T> raw(h.data(), h_shape, h_stride);
  const T slope = T(1.25), offset = T(-0.25);
  T dslope = T(0), doffset = T(0);
  std::vector<double> logdets(static_cast<size_t>(n)), inverse(logdets);
  const std::vector<double> dlogdet(static_cast<size_t>(n), 0.75);
  Context ctx("cpu", 1);
  const CouplingKernels<T>& kernels = ctx.kernels<T>().coupling;
  kernels.forward(ctx, plan, {&slope, &offset}, values(in), raw, view(z), logdets.data());
  kernels.backward(ctx, plan, {&slope, &offset}, values(z), values(dz), dlogdet.data(), raw, false, view(x),
                   view(dx), {dh.data(), h_shape, h_stride}, {&dslope, &doffset});
  kernels.inverse(ctx, plan, {&slope, &offset}, values(z), raw, view(back), inverse.data());
  CHECK(x == back);
  for (size_t i = 0; i < in.size(); ++i) {
    const bool between = static_cast<int64_t>(i) % (shape.c + 2) >= shape.c;
    CHECK(std::abs(x[i] - (between ? before[i] : in[i])) < 1e-5);
    if (between) CHECK(z[i] == before[i]);
  }
  const double logdet = std::accumulate(logdets.begin(), logdets.end(), 0.0),
               undone = std::accumulate(inverse.begin(), inverse.end(), 0.0);
  return {{z, x, dx, dh}, {logdet, -undone, static_cast<double>(dslope), static_cast<double>(doffset)}};
}

// An image's runs of elements end within pixels, those of the same pixels as so many samples don't.
TEST_CASE_TEMPLATE("runs of a coupling's elements end anywhere in pixels", T, float, double) {
  for (const int64_t c : {1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 20, 33}) {
    for (const bool interleaved : {false, true}) {
      CAPTURE(c);
      CAPTURE(interleaved);
      const CouplingPlan plan{laws::RealNvp(), c, interleaved, -1};
      const auto [image, sums] = coupled<T>({1, 7, 19, c}, plan);
      const auto [pixels, pixel_sums] = coupled<T>({7 * 19, 1, 1, c}, plan);
      CHECK(image == pixels);
      CHECK(sums[0] == doctest::Approx(sums[1]).epsilon(1e-5));
      for (size_t i = 0; i < sums.size(); ++i) CHECK(sums[i] == doctest::Approx(pixel_sums[i]).epsilon(1e-6));
    }
  }
}

/// The gradient of y = act((a + bias) scale) for rows of `cols` numbers, `stride` apart, against sums in
/// order.
void check_epilogue_backward(int64_t rows, int64_t cols, int64_t stride, bool relu, bool scaled) {
  CAPTURE(rows);
  CAPTURE(cols);
  CAPTURE(stride);
  CAPTURE(relu);
  CAPTURE(scaled);
  const Shape shape{rows, 1, 1, cols};
  const std::vector<double> y = random_values(rows * stride, 1, -1, 1),
                            dy = random_values(rows * stride, 2, -1, 1),
                            scale = random_values(cols, 3, 0.5, 2);
  std::vector<double> da = dy, bias_sum(static_cast<size_t>(cols), 0.25), logs_sum = bias_sum;
  for (int64_t i = 0; i < rows * stride; ++i) {
    const int64_t c = i % stride;
    if (c >= cols) continue;
    const double g = relu && y[i] <= 0 ? 0 : dy[i];
    da[i] = scaled ? g * scale[c] : g;
    bias_sum[c] += da[i];
    logs_sum[c] += 3 * g * y[i];
  }
  Context ctx("cpu", 2);
  for (const bool logs : {false, true}) {
    std::vector<double> gradient = dy, dbias(bias_sum.size(), 0.25), dlogs = dbias;
    ctx.kernels<double>().net.epilogue_backward(
        ctx, {y.data(), shape, stride}, {gradient.data(), shape, stride},
        {nullptr, scaled ? scale.data() : nullptr, relu}, dbias.data(), logs ? dlogs.data() : nullptr, 3);
    CHECK(gradient == da);
    CHECK(worst(dbias, bias_sum) < 1e-10);
    if (logs) CHECK(worst(dlogs, logs_sum) < 1e-10);
  }
}

TEST_CASE("gradients of short rows, joined or not") {
  for (const int64_t rows : {1, 2, 3, 31, 32, 33, 129, 1000, 20011}) {
    for (const int64_t cols : {1, 2, 3, 5, 8, 31, 32, 33, 64, 65}) {
      if (rows * cols > 200000) continue;
      for (const bool relu : {false, true}) {
        check_epilogue_backward(rows, cols, cols, relu, false);
        check_epilogue_backward(rows, cols, cols + 1, relu, false);
        check_epilogue_backward(rows, cols, cols, relu, true);
      }
    }
  }
}

TEST_CASE("threads share the columns of few rows") {
  const int64_t count = 300001;
  std::vector<uint8_t> x(2 * count);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 7 % 256);
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 5}) {
    Context ctx("cpu", threads);
    std::vector<float> out(x.size(), -1.0f);
    ctx.kernels<float>().prior.dequantize(ctx, 2, count, x.data(), 8, true, 3, 0, out.data());
    if (first.empty()) first = out;
    CHECK(first == out);
  }
}

TEST_CASE("a device that is absent or unknown, or an unknown instruction set, is refused") {
  for (const char* device : {"cuda", "tpu"}) CHECK_THROWS_AS(Context{device}, DeviceError);
  const IsaChoice chosen("mmx");
  CHECK_THROWS_AS(Context(), ConfigError);
}

TEST_CASE_TEMPLATE("rows are divided into whole tiles", Isa, Avx2, Avx512, Amx) {
  using Tile = gemm::RegisterTile<Isa, float>;
  for (int64_t m = 0; m <= 700; ++m) {
    CAPTURE(m);
    const gemm::RowStrips tiles = gemm::RowStrips::of<Isa, float>(m);
    CHECK(tiles.row(0) == 0);
    CHECK(tiles.row(tiles.count()) == m);
    int64_t partly_empty = 0;
    for (int64_t t = 0; t < tiles.count(); ++t) {
      const int64_t rows = tiles.row(t + 1) - tiles.row(t);
      CHECK((rows > 0 && rows <= Tile::rows));
      if (rows == Tile::rows) CHECK(tiles.at(tiles.row(t)) == t);
      partly_empty += rows != Tile::rows && rows != Tile::low_rows;
    }
    CHECK(partly_empty <= (!Isa::matrix && m % 2 == 0 && m >= 48 ? 0 : 1));
  }
}

}  // namespace
}  // namespace evenflow::test
