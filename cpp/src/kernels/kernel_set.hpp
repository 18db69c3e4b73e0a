#pragma once

#include "evenflow/context.hpp"
#include "evenflow/optim.hpp"
#include "evenflow/prior.hpp"
#include "evenflow/rng.hpp"
#include "evenflow/types.hpp"
#include "kernels/coupling/kernels.hpp"
#include "kernels/ops/host_device.hpp"

// Every kernel, once. Views are NHWC; "rows" are pixels. Outputs are overwritten unless a comment says +=.
// Arrays lie on the context's device.

namespace evenflow {

/// A convolution or dense layer: stride 1, same padding, NHWC. Weights are (k, k, cin + edge, cout).
struct ConvDims {
  Shape in;  ///< (n, h, w, cin)
  int64_t cout = 0;
  int kernel = 1;     ///< 1 or 3
  bool edge = false;  ///< the last weight row of each tap belongs to an indicator of pixels outside the image

  int64_t taps() const { return kernel * kernel; }
  Shape out() const { return in.with_channels(cout); }
  int64_t weight_rows() const { return in.c + (edge ? 1 : 0); }
  int64_t weight_size() const { return taps() * weight_rows() * cout; }
};

/// y = act((conv + bias) * scale), each part optional.
template <class T>
struct Epilogue {
  const T* bias = nullptr;   ///< (cout)
  const T* scale = nullptr;  ///< (cout)
  bool relu = false;
};

/// One convolution of a chain, and where its gradients go (null: there is no such parameter). They are added,
/// dw with `overwrite` stored.
template <class T>
struct StackUnit {
  ConvDims dims;
  const T* w = nullptr;
  Epilogue<T> epilogue;
  T* dw = nullptr;
  bool overwrite = false;
  T* dbias = nullptr;
  T* dlogs = nullptr;
  T logs_factor = T(1);  ///< scale = exp(logs_factor * logs)
};

/// Values from one row to the next in buffers of our own: an odd number of cache lines, so that a column of a
/// wide activation does not fall into few sets of a cache.
EVENFLOW_HD int64_t padded_stride(int64_t channels, int64_t value_bytes) {
  const int64_t line = 64 / value_bytes, lines = (channels + line - 1) / line;
  return (lines + (lines > 1 && lines % 2 == 0 ? 1 : 0)) * line;
}

/// Hidden activations of at least so many pixels may lie in panels: all pixels of a cache line of channels,
/// then those of the next. Rows of a panel, some more than pixels, so that lines of one pixel do not fall
/// into few sets of a cache.
constexpr int64_t kPanelPixels = 256;
EVENFLOW_HD int64_t panel_rows(int64_t pixels) {
  return (pixels + 63) / 64 * 64 + 16;
}
EVENFLOW_HD int64_t panels_size(int64_t channels, int64_t pixels, int64_t value_bytes) {
  const int64_t line = 64 / value_bytes;
  return (channels + line - 1) / line * line * panel_rows(pixels);
}

/// Values of a hidden activation, in rows or panels.
EVENFLOW_HD int64_t hidden_size(int64_t channels, int64_t pixels, int64_t value_bytes) {
  const int64_t rows = pixels * padded_stride(channels, value_bytes),
                panels = pixels < kPanelPixels ? 0 : panels_size(channels, pixels, value_bytes);
  return panels < rows ? rows : panels;
}

/// Of all those of a chain.
template <class T>
EVENFLOW_HD int64_t hidden_size(const StackUnit<T>* units, int count, int64_t pixels, int64_t value_bytes) {
  int64_t size = 0;
  for (int u = 0; u + 1 < count; ++u) size += hidden_size(units[u].dims.cout, pixels, value_bytes);
  return size;
}

/// Of a 1x1 convolution by W = P L U (Glow, section 3.2). L has ones on its diagonal, U sign * exp(logs). Row
/// i of W is row permutation[i] of L U.
template <class T>
struct LuParameters {
  const T* lower;        ///< (n, n); what is below the diagonal is read
  const T* upper;        ///< (n, n); what is above it
  const T* logs;         ///< (n)
  const T* sign;         ///< (n)
  const T* permutation;  ///< (n)
};
template <class T>
struct LuParameterGradients {
  T* lower;
  T* upper;
  T* logs;
};

/// Ends of some columns. Plain data, so that they are a kernel's argument.
template <class T>
struct ColumnBounds {
  static constexpr int kMost = 32;
  T low[kMost];        ///< -infinity: open
  T high[kMost];       ///< infinity: open
  T log_width[kMost];  ///< log(high - low); 0 where an end is open
};

/// avx512_bf16 and amx differ from avx512 in products of bfloat16 numbers alone. best: the fastest of this
/// machine.
enum class IsaLevel { baseline, avx2, avx512, avx512_bf16, amx, best };

template <class T>
class KernelSet {
 public:
  virtual ~KernelSet();
  virtual const char* isa() const = 0;

  // Convolutions and dense layers.
  virtual void conv_forward(Context&, const ConvDims&, View<const T> x, const T* w, const Epilogue<T>&,
                            View<T> y) const = 0;
  /// dx = conv^T(dy), or += with accumulate.
  virtual void conv_backward_data(Context&, const ConvDims&, View<const T> dy, const T* w, View<T> dx,
                                  bool accumulate) const = 0;
  /// dw += x^T dy over all pixels, in an order that does not depend on the thread count.
  virtual void conv_backward_weights(Context&, const ConvDims&, View<const T> x, View<const T> dy,
                                     T* dw) const = 0;
  /// The chain of `count` units from x to h. acts: hidden activations, hidden_size() values of T, or of
  /// bfloat16 if `half` (float32 only); null: not kept. Weights are rounded to bfloat16 too.
  virtual void stack_forward(Context&, const StackUnit<T>* units, int count, bool half, View<const T> x,
                             void* acts, View<T> h) const = 0;
  /// Gradients of the chain: dh is overwritten, dx += unless null.
  virtual void stack_backward(Context&, const StackUnit<T>* units, int count, bool half, View<const T> x,
                              const void* acts, View<const T> h, View<T> dh, View<T> dx) const = 0;
  /// dy becomes the gradient of the bare convolution; dbias +=, dlogs += factor * d loss / d log scale
  /// (either may be null).
  virtual void epilogue_backward(Context&, View<const T> y, View<T> dy, const Epilogue<T>&, T* dbias,
                                 T* dlogs, T factor) const = 0;

  // Channel-wise maps on pixels with (i + j) % 2 == parity (-1: all); other pixels pass.
  virtual void channel_forward(Context&, int parity, View<const T> x, const T* shift, const T* scale,
                               View<T> y) const = 0;
  virtual void channel_inverse(Context&, int parity, View<const T> y, const T* shift, const T* scale,
                               View<T> x) const = 0;
  /// sums (2, C): dx, dz * z over active pixels.
  virtual void channel_backward(Context&, int parity, View<const T> z, View<const T> dz, const T* shift,
                                const T* scale, View<T> x, View<T> dx, double* sums) const = 0;
  /// Biased moments over all pixels of the masked array, zeros included.
  virtual void moments(Context&, int parity, View<const T> x, T* mean, T* var) const = 0;
  /// sums (2, C): dy, dy * y over active pixels.
  virtual void batch_norm_sums(Context&, int parity, View<const T> y, View<const T> dy,
                               double* sums) const = 0;
  virtual void batch_norm_backward(Context&, int parity, View<const T> y, View<const T> dy, const T* shift,
                                   const T* scale, const T* mean_dy, const T* mean_dyy, View<T> x,
                                   View<T> dx) const = 0;

  virtual const CouplingKernels<T>& coupling() const = 0;

  // A few numbers: coefficients, gradients from sums, log-determinants; see ops/small.hpp.
  virtual void fill(Context&, int64_t n, T value, T* x) const = 0;
  void zero(Context& ctx, int64_t n, T* x) const { fill(ctx, n, T(0), x); }
  virtual void fill_doubles(Context&, int64_t n, double value, double* x) const = 0;
  virtual void scale_doubles(Context&, int64_t n, double factor, const double* x, double* y) const = 0;
  /// x (n, d) contiguous: row i *= factors[i].
  virtual void scale_rows(Context&, int64_t n, int64_t d, const double* factors, T* x) const = 0;
  /// x (n) += factor * total[0], in both.
  virtual void add_total(Context&, int64_t n, double factor, const double* total, double* x) const = 0;
  virtual void add_parameter(Context&, int64_t n, double factor, const T* total, double* x) const = 0;
  virtual void sum_doubles(Context&, int64_t n, const double* x, double* out) const = 0;
  /// out (n) += factor * sums.
  virtual void add_sums(Context&, int64_t n, double factor, const double* sums, T* out) const = 0;
  virtual void exp_scale(Context&, int64_t n, T factor, const T* logs, T* scale) const = 0;
  /// shift, scale, log_scale (n) of y = (x + shift) * scale: from bias (null: 0) and logs, log scale = factor
  /// * logs; from mean and standard deviation; from mean and variance + eps.
  virtual void log_scale_coefficients(Context&, int64_t n, const T* bias, const T* logs, double factor,
                                      T* shift, T* scale, double* log_scale) const = 0;
  virtual void standard_coefficients(Context&, int64_t n, const T* mean, const T* std, T* shift, T* scale,
                                     double* log_scale) const = 0;
  virtual void moment_coefficients(Context&, int64_t n, const T* mean, const T* var, double eps, T* shift,
                                   T* scale, double* log_scale) const = 0;
  /// From channel_backward's sums (2, n): dbias (or null) and dlogs +=, dlogdet (1) the sum over samples.
  virtual void channel_gradients(Context&, int64_t n, const double* sums, const double* dlogdet,
                                 double pixels, double factor, T* dbias, T* dlogs) const = 0;
  /// means (2, n) = sums / pixels; the second row's sums with active * dlogdet[0] more, unless that is null.
  virtual void norm_means(Context&, int64_t n, const double* sums, const double* dlogdet, double active,
                          double pixels, T* means) const = 0;

  // Matrices of 1x1 convolutions, in float64 inside; see ops/lu.hpp.
  /// w (n, n), log_det (1) = log |det w|; inverse (n, n) unless null.
  virtual void lu_matrix(Context&, int64_t n, const LuParameters<T>&, T* w, T* inverse,
                         double* log_det) const = 0;
  /// The gradients' lower, upper and logs += from dw (n, n), and from dlogdet (1) the sum over samples.
  virtual void lu_gradients(Context&, int64_t n, const LuParameters<T>&, const T* dw, const double* dlogdet,
                            double pixels, const LuParameterGradients<T>&) const = 0;
  /// log_det (1) = log |det w|, -infinity for a singular w (n, n). Unless null, both: exact (n, n) = w^-1,
  /// and inverse, rounded from it.
  virtual void plain_matrix(Context&, int64_t n, const T* w, T* inverse, double* exact,
                            double* log_det) const = 0;
  /// out (n, n) += from dw and exact, (n, n), and from dlogdet (1) the sum over samples.
  virtual void plain_gradients(Context&, int64_t n, const T* dw, const double* exact, const double* dlogdet,
                               double pixels, T* out) const = 0;

  // The top prior and the class head; see ops/prior.hpp. Labels lie on the device.
  /// edge (h * w, channels) of one image.
  virtual void prior_edge(Context&, const Shape& image, int64_t channels, const T* weight, const T* bias,
                          const T* logs, T* edge) const = 0;
  /// h: (n, height, width, channels), contiguous; edge and labels may be null.
  virtual void prior_statistics(Context&, const T* edge, const int32_t* labels, const T* weight,
                                const T* bias, const T* logs, View<T> h) const = 0;
  /// dweight (3, 3, channels), dbias, dlogs (channels) +=.
  virtual void prior_edge_gradients(Context&, View<const T> dh, const T* edge, const T* logs, T* dweight,
                                    T* dbias, T* dlogs) const = 0;
  /// dweight (classes, channels), dbias, dlogs (channels) +=.
  virtual void prior_class_gradients(Context&, View<const T> dh, const int32_t* labels, const T* weight,
                                     const T* bias, const T* logs, T* dweight, T* dbias, T* dlogs) const = 0;
  /// pooled (n, c), raw and logp (n, classes).
  virtual void head_log_prob(Context&, View<const T> x, int64_t classes, const T* weight, const T* bias,
                             const T* logs, double* pooled, double* raw, double* logp) const = 0;
  /// results (2): sum of losses, wrong predictions, samples by their weights (n, null: 1). Gradients of
  /// factor * losses: dweight (channels, classes), dbias, dlogs (classes), dx +=.
  virtual void head_backward(Context&, int64_t classes, const int32_t* labels, const double* sample_weight,
                             const T* weight, const T* logs, double factor, const double* pooled,
                             const double* raw, const double* logp, T* dweight, T* dbias, T* dlogs,
                             View<T> dx, double* results) const = 0;

  // Inside conditioners.
  virtual void norm_relu(Context&, View<const T> x, const T* shift, const T* scale, const T* beta, bool relu,
                         View<T> y) const = 0;
  /// dy becomes dv, v before ReLU; sums (2, C): dv, dv * normalised x.
  virtual void norm_relu_sums(Context&, View<const T> x, const T* shift, const T* scale, const T* beta,
                              bool relu, View<T> dy, double* sums) const = 0;
  /// dx += scale (dv - mean_dv - normalised x * mean_dvn).
  virtual void norm_relu_backward(Context&, View<const T> x, const T* shift, const T* scale, const T* mean_dv,
                                  const T* mean_dvn, View<const T> dv, View<T> dx) const = 0;
  /// y = relu([gain x, -gain x]), and the mask channel for parity >= 0.
  virtual void concat_relu(Context&, View<const T> x, T gain, int parity, View<T> y) const = 0;
  virtual void concat_relu_backward(Context&, View<const T> y, View<const T> dy, T gain,
                                    View<T> dx) const = 0;
  /// y = x on pixels of that parity, 0 elsewhere; or y +=.
  virtual void mask_pixels(Context&, View<const T> x, int parity, bool accumulate, View<T> y) const = 0;
  /// w = v / |v| * g per column of (rows, cols), |.| over rows; g null: 1. norms (cols) are written.
  virtual void weight_norm(Context&, int64_t rows, int64_t cols, const T* v, const T* g, T* norms,
                           T* w) const = 0;
  /// dv (rows, cols), dg (cols) +=; g and dg may be null.
  virtual void weight_norm_backward(Context&, int64_t rows, int64_t cols, const T* v, const T* g,
                                    const T* norms, const T* dw, T* dv, T* dg) const = 0;

  // Data movement. Shapes are equal, strides may differ.
  virtual void copy(Context&, View<const T> x, View<T> y) const = 0;
  virtual void add(Context&, View<const T> x, View<T> y) const = 0;  ///< y += x
  /// y (n, 1, 1, c) += sums over the pixels of x (n, h, w, c).
  virtual void add_pixel_sums(Context&, View<const T> x, View<T> y) const = 0;
  /// n blocks of (h * w, c) values, `from_step` and `to_step` values from one block to the next. A stride of
  /// 0 in `from` repeats one pixel.
  virtual void copy_blocks(Context&, View<const T> from, int64_t from_step, View<T> to,
                           int64_t to_step) const = 0;
  /// order (n) of gather_channels from a stored permutation, or from its inverse; -1 somewhere where that is
  /// none.
  virtual void channel_order(Context&, int64_t n, const T* stored, bool inverse, int32_t* order) const = 0;
  /// The same that puts the even ones of n channels first, or the way back with inverse.
  virtual void tile_order(Context&, int64_t n, bool inverse, int32_t* order) const = 0;
  /// y[., c] = x[., order[c]], NaN for -1.
  virtual void gather_channels(Context&, View<const T> x, const int32_t* order, View<T> y) const = 0;
  /// x (n, h, w, c) -> y (n, h/2, w/2, 4c), or the way back with inverse.
  virtual void squeeze(Context&, bool diagonal, bool inverse, View<const T> x, View<T> y) const = 0;

  // Preprocessing. logdet (n) +=.
  virtual void logit_forward(Context&, View<const T> x, View<T> y, double* logdet) const = 0;
  virtual void logit_inverse(Context&, View<const T> y, View<T> x, double* logdet) const = 0;
  virtual void logit_backward(Context&, View<const T> y, View<const T> dy, const double* dlogdet, View<T> x,
                              View<T> dx) const = 0;
  /// dz = (dx - bend) / slope; bend, slope contiguous.
  virtual void logit_pull(Context&, View<const T> dx, const T* bend, const T* slope, View<T> dz) const = 0;
  /// Columns x within bounds, kMost at most, to columns y without, or the way back with inverse; see
  /// ops/bounds.hpp. Of an x that lies outside, y and logdet are NaN.
  virtual void bounds_map(Context&, const ColumnBounds<T>&, bool inverse, View<const T> from, View<T> to,
                          double* logdet) const = 0;
  /// From y and the gradient there, x and that by x; or with inverse, from y and the gradient by x, both by
  /// inverse's outputs, that by y. x may be null.
  virtual void bounds_backward(Context&, const ColumnBounds<T>&, bool inverse, View<const T> y,
                               View<const T> from, const double* dlogdet, View<T> x, View<T> to) const = 0;
  /// x, out (n, count): floor(x / 2^(8 - bits)), plus noise for sample first + i unless noise is false.
  virtual void dequantize(Context&, int64_t n, int64_t count, const uint8_t* x, int bits, bool noise,
                          uint64_t seed, uint64_t first, T* out) const = 0;

  // Base distributions.
  /// out (n) += log p0(z); dz = scale * d log p0 / dz unless null. z (n, d) contiguous.
  virtual void base_log_prob(Context&, Base, int64_t n, int64_t d, const T* z, T scale, T* dz,
                             double* out) const = 0;
  /// out (n, d) = scale * draws; row i is sample first + i.
  virtual void base_sample(Context&, Base, int64_t n, int64_t d, T scale, uint64_t seed, uint64_t first,
                           T* out) const = 0;

  // Judging results.
  /// out (1): how many values are not finite.
  virtual void count_not_finite(Context&, View<const T> x, double* out) const = 0;
  /// out (2): max |a - b|, infinite if a is not finite, and max |b|; see relative_distance().
  virtual void distance(Context&, View<const T> a, View<const T> b, double* out) const = 0;

  // The flat arena.
  /// out (1).
  virtual void sum_squares(Context&, int64_t n, const T* x, double* out) const = 0;
  virtual void scale(Context&, int64_t n, T factor, T* x) const = 0;
  /// average += rate (x - average).
  virtual void average(Context&, int64_t n, const T* x, T rate, T* average) const = 0;
  /// One update of n values; m and v as Optimizer::moments orders them; lr includes any bias correction.
  virtual void optimizer_step(Context&, const OptimizerConfig&, int64_t n, int64_t decay_size, double lr,
                              const T* g, T* m, T* v, T* w) const = 0;
};

/// max |a - b| / max(1, max |b|) from what KernelSet::distance found.
EVENFLOW_HD double relative_distance(const double* found) {
  return found[0] / (found[1] > 1 ? found[1] : 1);
}

/// The kernels of this process for a level that the machine has.
template <class T>
const KernelSet<T>& cpu_kernels(IsaLevel level);

/// The fastest level not above `wanted` that this machine has; see choose_isa().
IsaLevel best_isa(IsaLevel wanted);

}  // namespace evenflow
