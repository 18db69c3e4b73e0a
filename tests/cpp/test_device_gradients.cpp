#include <doctest/doctest.h>

#include "check_device.hpp"
#include "kernels/device/exec.hpp"
#include "kernels/kernel_set.hpp"

// How gradients are added up on a device.

namespace evenflow::test {
namespace {

/// Gradients by a coupling's gain and offset from n rows, so many in a call, one way and then the other too.
template <class T>
std::vector<double> shared_gradients(Context& ctx, const std::string& device, int64_t n, int64_t at_once) {
  const Shape shape{0, 1, 1, 5};
  Flow<T> flow(shape, Base::gaussian);
  CouplingOptions options;
  options.law.name = "real_nvp";
  flow.add("coupling", coupling<T>(shape, Mask::second_half,
                                   mlp<T>(shape.with_channels(3), 4, {}, MlpInit::nice), options));
  flow.finalize();
  const auto numbers = [](int64_t count, uint64_t seed) {  // the same of either type
    const std::vector<float> of = random_of<float>(count, seed);
    return std::vector<T>(of.begin(), of.end());
  };
  ParamArena<T> arena(flow.layout(), device);
  const ParamArena<T>& read = arena;
  flow.init(arena, 3);
  Arrays a(ctx);
  const int64_t d = shape.c, size = flow.layout()->trainable_size();
  const std::vector<T> values = numbers(size, 1);
  const T *z = a.put(numbers(n * d, 2)), *dz = a.put(numbers(n * d, 3));
  const double* dlogdet = a.put(random_values(n, 4, -1, 1));
  const View<T> x(a.make<T>(at_once * d), shape.with_batch(at_once)), dx(a.make<T>(at_once * d), x.shape);
  flow.init_from_data(ctx, arena, View<const T>(z, shape.with_batch(n)));
  ctx.synchronize();
  std::copy(values.begin(), values.end(), arena.values());
  std::vector<double> result;
  for (const bool inverse : {false, true}) {
    for (int64_t i = 0; i < n; i += at_once) {
      if (inverse) {
        flow.inverse_backward(ctx, arena, View<const T>(z + i * d, x.shape),
                              View<const T>(dz + i * d, x.shape), dlogdet + i, {}, x.data, dx.data);
      } else {
        flow.backward(ctx, arena, z + i * d, dz + i * d, dlogdet + i, {}, x, dx);
      }
    }
    ctx.synchronize();
    for (const auto& entry : flow.layout()->entries()) {
      if (entry.name != "coupling.gain" && entry.name != "coupling.offset") continue;
      result.push_back(static_cast<double>(read.grads()[entry.offset]));
    }
  }
  return result;
}

}  // namespace

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

TEST_CASE_TEMPLATE("device: gradients by a gain that all rows share" * doctest::test_suite("any device"), T,
                   float, double) {
  for (const int64_t n : {1, 31, 1000, 20000}) {
    CAPTURE(n);
    check_same<double>(std::is_same<T, double>::value ? 1e-12 : 5e-6,
                       [&](Context& ctx, const std::string& device) {
                         // Wanted: the sum of the rows' own, in float64.
                         return ctx.on_host() ? shared_gradients<double>(ctx, device, n, 1)
                                              : shared_gradients<T>(ctx, device, n, n);
                       });
  }
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

}  // namespace evenflow::test
