#pragma once

#include <cmath>
#include <string>

#include "flow/given.hpp"
#include "flow/walk.hpp"

// Results are checked as a whole. Only if one is not finite does a second pass search for the layer, the
// channel and the sample, which the error names.

namespace evenflow {

/// A contiguous copy of v in host memory, valid while both scopes exist.
template <class T>
const T* dense_on_host(Context& ctx, WorkspaceScope& scope, HostScope& host, View<const T> v) {
  const View<T> dense(scope.take<T>(v.shape.size()), v.shape);
  ctx.kernels<T>().move.copy(ctx, v, dense);
  return host.read(static_cast<const T*>(dense.data), v.shape.size());
}

struct NotFinite {
  int64_t sample = -1;
  int64_t channel = 0;
  double value = 0;
};

/// The first value that is not finite; sample is -1 if there is none.
template <class T>
NotFinite first_not_finite(Context& ctx, View<const T> v) {
  WorkspaceScope scope(ctx);
  HostScope host(ctx);
  const T* values = dense_on_host(ctx, scope, host, v);
  for (int64_t i = 0; i < v.shape.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    return {i / v.shape.per_sample(), i % v.shape.c, static_cast<double>(values[i])};
  }
  return {};
}

/// Whether n numbers and `values`, each if given, are all finite.
template <class T>
bool all_finite(Context& ctx, int64_t n, const double* numbers, View<const T> values) {
  HostScope host(ctx);
  if (values.data) {
    WorkspaceScope scope(ctx);
    double* bad = scope.take<double>(1);
    ctx.kernels<T>().optim.count_not_finite(ctx, values, bad);
    if (*host.read(bad, 1) != 0) return false;
  }
  if (!numbers) return true;
  numbers = host.read(numbers, n);
  return std::all_of(numbers, numbers + n, [](double v) { return std::isfinite(v); });
}

/// NumericError naming the parameter, and so the layer, of a gradient that is not finite. square: the
/// gradients' sum of squares.
template <class T>
void check_gradients(Context& ctx, const char* call, const ParamLayout& layout, const T* grads,
                     double square) {
  if (std::isfinite(square)) return;
  HostScope host(ctx);
  grads = host.read(grads, layout.trainable_size());
  for (const ParamLayout::Entry& entry : layout.entries()) {
    if (entry.offset >= layout.trainable_size()) continue;
    for (int64_t i = 0; i < entry.size; ++i) {
      const T value = grads[entry.offset + i];
      if (std::isfinite(value)) continue;
      fail<NumericError>(call, "expected finite gradients, got ", value, " for ", entry.name, ", value ", i);
    }
  }
}

/// Describes a layer's first value that is not finite, and its position; empty if there is none.
template <class T>
std::string value_not_finite(Context& ctx, const std::string& layer, View<const T> v) {
  const NotFinite bad = first_not_finite(ctx, v);
  if (bad.sample < 0) return "";
  return text_of(bad.value, " from layer ", layer, ", channel ", bad.channel, ", for sample ",
                 ctx.first_row() + bad.sample);
}

/// The same for a layer's values and log-determinants (n).
template <class T>
std::string result_not_finite(Context& ctx, const std::string& layer, View<const T> v, int64_t n,
                              const double* logdet) {
  std::string problem = value_not_finite(ctx, layer, v);
  if (!problem.empty()) return problem;
  HostScope host(ctx);
  const double* det = host.read(logdet, n);
  for (int64_t i = 0; i < n; ++i) {
    if (std::isfinite(det[i])) continue;
    return text_of("log-determinant ", det[i], " from layer ", layer, ", for sample ", ctx.first_row() + i);
  }
  return "";
}

/// NumericError naming the input, or the first of nodes [0, end) whose results for x are not finite.
/// Processes the whole batch again, because in training its samples depend on each other.
template <class T>
void check_layers(Context& ctx, const Chain<T>& chain, const Params<T>& params, const char* call,
                  View<const T> x, size_t end) {
  WorkspaceScope scope(ctx);
  const RanksScope alone(ctx, nullptr);  // the other ranks do not run this pass
  const NotFinite input = first_not_finite(ctx, x);
  if (input.sample >= 0) {
    fail<NumericError>(call, "expected finite inputs, got ", input.value, " in channel ", input.channel,
                       " of sample ", ctx.first_row() + input.sample);
  }
  const int64_t n = x.shape.n;
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().move.fill_doubles(ctx, n, 0, logdet);
  to_latent<T>(ctx, scope, chain, {0, end}, x, {},
               [&](size_t i, const Batch<const T>& in, const Batch<T>& out) {
                 const Node<T>& node = chain.nodes[i];
                 node.layer->check_values(ctx, params);
                 node.layer->check_inputs(ctx, call, in.value);
                 node.layer->forward(ctx, params, in.value, out.value, logdet);
                 const std::string problem = result_not_finite<T>(ctx, node.name, out.value, n, logdet);
                 if (!problem.empty()) fail<NumericError>(call, "expected finite values, got ", problem);
               });
}

/// Throws the error for a batch with a log-likelihood (n) that is not finite.
template <class T>
[[noreturn]] void fail_not_finite(Context& ctx, const Chain<T>& chain, const Params<T>& params,
                                  const char* call, View<const T> x, const double* log_prob) {
  check_layers(ctx, chain, params, call, x, chain.nodes.size());
  HostScope host(ctx);
  const double* first = host.read(log_prob, x.shape.n);
  const auto bad = std::find_if_not(first, first + x.shape.n, [](double v) { return std::isfinite(v); });
  fail<NumericError>(call,
                     "expected a finite log-likelihood, got latents too large for the base distribution",
                     ", for sample ", ctx.first_row() + (bad - first));
}

/// Describes the first result that is not finite on the way from z (n, D) to data: value, layer, channel and
/// sample.
template <class T>
std::string not_finite_inverse(Context& ctx, const Chain<T>& chain, const Params<T>& params, const T* z,
                               int64_t n) {
  WorkspaceScope scope(ctx);
  double* logdet = scope.take<double>(n);
  ctx.kernels<T>().move.fill_doubles(ctx, n, 0, logdet);
  std::string problem =
      result_not_finite<T>(ctx, "(latents)", View<const T>(z, {n, 1, 1, chain.dims()}), n, logdet);
  if (!problem.empty()) return problem;
  const View<T> x(scope.take<T>(n * chain.dims()), chain.sample_shape.with_batch(n));
  to_data<T>(ctx, chain, {z}, x, [&](size_t i, const Batch<T>& out, const Batch<T>& in) {
    const Node<T>& node = chain.nodes[i];
    node.layer->inverse(ctx, params, out.value, in.value, logdet);
    node.layer->check_values(ctx, params);
    problem = result_not_finite<T>(ctx, node.name, in.value, n, logdet);
    return problem.empty();
  });
  return problem.empty() ? "NaN or infinity" : problem;
}

}  // namespace evenflow
