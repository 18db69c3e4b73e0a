#include <limits>

#include "check_device.hpp"
#include "kernels/device/cublaslt.hpp"
#include "kernels/kernel_set.hpp"

// A device's convolutions and chains of them: by cuBLASLt, for which a stand-in is named in
// EVENFLOW_CUBLASLT_LIBRARY, or without it.

namespace evenflow::test {
namespace {

struct ConvCase {
  Shape in;
  int64_t cout;
  int kernel;
  bool edge;
};

// Tiles are 64 x 64 x 16. Patches of 3000 values are made at a time, but of one image at least.
const ConvCase kConvs[] = {{{1, 1, 1, 1}, 1, 1, false},    {{3, 1, 1, 17}, 65, 1, false},
                           {{65, 1, 1, 16}, 64, 1, false}, {{1025, 1, 1, 3}, 2, 1, false},
                           {{2, 3, 5, 4}, 7, 3, true},     {{1, 1, 1, 3}, 5, 3, true},
                           {{2, 4, 3, 9}, 3, 3, false},    {{5, 15, 15, 2}, 3, 3, true},
                           {{7, 4, 5, 6}, 5, 3, true},     {{3, 2, 2, 4}, 4, 3, false}};

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
    // Slices of wider arrays, which must stay as they are around them.
    const auto slice = [&](const Shape& shape, uint64_t seed) {
      return View<T>(a.put(random_of<T>(shape.pixels() * (shape.c + 3), seed)) + 1, shape, shape.c + 3);
    };
    const T* w = a.put(random_of<T>(dims.weight_size(), 2));
    const T *bias = a.put(random_of<T>(c.cout, 3)), *scale = a.put(random_of<T>(c.cout, 4, 0.5, 2));
    const View<T> x = slice(c.in, 1), dy = slice(out, 5), dx = slice(c.in, 6), more = slice(c.in, 7);
    T* dw = a.make<T>(dims.weight_size(), T(0.25));
    std::vector<T> result;
    for (const Epilogue<T>& epilogue : {Epilogue<T>{bias, scale, true}, Epilogue<T>{bias, nullptr, true},
                                        Epilogue<T>{nullptr, nullptr, true}, Epilogue<T>()}) {
      const View<T> y = slice(out, 8);
      kernels.net.conv_forward(ctx, dims, x, w, epilogue, y);
      append(result, a.get(y.data - 1, out.pixels() * y.stride));
    }
    kernels.net.conv_backward_data(ctx, dims, dy, w, dx, false);
    kernels.net.conv_backward_data(ctx, dims, dy, w, more, true);
    kernels.net.conv_backward_weights(ctx, dims, x, dy, dw);
    for (const View<T>& v : {dx, more}) append(result, a.get(v.data - 1, c.in.pixels() * v.stride));
    append(result, a.get(dw, dims.weight_size()));
    return result;
  });
}

struct Chain {
  Shape in;
  std::vector<int64_t> widths;
  std::vector<int> kernels;
};

/// All that a chain computes, both ways. H is the type of its hidden activations.
template <class T, class H>
void check_chain(const Chain& chain, bool relu, double bound) {
  CAPTURE(to_string(chain.in));
  CAPTURE(chain.widths.back());
  constexpr bool half = std::is_same<H, Bf16>::value;
  check_same<T>(bound, [&](Context& ctx, const std::string&) {
    const NetKernels<T>& nets = ctx.kernels<T>().net;
    Arrays a(ctx);
    std::vector<StackUnit<T>> units;
    Shape at = chain.in;
    for (size_t u = 0; u < chain.widths.size(); ++u) {
      const int64_t width = chain.widths[u];
      StackUnit<T> unit;
      unit.dims.in = at;
      unit.dims.cout = width;
      unit.dims.kernel = chain.kernels[u];
      unit.dims.edge = chain.kernels[u] == 3 && u % 2 == 0;
      unit.w = a.put(random_of<T>(unit.dims.weight_size(), 10 + u, -0.5, 0.5));
      if (u != 1) unit.epilogue.bias = a.put(random_of<T>(width, 20 + u));
      if (u != 2) unit.epilogue.scale = a.put(random_of<T>(width, 30 + u, 0.5, 2));
      unit.epilogue.relu = relu && u + 1 < chain.widths.size();
      unit.overwrite = u % 2 == 1;
      unit.dw =
          a.make<T>(unit.dims.weight_size(), unit.overwrite ? std::numeric_limits<T>::quiet_NaN() : T(0.25));
      if (unit.epilogue.bias) unit.dbias = a.make<T>(width, T(0.25));
      if (unit.epilogue.scale) unit.dlogs = a.make<T>(width, T(0.25));
      unit.logs_factor = T(3);
      units.push_back(unit);
      at = at.with_channels(width);
    }
    // x and h are slices of wider arrays.
    const int64_t pixels = at.pixels(), x_stride = chain.in.c + 3, h_stride = at.c + 2;
    const int count = static_cast<int>(units.size());
    const View<const T> x(a.put(random_of<T>(pixels * x_stride, 1)) + 1, chain.in, x_stride);
    const View<T> h(a.make<T>(pixels * h_stride), at, h_stride), again(a.make<T>(at.size()), at);
    const View<T> dx(a.make<T>(pixels * x_stride, T(0.5)) + 1, chain.in, x_stride);
    const View<T> dh(a.put(random_of<T>(at.size(), 2)), at);
    H* acts = a.make<H>(activation_values(units.data(), count, pixels, sizeof(H)) + 1, H{0});
    nets.stack_forward(ctx, units.data(), count, half, x, acts, h);
    nets.stack_forward(ctx, units.data(), count, half, x, nullptr, again);
    std::vector<T> result = a.get(h.data, pixels * h_stride);
    append(result, a.get(again.data, at.size()));
    if (half && relu) return result;  // units near zero fire here and not there
    nets.stack_backward(ctx, units.data(), count, half, x, acts, h, dh, dx);
    append(result, a.get(dx.data - 1, pixels * x_stride));
    for (const StackUnit<T>& unit : units) {
      append(result, a.get(unit.dw, unit.dims.weight_size()));
      if (unit.dbias) append(result, a.get(unit.dbias, unit.dims.cout));
      if (unit.dlogs) append(result, a.get(unit.dlogs, unit.dims.cout));
    }
    return result;
  });
}

const Chain kChains[] = {{{1, 1, 1, 1}, {1, 1}, {1, 1}},
                         {{70, 1, 1, 3}, {33, 5}, {1, 1}},
                         {{129, 1, 1, 3}, {37, 70, 2}, {1, 1, 1}},
                         {{2, 8, 9, 6}, {40, 20, 12}, {3, 1, 3}},
                         {{3, 5, 3, 9}, {17, 33, 24}, {3, 3, 3}},
                         {{2, 3, 4, 3}, {10, 7}, {3, 3}},
                         {{2, 3, 4, 9}, {5, 4}, {3, 1}},
                         {{2, 3, 2, 3}, {4}, {3}},
                         {{40, 1, 1, 5}, {4}, {1}}};

/// A library that refuses a product, or null.
device::CublasLt* library() {
  install_emulator();
  return device::CublasLt::get();
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

}  // namespace

TEST_SUITE_BEGIN("any device");

TEST_CASE("device: convolutions against the CPU's") {
  for (const ConvCase& c : kConvs) {
    check_conv<double>(c, 1e-12);
    check_conv<float>(c, 2e-5);
  }
}

TEST_CASE("device: chains of convolutions against the CPU's") {
  for (const Chain& chain : kChains) {
    check_chain<double, double>(chain, true, 1e-11);
    check_chain<float, float>(chain, true, 2e-4);
    check_chain<float, Bf16>(chain, true, 3e-2);
    check_chain<float, Bf16>(chain, false, 3e-2);
  }
}

TEST_SUITE_END();

TEST_CASE("device: products of float32 numbers, and with TF32 where there is cuBLASLt") {
  for (const double error : errors_of_products(MatmulPrecision::highest)) CHECK(error <= 0x1p-24);
  for (const double error : errors_of_products(MatmulPrecision::high)) {
    CHECK(error <= (library() ? 0x1p-10 : 0x1p-24));
    if (library()) CHECK(error > 0x1p-12);
  }
}

TEST_CASE("device: a product that cuBLASLt refuses is an error") {
  if (!library()) return;
  Context ctx("emulated");
  Arrays a(ctx);
  const auto multiply = [&](int64_t m, int64_t a_stride, int64_t d_stride, int64_t before, const auto* bias) {
    using T = std::remove_const_t<std::remove_reference_t<decltype(*bias)>>;
    const T* x = a.make<T>(100);
    char* d = reinterpret_cast<char*>(a.make<T>(100)) + before;
    const device::Product<T, T> product{m,        4,     5,   {x, a_stride}, {x, 4}, reinterpret_cast<T*>(d),
                                        d_stride, false, bias};
    library()->multiply(ctx, product, MatmulPrecision::highest, nullptr, &EmulatedLauncher::run);
  };
  const float* none = nullptr;
  CHECK_NOTHROW(multiply(3, 5, 4, 0, none));
  CHECK_THROWS_AS(multiply(3, 4, 4, 0, none), DeviceError);  // rows that overlap
  CHECK_THROWS_AS(multiply(3, 5, 3, 0, none), DeviceError);
  CHECK_THROWS_AS(multiply(0, 5, 4, 0, none), DeviceError);  // nothing
  CHECK_THROWS_AS(multiply(3, 5, 4, 2, none), DeviceError);  // a part of a number
  CHECK_NOTHROW(multiply(3, 5, 4, 0, a.make<float>(4)));
  CHECK_THROWS_AS(multiply(3, 5, 4, 0, a.make<double>(4)), DeviceError);  // a bias in float64
}

}  // namespace evenflow::test
