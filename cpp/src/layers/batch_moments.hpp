#pragma once

#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Biased moments of a batch over all pixels of a masked array, zeros included; see ChannelKernels::moments.
/// If ranks share the batch, the moments cover all their rows. This takes two sums over ranks, the mean
/// first: computing the variance as a difference of sums would lose digits.
template <class T>
void batch_moments(Context& ctx, int parity, View<const T> x, T* mean, T* var) {
  ctx.kernels<T>().channel.moments(ctx, parity, x, mean, var);
  if (!ctx.ranks()) return;
  HostScope host(ctx);
  const int64_t n = x.shape.c;
  const double pixels = static_cast<double>(x.shape.pixels());
  const T* my_mean = host.read(static_cast<const T*>(mean), n);
  const T* my_var = host.read(static_cast<const T*>(var), n);
  double* means = host.take<double>(n + 1);
  double* vars = host.take<double>(n);
  for (int64_t c = 0; c < n; ++c) means[c] = pixels * static_cast<double>(my_mean[c]);
  means[n] = pixels;
  ctx.ranks()->sum(means, n + 1);
  for (int64_t c = 0; c < n; ++c) {
    means[c] /= means[n];
    const double off = static_cast<double>(my_mean[c]) - means[c];
    vars[c] = pixels * (static_cast<double>(my_var[c]) + off * off);
  }
  ctx.ranks()->sum(vars, n);
  T* out = host.take<T>(2 * n);
  for (int64_t c = 0; c < n; ++c) {
    out[c] = static_cast<T>(means[c]);
    out[n + c] = static_cast<T>(vars[c] / means[n]);
  }
  ctx.to_device(mean, out, static_cast<size_t>(n) * sizeof(T));
  ctx.to_device(var, out + n, static_cast<size_t>(n) * sizeof(T));
}

/// ChannelKernels::norm_means over all ranks, from this rank's sums (2, n) and dlogdet (1), or null.
template <class T>
void batch_norm_means(Context& ctx, int64_t n, const double* sums, const double* dlogdet, double active,
                      int64_t pixels, T* means) {
  if (!ctx.ranks()) {
    return ctx.kernels<T>().channel.norm_means(ctx, n, sums, dlogdet, active, static_cast<double>(pixels),
                                               means);
  }
  HostScope host(ctx);
  double* all = host.take<double>(2 * n + 2);
  const double* own_sums = host.read(sums, 2 * n);
  for (int64_t i = 0; i < 2 * n; ++i) all[i] = own_sums[i];
  all[2 * n] = dlogdet ? *host.read(dlogdet, 1) : 0;
  all[2 * n + 1] = static_cast<double>(pixels);
  ctx.ranks()->sum(all, 2 * n + 2);
  const double* device_sums = host.send(static_cast<const double*>(all), 2 * n + 1);
  ctx.kernels<T>().channel.norm_means(ctx, n, device_sums, dlogdet ? device_sums + 2 * n : nullptr, active,
                                      all[2 * n + 1], means);
}

}  // namespace evenflow
