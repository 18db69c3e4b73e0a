#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "check_layer.hpp"
#include "kernels/cpu/gemm/row_strips.hpp"
#include "kernels/kernel_set.hpp"
#include "laws.hpp"
#include "system.hpp"

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
                           {{2, 40, 40, 9}, 4, 3, true}};

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

/// Another instruction set, for a while.
struct IsaGuard {
  explicit IsaGuard(const char* name) {
    const char* before = std::getenv("EVENFLOW_ISA");
    if (before) before_ = before;
    setenv("EVENFLOW_ISA", name, 1);
  }
  ~IsaGuard() {
    if (before_.empty()) {
      unsetenv("EVENFLOW_ISA");
    } else {
      setenv("EVENFLOW_ISA", before_.c_str(), 1);
    }
  }
  std::string before_;
};

TEST_CASE("convolutions against direct sums") {
  for (const char* isa : {"baseline", "avx2", "avx512"}) {
    const IsaGuard guard(isa);
    CAPTURE(isa);
    for (const ConvCase& c : kCases) {
      for (int threads : {1, 2, 3}) {
        check_conv<double>(c, threads, 1e-12);
        // A gradient of weights is a sum over all pixels.
        check_conv<float>(c, threads, c.in.pixels() > 1000 ? 1e-4 : 2e-5);
      }
    }
  }
}

TEST_CASE("NaN passes through ReLU") {
  for (const char* isa : {"baseline", "avx2", "avx512"}) {
    const IsaGuard guard(isa);
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

TEST_CASE("more threads than seats") {
  check_conv<float>({{300, 1, 1, 200}, 130, 1, false}, 70, 2e-4);
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

/// A coupling of an image, whose runs of elements end within pixels, and of the same pixels as so many
/// samples: z, dx, x and dh, with what lies between them, and sums.
template <class T>
struct Coupled {
  std::vector<T> z, x, dx, dh;
  double logdet = 0;
  T dslope = T(0), doffset = T(0);

  Coupled(const Shape& shape, const CouplingPlan& plan) {
    const int64_t n = shape.n, pixels = shape.pixels(), stride = shape.c + 2, h_stride = 2 * shape.c + 1;
    const auto numbers = [](int64_t count, uint64_t seed) {
      const std::vector<double> v = random_values(count, seed, -1, 1);
      return std::vector<T>(v.begin(), v.end());
    };
    const std::vector<T> in = numbers(pixels * stride, 1), h = numbers(pixels * h_stride, 2),
                         dz = numbers(pixels * stride, 3);
    const std::vector<double> dlogdet(static_cast<size_t>(n), 0.75);
    std::vector<double> logdets(static_cast<size_t>(n));
    const T slope = T(1.25), offset = T(-0.25);
    z = x = dx = numbers(pixels * stride, 4);
    dh = numbers(pixels * h_stride, 5);
    const auto view = [&](auto& of) { return View<T>(of.data(), shape, stride); };
    const auto values = [&](const auto& of) { return View<const T>(of.data(), shape, stride); };
    const View<const T> raw(h.data(), shape.with_channels(2 * shape.c), h_stride);
    Context ctx("cpu", 1);
    const KernelSet<T>& kernels = ctx.kernels<T>();
    kernels.coupling.forward(ctx, plan, {&slope, &offset}, values(in), raw, view(z), logdets.data());
    kernels.coupling.backward(ctx, plan, {&slope, &offset}, values(z), values(dz), dlogdet.data(), raw, false,
                              view(x), view(dx), {dh.data(), shape.with_channels(2 * shape.c), h_stride},
                              {&dslope, &doffset});
    std::vector<T> back = in;
    std::vector<double> inverse(static_cast<size_t>(n));
    kernels.coupling.inverse(ctx, plan, {&slope, &offset}, values(z), raw, view(back), inverse.data());
    double undone = 0;
    for (size_t i = 0; i < logdets.size(); ++i) {
      logdet += logdets[i];
      undone += inverse[i];
    }
    CHECK(undone == doctest::Approx(-logdet).epsilon(1e-5));
    for (size_t i = 0; i < in.size(); ++i) CHECK(std::abs(back[i] - in[i]) < 1e-5);
    const std::vector<T> before = numbers(pixels * stride, 4);
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < stride; ++c) {
        const size_t i = static_cast<size_t>(p * stride + c);
        CHECK(x[i] == (c < shape.c ? back[i] : before[i]));
        if (c >= shape.c) CHECK(z[i] == before[i]);
      }
    }
  }
};

template <class T>
void check_runs_of_couplings() {
  for (const int64_t c : {1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 20, 33}) {
    for (const bool interleaved : {false, true}) {
      CAPTURE(c);
      CAPTURE(interleaved);
      const CouplingPlan plan{laws::RealNvp(), c, interleaved, -1};
      const Coupled<T> image({1, 7, 19, c}, plan), pixels({7 * 19, 1, 1, c}, plan);
      CHECK(image.z == pixels.z);
      CHECK(image.x == pixels.x);
      CHECK(image.dx == pixels.dx);
      CHECK(image.dh == pixels.dh);
      CHECK(image.logdet == doctest::Approx(pixels.logdet).epsilon(1e-6));
      CHECK(image.dslope == doctest::Approx(pixels.dslope).epsilon(1e-6));
      CHECK(image.doffset == doctest::Approx(pixels.doffset).epsilon(1e-6));
    }
  }
}

TEST_CASE("runs of a coupling's elements end anywhere in pixels") {
  check_runs_of_couplings<double>();
  check_runs_of_couplings<float>();
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
  const std::vector<double> y = random_values(rows * stride, 1, -1, 1);
  const std::vector<double> scale = random_values(cols, 3, 0.5, 2);
  std::vector<double> dy = random_values(rows * stride, 2, -1, 1), da = dy;
  std::vector<double> dbias(static_cast<size_t>(cols), 0.25), dlogs = dbias, bias_sum = dbias,
                                                              logs_sum = dbias;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const size_t i = static_cast<size_t>(r * stride + c), at = static_cast<size_t>(c);
      const double g = relu && y[i] <= 0 ? 0 : dy[i];
      da[i] = scaled ? g * scale[at] : g;
      bias_sum[at] += da[i];
      logs_sum[at] += 3 * g * y[i];
    }
  }
  Context ctx("cpu", 2);
  std::vector<double> alone(static_cast<size_t>(cols), 0.25), again = dy;
  const auto run = [&](std::vector<double>& gradient, double* to_bias, double* to_logs) {
    ctx.kernels<double>().net.epilogue_backward(
        ctx, {y.data(), shape, stride}, {gradient.data(), shape, stride},
        {nullptr, scaled ? scale.data() : nullptr, relu}, to_bias, to_logs, 3);
  };
  run(dy, dbias.data(), dlogs.data());
  run(again, alone.data(), nullptr);
  CHECK(dy == da);
  CHECK(again == da);
  CHECK(alone == dbias);
  for (size_t c = 0; c < dbias.size(); ++c) {
    CHECK(std::abs(dbias[c] - bias_sum[c]) < 1e-10);
    CHECK(std::abs(dlogs[c] - logs_sum[c]) < 1e-10);
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

TEST_CASE("an output row does not depend on the batch around it, nor on threads") {
  const ConvCase c{{9, 5, 5, 21}, 35, 3, true};
  ConvDims dims;
  dims.cout = c.cout;
  dims.kernel = 3;
  dims.edge = true;
  dims.in = c.in;
  const std::vector<float> x = as<float>(random_values(c.in.size(), 1, -1, 1));
  const std::vector<float> w = as<float>(random_values(dims.weight_size(), 2, -1, 1));
  const int64_t out = c.in.pixels_per_sample() * c.cout;
  std::vector<std::vector<float>> results;
  for (int threads : {1, 2, 5}) {
    Context ctx("cpu", threads);
    std::vector<float> y(static_cast<size_t>(9 * out)), single(y.size());
    ctx.kernels<float>().net.conv_forward(ctx, dims, {x.data(), c.in}, w.data(), {},
                                          {y.data(), c.in.with_channels(c.cout)});
    ConvDims one = dims;
    one.in.n = 1;
    for (int64_t i = 0; i < 9; ++i) {
      ctx.kernels<float>().net.conv_forward(ctx, one, {x.data() + i * c.in.per_sample(), one.in}, w.data(),
                                            {}, {single.data() + i * out, one.in.with_channels(c.cout)});
    }
    CHECK(y == single);
    results.push_back(y);
  }
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("a row's products do not depend on how many rows there are") {
  Context ctx("cpu", 2);
  for (const auto& [cin, cout] :
       {std::pair<int, int>{1, 32}, {32, 2}, {32, 4}, {33, 32}, {32, 48}, {70, 100}, {301, 450}}) {
    for (const int kernel : {1, 3}) {
      ConvDims dims;
      dims.in = {40, 1, 1, cin};
      dims.cout = cout;
      dims.kernel = kernel;
      const std::vector<float> x = as<float>(random_values(dims.in.size(), 1, -1, 1));
      const std::vector<float> w = as<float>(random_values(dims.weight_size(), 2, -1, 1));
      std::vector<float> all(static_cast<size_t>(40 * cout)), few(all.size());
      ctx.kernels<float>().net.conv_forward(ctx, dims, {x.data(), dims.in}, w.data(), {},
                                            {all.data(), dims.in.with_channels(cout)});
      for (const int64_t rows : {1, 8, 10}) {
        dims.in.n = rows;
        for (int64_t i = 0; i < 40; i += rows) {
          ctx.kernels<float>().net.conv_forward(ctx, dims, {x.data() + i * cin, dims.in}, w.data(), {},
                                                {few.data() + i * cout, dims.in.with_channels(cout)});
        }
        CHECK(all == few);
      }
    }
  }
}

TEST_CASE("an unknown instruction set is refused") {
  const IsaGuard guard("mmx");
  CHECK_THROWS_AS(Context(), ConfigError);
}

}  // namespace
TEST_CASE_TEMPLATE("rows are divided into whole tiles", Isa, Avx2, Avx512, Amx) {
  using Tile = gemm::RegisterTile<Isa, float>;
  for (int64_t m = 0; m <= 700; ++m) {
    CAPTURE(m);
    const gemm::RowStrips tiles = gemm::RowStrips::of<Isa, float>(m);
    CHECK(tiles.row(0) == 0);
    CHECK(tiles.row(tiles.count()) == m);
    CHECK(tiles.at(m) == tiles.count());
    int64_t partly_empty = 0;
    for (int64_t t = 0; t < tiles.count(); ++t) {
      const int64_t rows = tiles.row(t + 1) - tiles.row(t);
      CHECK(rows > 0);
      CHECK(rows <= Tile::rows);
      if (rows == Tile::rows) CHECK(tiles.at(tiles.row(t)) == t);
      partly_empty += rows != Tile::rows && rows != Tile::low_rows;
    }
    CHECK(partly_empty <= 1);
    if (!Isa::matrix && m % 2 == 0 && m >= 48) CHECK(partly_empty == 0);
  }
}

}  // namespace evenflow::test
