#include <limits>

#include "check_device.hpp"
#include "kernels/device/mma_operands.hpp"
#include "kernels/device/net.hpp"
#include "kernels/kernel_set.hpp"

// A device's convolutions and chains of them.

namespace evenflow::test {
namespace {

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
    kernels.net.conv_forward(ctx, dims, x, w, epilogue, y);
    kernels.net.conv_forward(ctx, dims, x, w, {}, plain);
    kernels.net.conv_backward_data(ctx, dims, dy, w, dx, false);
    kernels.net.conv_backward_data(ctx, dims, dy, w, more, true);
    kernels.net.conv_backward_weights(ctx, dims, x, dy, dw);
    std::vector<T> result = a.get(y.data, out.size());
    append(result, a.get(plain.data, out.size()));
    append(result, a.get(dx.data, c.in.size()));
    append(result, a.get(more.data, c.in.size()));
    append(result, a.get(dw, dims.weight_size()));
    return result;
  });
}

/// A 1x1 convolution each way, of rows that lie `before` behind the beginning and `between` apart.
template <class T>
void check_thin(int64_t pixels, int64_t in, int64_t out, int64_t before, int64_t between, double bound) {
  CAPTURE(pixels);
  CAPTURE(in);
  CAPTURE(out);
  CAPTURE(before);
  ConvDims dims;
  dims.in = {pixels, 1, 1, in};
  dims.cout = out;
  check_same<T>(bound, [&](Context& ctx, const std::string&) {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    Arrays a(ctx);
    std::vector<T> result;
    const auto size = [&](int64_t channels) { return before + pixels * (channels + between); };
    const auto view = [&](int64_t channels, uint64_t seed) {
      return View<T>(a.put(random_of<T>(size(channels), seed)) + before, {pixels, 1, 1, channels},
                     channels + between);
    };
    const View<T> x = view(in, 1), dy = view(out, 2), y = view(out, 3), plain = view(out, 4),
                  dx = view(in, 5), more = view(in, 6);
    const T* w = a.put(random_of<T>(in * out, 7, -0.5, 0.5));
    const Epilogue<T> epilogue{a.put(random_of<T>(out, 8)), a.put(random_of<T>(out, 9, 0.5, 2)), true};
    T* dw = a.make<T>(in * out, T(0.25));
    kernels.net.conv_forward(ctx, dims, x, w, epilogue, y);
    kernels.net.conv_forward(ctx, dims, x, w, {}, plain);
    kernels.net.conv_backward_data(ctx, dims, dy, w, dx, false);
    kernels.net.conv_backward_data(ctx, dims, dy, w, more, true);
    kernels.net.conv_backward_weights(ctx, dims, x, dy, dw);
    for (const View<T>& v : {y, plain, dx, more}) append(result, a.get(v.data - before, size(v.shape.c)));
    append(result, a.get(dw, in * out));
    return result;
  });
}

struct Chain {
  Shape in;
  std::vector<int64_t> widths;
  std::vector<int> kernels;
  std::vector<bool> relu;
};

/// All that a chain computes, both ways, from the same float32 numbers whatever T is. acts: the hidden
/// activations, or null to make them.
template <class T, class H, class Nets>
std::vector<double> run_chain(Context& ctx, Arrays& a, const Nets& nets, const Chain& chain, H*& acts) {
  constexpr bool half = std::is_same<H, Bf16>::value;
  const auto put = [&](int64_t n, uint64_t seed, double low = -1, double high = 1) {
    const std::vector<float> v = random_of<float>(n, seed, low, high);
    return a.put(std::vector<T>(v.begin(), v.end()));
  };
  std::vector<StackUnit<T>> units;
  Shape at = chain.in;
  for (size_t u = 0; u < chain.widths.size(); ++u) {
    const int64_t width = chain.widths[u];
    StackUnit<T> unit;
    unit.dims.in = at;
    unit.dims.cout = width;
    unit.dims.kernel = chain.kernels[u];
    unit.dims.edge = chain.kernels[u] == 3 && u % 2 == 0;
    unit.w = put(unit.dims.weight_size(), 10 + u, -0.5, 0.5);
    if (u != 1) unit.epilogue.bias = put(width, 20 + u);
    if (u != 2) unit.epilogue.scale = put(width, 30 + u, 0.5, 2);
    unit.epilogue.relu = chain.relu[u];
    unit.overwrite = u % 2 == 1;
    unit.dw =
        a.make<T>(unit.dims.weight_size(), unit.overwrite ? std::numeric_limits<T>::quiet_NaN() : T(0.25));
    if (unit.epilogue.bias) unit.dbias = a.make<T>(width, T(0.25));
    if (unit.epilogue.scale) unit.dlogs = a.make<T>(width, T(0.25));
    unit.logs_factor = 3;
    units.push_back(unit);
    at = at.with_channels(width);
  }
  // x and h are slices of wider arrays.
  const int64_t pixels = at.pixels(), x_stride = chain.in.c + 3, h_stride = at.c + 2;
  const int count = static_cast<int>(units.size());
  const View<const T> x(put(pixels * x_stride, 1) + 1, chain.in, x_stride);
  const View<T> h(a.make<T>(pixels * h_stride), at, h_stride);
  const View<T> dx(a.make<T>(pixels * x_stride, T(0.5)) + 1, chain.in, x_stride);
  const View<T> dh(put(at.size(), 2), at);
  const bool keep = !acts;
  if (keep) acts = a.make<H>(activation_values(units.data(), count, pixels, sizeof(H)) + 1, H{0});
  nets.stack_forward(ctx, units.data(), count, half, x, keep ? acts : nullptr, h);
  std::vector<double> result;
  const auto add = [&](const T* values, int64_t n) {
    for (const T v : a.get(values, n)) result.push_back(static_cast<double>(v));
  };
  add(h.data, pixels * h_stride);
  nets.stack_backward(ctx, units.data(), count, half, x, acts, h, dh, dx);
  add(dx.data - 1, pixels * x_stride);
  for (const StackUnit<T>& unit : units) {
    add(unit.dw, unit.dims.weight_size());
    if (unit.dbias) add(unit.dbias, unit.dims.cout);
    if (unit.dlogs) add(unit.dlogs, unit.dims.cout);
  }
  return result;
}

/// A chain by matrix units, of numbers H, in every order of threads, beside the generic products with the
/// same activations, and beside itself with two parts a number.
template <class H>
void check_matrix_units(const Chain& chain) {
  CAPTURE(to_string(chain.in));
  CAPTURE(chain.widths.back());
  install_emulator();
  std::vector<double> first, first_high;
  for (const Emulator::Order order : kOrders) {
    Emulator::get().order = order;
    Context ctx("emulated");
    Arrays a(ctx);
    const NetKernels<float>& nets = ctx.kernels<float>().net;
    const DeviceNet<EmulatedLauncher, float> generic;
    H* acts = nullptr;
    const std::vector<double> wanted = run_chain<float, H>(ctx, a, generic, chain, acts);
    const std::vector<double> got = run_chain<float, H>(ctx, a, nets, chain, acts);
    ctx.set_matmul_precision(MatmulPrecision::high);
    const std::vector<double> high = run_chain<float, H>(ctx, a, nets, chain, acts);
    if (order == Emulator::ascending) {
      first = got;
      first_high = high;
      if (std::is_same<H, Bf16>::value) {
        // A sum on the other side of a rounding to bfloat16 changes what follows by 2^-9 of one term.
        CHECK(gap(got, wanted) <= 5e-3);
        CHECK(same_bits(high, got));
      } else {
        double* exact_acts = nullptr;
        const std::vector<double> truth =
            run_chain<double, double>(ctx, a, ctx.kernels<double>().net, chain, exact_acts);
        CHECK(gap(wanted, truth) <= 1e-4);  // what the others are measured by; measured: 3e-5
        CHECK(gap(got, truth) <= 1e-6 + 2 * gap(wanted, truth));
        CHECK(gap(high, truth) <= 256 * gap(wanted, truth));  // eight bits fewer; measured: 93
      }
    }
    CHECK(same_bits(got, first));
    CHECK(same_bits(high, first_high));
  }
  Emulator::get().order = Emulator::ascending;
}

/// Of products of one number by another, the largest relative error in each pass of a dense layer: outputs of
/// one input, gradients of inputs by one output, and those of weights from one row are sums of one term.
std::vector<double> errors_of_products(MatmulPrecision precision) {
  constexpr int64_t rows = 500, columns = 140;
  install_emulator();
  Context ctx("emulated");
  ctx.set_matmul_precision(precision);
  const KernelSet<float>& kernels = ctx.kernels<float>();
  Arrays a(ctx);
  const std::vector<float> left = random_of<float>(rows, 1, 1, 2), right = random_of<float>(columns, 2, 1, 2);
  float *l = a.put(left), *r = a.put(right), *unused = a.make<float>(rows * columns);
  const auto layer = [](int64_t n, int64_t in, int64_t out, const float* w, float* dw) {
    StackUnit<float> unit;
    unit.dims.in = {n, 1, 1, in};
    unit.dims.cout = out;
    unit.w = w;
    unit.dw = dw;
    unit.overwrite = true;
    return unit;
  };
  float *h = a.make<float>(rows * columns), *dx = a.make<float>(rows * columns, 0),
        *dw = a.make<float>(rows * columns);
  const StackUnit<float> forward = layer(rows, 1, columns, r, nullptr);
  kernels.net.stack_forward(ctx, &forward, 1, false, {l, forward.dims.in}, nullptr,
                            {h, {rows, 1, 1, columns}});
  const StackUnit<float> down = layer(rows, columns, 1, r, a.make<float>(columns));
  kernels.net.stack_backward(ctx, &down, 1, false, {unused, down.dims.in}, nullptr, {}, {l, {rows, 1, 1, 1}},
                             {dx, down.dims.in});
  const StackUnit<float> across = layer(1, rows, columns, unused, dw);
  kernels.net.stack_backward(ctx, &across, 1, false, {l, across.dims.in}, nullptr, {},
                             {r, {1, 1, 1, columns}}, {});
  std::vector<double> errors;
  for (const float* products : {h, dx, dw}) {
    const std::vector<float> got = a.get(products, rows * columns);
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double truth = double{left[i / columns]} * double{right[i % columns]};
      worst = larger(worst, std::abs(got[i] / truth - 1));
    }
    errors.push_back(worst);
  }
  return errors;
}

/// Root mean squares of the relative errors of long sums of terms of one sign: a hidden layer's by matrix
/// units, and the same term by term in float32.
std::pair<double, double> errors_of_long_sums(int64_t inputs) {
  constexpr int64_t rows = 40, outputs = 32;
  install_emulator();
  Context ctx("emulated");
  Arrays a(ctx);
  const std::vector<float> x = random_of<float>(rows * inputs, 1, 0.5, 1.5),
                           w = random_of<float>(inputs * outputs, 2, 0.5, 1.5);
  StackUnit<float> units[2];
  units[0].dims.in = {rows, 1, 1, inputs};
  units[0].dims.cout = units[1].dims.cout = outputs;
  units[1].dims.in = {rows, 1, 1, outputs};
  units[0].w = a.put(w);
  units[1].w = a.make<float>(outputs * outputs, 0);
  float* acts = a.make<float>(activation_values(units, 2, rows, sizeof(float)));
  ctx.kernels<float>().net.stack_forward(ctx, units, 2, false, {a.put(x), units[0].dims.in}, acts,
                                         {a.make<float>(rows * outputs), units[0].dims.out()});
  const int64_t stride = padded_stride(outputs, sizeof(float));
  const std::vector<float> got = a.get(acts, rows * stride);
  double squares = 0, plain_squares = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < outputs; ++c) {
      double truth = 0;
      float plain = 0;
      for (int64_t k = 0; k < inputs; ++k) {
        const float left = x[r * inputs + k], right = w[k * outputs + c];
        truth += double{left} * double{right};
        plain = std::fma(left, right, plain);
      }
      squares += std::pow(got[r * stride + c] / truth - 1, 2);
      plain_squares += std::pow(plain / truth - 1, 2);
    }
  }
  return {std::sqrt(squares / (rows * outputs)), std::sqrt(plain_squares / (rows * outputs))};
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
    char* acts = a.make<char>(activation_values(units.data(), count, in.pixels(), bytes) * bytes + 64, 0);
    kernels.net.stack_forward(ctx, units.data(), count, half, x, acts, h);
    kernels.net.stack_forward(ctx, units.data(), count, half, x, nullptr, again);
    std::vector<T> result = a.get(h.data, at.size());
    append(result, a.get(again.data, at.size()));
    if (half) return result;  // units near zero fire here and not there
    kernels.net.stack_backward(ctx, units.data(), count, half, x, acts, h, dh, dx);
    append(result, a.get(dx.data, in.size()));
    for (const StackUnit<T>& unit : units) {
      append(result, a.get(unit.dw, unit.dims.weight_size()));
      append(result, a.get(unit.dbias, unit.dims.cout));
      append(result, a.get(unit.dlogs, unit.dims.cout));
    }
    return result;
  });
}

}  // namespace

TEST_SUITE_BEGIN("any device");

TEST_CASE("device: convolutions against the CPU's") {
  for (const ConvCase& c : kConvs) {
    check_conv<double>(c, 1e-12);
    check_conv<float>(c, 2e-5);
  }
}

TEST_CASE_TEMPLATE("device: thin 1x1 convolutions against the CPU's", T, float, double) {
  const double bound = std::is_same<T, double>::value ? 1e-12 : 5e-5;
  // Contiguous; slices where packs may begin; where they may not.
  using Places = std::vector<std::pair<int64_t, int64_t>>;
  const Places all{{0, 0}, {4, 8}, {2, 2}, {1, 3}, {0, 1}}, two{{0, 0}, {1, 3}};
  // Tiles of pixels depend on both widths: 512 at most, and no more than give all multiprocessors work.
  for (const int64_t pixels : {1, 3, 1057, 3000}) {
    for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{
             {1, 1}, {2, 6}, {12, 12}, {24, 24}, {48, 48}, {64, 64}, {64, 1}, {1, 64}, {13, 7}, {65, 4}}) {
      if (pixels > 1057 && in * out > 144) continue;
      for (const auto& [before, between] : pixels > 1057 || (pixels > 3 && in * out > 144) ? two : all) {
        check_thin<T>(pixels, in, out, before, between, bound);
      }
    }
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

TEST_SUITE_END();

TEST_CASE_TEMPLATE("device: chains by matrix units", H, float, Bf16) {
  // Tiles are 128 x (16, 32, and 64 or 128) x (16 or 32).
  check_matrix_units<H>({{1, 1, 1, 1}, {1, 1}, {1, 1}, {true, false}});
  check_matrix_units<H>({{129, 1, 1, 3}, {37, 130, 2}, {1, 1, 1}, {true, true, false}});
  check_matrix_units<H>({{2, 8, 9, 6}, {40, 20, 12}, {3, 1, 3}, {true, true, false}});
  check_matrix_units<H>({{3, 5, 3, 9}, {17, 33, 24}, {3, 3, 3}, {true, false, false}});
  check_matrix_units<H>({{1, 2, 2, 20}, {300, 8}, {1, 3}, {true, true}});
  check_matrix_units<H>({{2, 3, 4, 3}, {10, 7}, {3, 3}, {true, false}});
  check_matrix_units<H>({{2, 3, 4, 3}, {100, 6}, {3, 1}, {true, false}});
  check_matrix_units<H>({{2, 4, 3, 5}, {9, 6}, {1, 3}, {true, false}});
  check_matrix_units<H>({{40, 4, 4, 5}, {4}, {3}, {false}});
  check_matrix_units<H>({{30, 1, 1, 4}, {20, 24}, {1, 1}, {true, false}});
  check_matrix_units<H>({{300, 1, 1, 70}, {16, 16, 16, 140}, {1, 1, 1, 1}, {true, true, true, false}});
  check_matrix_units<H>({{9, 1, 1, 121}, {5, 128, 3, 120}, {1, 1, 1, 1}, {true, true, true, false}});
  // More units than one launch lays out.
  check_matrix_units<H>(
      {{5, 1, 1, 3}, std::vector<int64_t>(11, 4), std::vector<int>(11, 1), std::vector<bool>(11)});
}

TEST_CASE("device: division by a product") {
  const auto agrees = [](int32_t n, int32_t by) { return device::Divisor(by).quotient(n) == n / by; };
  for (int64_t by = 1; by <= INT32_MAX; by += 1 + by / 64) {
    const int32_t d = static_cast<int32_t>(by), most = INT32_MAX / d * d;
    CAPTURE(d);
    for (const int32_t multiple : {d, d * (most / d / 2), d * (most / d / 3), most}) {
      CHECK(agrees(multiple, d));
      CHECK(agrees(multiple > 0 ? multiple - 1 : 0, d));
    }
    CHECK(agrees(INT32_MAX, d));
    CHECK(agrees(0, d));
    for (const int64_t n : {int64_t{0}, int64_t{INT32_MAX}, int64_t{1} << 31, (int64_t{5} << 31) + 12345}) {
      CHECK(device::Divisor(d).remainder(n) == n % d);
    }
  }
}

TEST_CASE("device: products of float32 numbers in three parts and in two") {
  for (const double error : errors_of_products(MatmulPrecision::highest)) CHECK(error <= 0x1p-23);
  for (const double error : errors_of_products(MatmulPrecision::high)) {
    CHECK(error <= 0x1p-15);  // measured: 2.5e-5
    CHECK(error > 0x1p-17);
  }
}

TEST_CASE("device: long sums by matrix units are as exact as plain float32's") {
  for (const int64_t inputs : {70, 512, 4608}) {
    CAPTURE(inputs);
    const auto [by_units, plain] = errors_of_long_sums(inputs);
    CHECK(by_units <= plain);
  }
}

}  // namespace evenflow::test
