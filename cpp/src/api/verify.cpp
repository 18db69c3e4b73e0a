#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "api/calls.hpp"
#include "core/linalg.hpp"
#include "evenflow/error.hpp"
#include "evenflow/model.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

constexpr int64_t kSamples = 16, kProbedDims = 512;
constexpr double kPrecision = 1e-3, kBfloat16Precision = 5e-2, kExact = 1e-7, kResolution = 1e-2;
template <class T>
constexpr double round_trip_bound() {
  return dtype_of<T>() == Dtype::float32 ? 1e-3 : 1e-9;
}

/// max |got - expected| / max(1, max |expected|); infinity if a value is not finite.
template <class A, class B>
double error_of(const A* got, const B* expected, int64_t count, double sign = 1) {
  double error = 0, size = 1;
  for (int64_t i = 0; i < count; ++i) {
    const double difference = std::abs(sign * static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    error = std::max(error, difference);
    size = std::max(size, std::abs(static_cast<double>(expected[i])));
  }
  return error / size;
}

/// log |det A|; -infinity if A is singular.
double log_abs_det(const linalg::Matrix& a, int64_t n) {
  const linalg::Lu factors = linalg::lu(a, n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::log(std::abs(factors.upper[static_cast<size_t>(i * (n + 1))]));
  return sum;
}

template <class Config>
NetDtype* net_dtype(Config& config) {
  return &config.conditioner;
}
NetDtype* net_dtype(RealNvpConfig&) {
  return nullptr;
}

std::vector<Bounds>* bounds_of(ModelConfig& config) {
  if (auto* table = std::get_if<CouplingFlowConfig>(&config.model)) return &table->bounds;
  if (auto* nice = std::get_if<NiceConfig>(&config.model)) return &nice->bounds;
  return nullptr;
}

bool has_bfloat16_nets(ModelConfig config) {
  const NetDtype* dtype = std::visit([](auto& settings) { return net_dtype(settings); }, config.model);
  return dtype && *dtype == NetDtype::bfloat16;
}

/// A float64 copy of the model. Bounds are rounded to T, as the model uses them. Values that whitening
/// derives from its matrix are only accurate to T, so they are derived again.
template <class T>
Trainable<double> float64_copy(const Trainable<T>& model) {
  ModelConfig config = model.config;
  config.dtype = Dtype::float64;
  NetDtype* nets = std::visit([](auto& settings) { return net_dtype(settings); }, config.model);
  if (nets) *nets = NetDtype::same;
  if (std::vector<Bounds>* bounds = bounds_of(config)) {
    for (Bounds& b : *bounds) b = {static_cast<T>(b.low), static_cast<T>(b.high)};
  }
  Trainable<double> copy(config);
  std::copy_n(model.arena.values(), copy.flow.layout()->total_size(), copy.arena.values());
  double *matrix = nullptr, *inverse = nullptr, *logdet = nullptr;
  for (const ParamLayout::Entry& entry : copy.flow.layout()->entries()) {
    double* value = copy.arena.values() + entry.offset;
    if (entry.name == "preprocess.matrix") matrix = value;
    if (entry.name == "preprocess.inverse") inverse = value;
    if (entry.name == "preprocess.logdet") logdet = value;
  }
  if (!inverse) return copy;
  const int64_t d = copy.flow.dims();
  const linalg::Matrix a(matrix, matrix + d * d);
  const linalg::Lu factors = linalg::lu(a, d);
  const linalg::Matrix product =
      linalg::multiply(linalg::invert_upper(factors.upper, d), linalg::invert_lower(factors.lower, d), d);
  // A[i] = (L U)[p(i)], so the inverse's column i is (L U)^-1's column p(i).
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < d; ++j) {
      inverse[i * d + j] = product[static_cast<size_t>(i * d + factors.permutation[static_cast<size_t>(j)])];
    }
  }
  *logdet = log_abs_det(a, d);
  return copy;
}

/// Backward for dz = unit vector i returns row i of dz/dx.
double jacobian_error(Context& ctx, Trainable<double>& exact, const double* x, const Given<double>& given) {
  const int64_t d = exact.flow.dims();
  const Shape one = exact.flow.sample_shape().with_batch(1);
  std::vector<double> z(static_cast<size_t>(d)), unit(z), rebuilt(z);
  linalg::Matrix rows(static_cast<size_t>(d * d));
  double logdet = 0;
  exact.flow.forward(ctx, exact.arena, View<const double>(x, one), given, z.data(), &logdet);
  for (int64_t i = 0; i < d; ++i) {
    const double zero = 0;
    std::fill(unit.begin(), unit.end(), 0.0);
    unit[static_cast<size_t>(i)] = 1;
    exact.flow.backward(ctx, exact.arena, z.data(), unit.data(), &zero, given,
                        View<double>(rebuilt.data(), one), View<double>(rows.data() + i * d, one));
  }
  const double probed = log_abs_det(rows, d);
  return error_of(&logdet, &probed, 1);
}

/// Uses the flow's calls: the model's calls would claim the context, which verify has claimed already.
template <class T>
void measure(Context& ctx, const Trainable<T>& trained, const T* rows, const CallOptions& options,
             VerifyReport& report) {
  const Flow<T>& flow = trained.flow;
  const ParamArena<T>& arena = trained.arena;
  const int64_t n = report.samples, d = flow.dims();
  const Shape shape = flow.sample_shape().with_batch(n);
  const size_t values = static_cast<size_t>(n * d);
  std::vector<T> z(values), back(values), base(values);
  std::vector<double> logdet(static_cast<size_t>(n)), logdet_back(logdet), density(logdet),
      exact_density(logdet);
  const int64_t stride = stride_of("verify", "x", options.x_stride, d, d);
  check_finite("verify", rows, n, d, stride, 0);
  std::vector<T> packed(values);
  copy_rows(rows, stride, n, d, packed.data(), d);
  const T* x = packed.data();
  WorkspaceScope scope(ctx);
  const Given<T> given = given_of("verify", scope, flow, options, 0, n);
  flow.forward(ctx, arena, View<const T>(x, shape), given, z.data(), logdet.data());
  flow.inverse(ctx, arena, z.data(), n, given, View<T>(back.data(), shape), logdet_back.data());
  report.round_trip_x = error_of(back.data(), x, n * d);
  report.logdet_sum = error_of(logdet_back.data(), logdet.data(), n, -1);

  ctx.kernels<T>().prior.base_sample(ctx, flow.base(), n, d, T(1), options.seed, 0, base.data());
  flow.inverse(ctx, arena, base.data(), n, given, View<T>(back.data(), shape), logdet_back.data());
  flow.forward(ctx, arena, View<const T>(back.data(), shape), given, z.data(), logdet_back.data());
  std::vector<T> moved(values);
  for (size_t i = 0; i < values; ++i) back[i] = std::nextafter(back[i], x[i]);  // which is within the bounds
  flow.forward(ctx, arena, View<const T>(back.data(), shape), given, moved.data(), logdet_back.data());
  std::vector<double> rounding(static_cast<size_t>(n));
  for (size_t i = 0; i < values; ++i) {
    double& row = rounding[i / static_cast<size_t>(d)];
    row = std::max(row, std::abs(static_cast<double>(moved[i]) - static_cast<double>(z[i])));
  }
  for (size_t i = 0; i < values; ++i) {
    const T explained = static_cast<T>(2 * rounding[i / static_cast<size_t>(d)]);
    z[i] = base[i] + std::max(std::abs(z[i] - base[i]) - explained, T(0));
  }
  report.round_trip_z = error_of(z.data(), base.data(), n * d);
  std::sort(rounding.begin(), rounding.end());
  report.resolution = rounding[static_cast<size_t>(n / 2)];

  Trainable<double> exact = float64_copy(trained);
  const std::vector<double> wide(x, x + n * d);
  const Given<double> exact_given = given_of("verify", scope, exact.flow, options, 0, n);
  flow.log_prob(ctx, arena, View<const T>(x, shape), given, density.data());
  exact.flow.log_prob(ctx, exact.arena, View<const double>(wide.data(), shape), exact_given,
                      exact_density.data());
  report.precision = error_of(density.data(), exact_density.data(), n);
  report.probed = d <= kProbedDims;
  if (report.probed) report.jacobian = jacobian_error(ctx, exact, wide.data(), exact_given);
}

}  // namespace

template <class T>
VerifyReport Model::verify(Context& ctx, const T* x, int64_t n, const CallOptions& options) const {
  const Trainable<T>& trained = as<T>("verify");
  const ContextUse use("verify", ctx);
  check_batch("verify", n, trained.flow, options);
  VerifyReport report;
  report.samples = std::min(n, kSamples);
  try {
    measure(ctx, trained, x, options, report);
    report.finite = true;
  } catch (const NumericError& error) {
    report.error = error.what();
  }
  constexpr double bound = round_trip_bound<T>();
  const double precision = has_bfloat16_nets(trained.config) ? kBfloat16Precision : kPrecision;
  report.ok = report.finite && report.round_trip_x <= bound && report.round_trip_z <= bound &&
              report.resolution <= kResolution && report.logdet_sum <= bound &&
              report.precision <= precision && report.jacobian <= kExact;
  return report;
}

template VerifyReport Model::verify<float>(Context&, const float*, int64_t, const CallOptions&) const;
template VerifyReport Model::verify<double>(Context&, const double*, int64_t, const CallOptions&) const;

}  // namespace evenflow
