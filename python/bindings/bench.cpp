#include <algorithm>
#include <chrono>

#include "common.hpp"
#include "kernels/cpu/peak.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow::python {
namespace {

void check_threads(const char* call, int threads) {
  if (threads < 1 || threads > kMostThreads) {
    fail<ConfigError>(call, "expected threads in 1 ... ", kMostThreads, ", got ", threads);
  }
}

double peak_gflops(int threads, const std::string& kind) {
  check_threads("peak_gflops", threads);
  if (kind != "float32" && kind != "bfloat16") {
    fail<ConfigError>("peak_gflops", "expected kind float32 or bfloat16, got ", kind);
  }
  const double peak = kind == "float32" ? peak_gflops_f32(threads) : peak_gflops_bf16(threads);
  if (peak == 0) {
    fail<ConfigError>("peak_gflops", "expected a machine with bfloat16 dot products, got one without");
  }
  return peak;
}

double bandwidth_gbs(int threads, const std::string& kind) {
  check_threads("bandwidth_gbs", threads);
  if (kind == "read") return read_bandwidth_gbs(threads);
  if (kind == "triad") return triad_bandwidth_gbs(threads);
  if (kind == "update") return update_bandwidth_gbs(threads);
  fail<ConfigError>("bandwidth_gbs", "expected kind read, triad or update, got ", kind);
}

enum class Pass { forward, backward_data, backward_weights };

Pass pass_of(const std::string& name) {
  if (name == "forward") return Pass::forward;
  if (name == "backward_data") return Pass::backward_data;
  if (name == "backward_weights") return Pass::backward_weights;
  fail<ConfigError>("time_conv", "expected pass forward, backward_data or backward_weights, got ", name);
}

/// A convolution with data to run on: x and y are also where dx and dy are. Their rows are as far apart as
/// those of a net's hidden activations.
template <class T>
struct ConvCase {
  ConvDims dims;
  std::vector<T> x, y, w, bias;

  explicit ConvCase(const ConvDims& d)
      : dims(d),
        x(d.in.pixels() * stride(d.in.c)),
        y(d.in.pixels() * stride(d.cout)),
        w(d.weight_size()),
        bias(d.cout) {
    Rng rng(0, Stream::test);
    for (std::vector<T>* values : {&x, &y, &w, &bias}) {
      for (T& value : *values) value = static_cast<T>(rng.uniform(-1, 1));
    }
  }

  static int64_t stride(int64_t channels) { return padded_stride(channels, sizeof(T)); }
};

/// As the nets call it: bias and ReLU with the forward pass, weight gradients added.
template <class T>
void call(Context& ctx, Pass pass, ConvCase<T>& c) {
  const KernelSet<T>& kernels = ctx.kernels<T>();
  const View<T> x(c.x.data(), c.dims.in, c.stride(c.dims.in.c));
  const View<T> y(c.y.data(), c.dims.in.with_channels(c.dims.cout), c.stride(c.dims.cout));
  switch (pass) {
    case Pass::forward:
      return kernels.conv_forward(ctx, c.dims, x, c.w.data(), {c.bias.data(), nullptr, true}, y);
    case Pass::backward_data:
      return kernels.conv_backward_data(ctx, c.dims, y, c.w.data(), x, false);
    case Pass::backward_weights:
      return kernels.conv_backward_weights(ctx, c.dims, x, y, c.w.data());
  }
}

template <class T>
double median_seconds(Pass pass, const ConvDims& dims, int threads, double seconds) {
  using Clock = std::chrono::steady_clock;
  Context ctx("cpu", threads);
  ConvCase<T> c(dims);
  call(ctx, pass, c);  // brings in pages and scratch memory
  std::vector<double> times;
  double total = 0;
  while (total < seconds || times.size() < 3) {
    const Clock::time_point start = Clock::now();
    call(ctx, pass, c);
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    total += times.back();
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

double time_conv(const std::string& pass, int64_t n, int64_t h, int64_t w, int64_t cin, int64_t cout,
                 int kernel, bool edge, const std::string& dtype, int threads, double seconds) {
  const int64_t smallest = std::min({n, h, w, cin, cout});
  if (smallest < 1) fail<ConfigError>("time_conv", "expected sizes >= 1, got ", smallest);
  if (kernel != 1 && kernel != 3) fail<ConfigError>("time_conv", "expected kernel 1 or 3, got ", kernel);
  ConvDims dims;
  dims.in = {n, h, w, cin};
  dims.cout = cout;
  dims.kernel = kernel;
  dims.edge = edge;
  if (dtype == "float32") return median_seconds<float>(pass_of(pass), dims, threads, seconds);
  if (dtype == "float64") return median_seconds<double>(pass_of(pass), dims, threads, seconds);
  fail<ConfigError>("time_conv", "expected dtype float32 or float64, got ", dtype);
}

}  // namespace

void bind_bench(py::module_& m) {
  using namespace py::literals;
  using Unlock = py::call_guard<py::gil_scoped_release>;
  m.def(
      "peak_gflops", &peak_gflops, "threads"_a, "kind"_a, Unlock(),
      "Multiply-adds in registers, in GFLOP/s: 'float32', or 'bfloat16' where the machine has dot products.");
  m.def("bandwidth_gbs", &bandwidth_gbs, "threads"_a, "kind"_a = "read", Unlock(),
        "Main memory: bytes a second, in GB/s, of a 'read', a 'triad' or an 'update' over 512 MB.");
  m.def("time_conv", &time_conv, "pass_"_a, "n"_a, "h"_a, "w"_a, "cin"_a, "cout"_a, "kernel"_a, "edge"_a,
        "dtype"_a, "threads"_a, "seconds"_a, Unlock(),
        "Median seconds of one call of a convolution's kernel on random data, over at least `seconds`.");
}

}  // namespace evenflow::python
