#pragma once

#include "evenflow/context.hpp"
#include "evenflow/params.hpp"
#include "evenflow/types.hpp"
#include "kernels/ops/inline.hpp"

namespace evenflow {

/// A convolution or dense layer: stride 1, same padding, NHWC. Weights are (k, k, cin + edge, cout).
struct ConvDims {
  Shape in;  ///< (n, h, w, cin)
  int64_t cout = 0;
  int kernel = 1;     ///< 1 or 3
  bool edge = false;  ///< each tap's last row of weights is for a channel that is 1 outside of the image

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

/// One convolution of a chain, and where its gradients go: null where there is no such parameter, and all
/// null, in all units, if only the gradient by x is wanted. Gradients are added, but dw is stored where
/// `overwrite`.
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

/// How many values of `value_bytes` a net sets aside to keep a hidden unit's activations. The kernels choose
/// how they lie there.
int64_t activation_values(int64_t channels, int64_t pixels, int64_t value_bytes);

/// The same for all hidden units of a chain.
template <class T>
EVENFLOW_INLINE int64_t activation_values(const StackUnit<T>* units, int count, int64_t pixels,
                                          int64_t value_bytes) {
  int64_t values = 0;
  for (int u = 0; u + 1 < count; ++u) {
    values += activation_values(units[u].dims.cout, pixels, value_bytes);
  }
  return values;
}

/// What conditioners are made of. Products with pixels are nearly all the arithmetic of a model.
template <class T>
class NetKernels {
 public:
  // Convolutions and dense layers.
  virtual void conv_forward(Context&, const ConvDims&, View<const T> x, const T* w, const Epilogue<T>&,
                            View<T> y) const = 0;
  /// dx = conv^T(dy), or += with accumulate.
  virtual void conv_backward_data(Context&, const ConvDims&, View<const T> dy, const T* w, View<T> dx,
                                  bool accumulate) const = 0;
  /// dw += x^T dy over all pixels, in an order that does not depend on the thread count.
  virtual void conv_backward_weights(Context&, const ConvDims&, View<const T> x, View<const T> dy,
                                     T* dw) const = 0;
  /// The chain of `count` units from x to h. acts receives the hidden activations, activation_values() of T,
  /// or with `bf16` of bfloat16 (float32 only), to which weights are rounded too. Null: they are not kept.
  virtual void stack_forward(Context&, const StackUnit<T>* units, int count, bool bf16, View<const T> x,
                             void* acts, View<T> h) const = 0;
  /// The chain's gradients. dh is overwritten; dx += unless null.
  virtual void stack_backward(Context&, const StackUnit<T>* units, int count, bool bf16, View<const T> x,
                              const void* acts, View<const T> h, View<T> dh, View<T> dx) const = 0;
  /// dy becomes the gradient of the bare convolution. dbias +=, dlogs += factor * d loss / d log scale;
  /// either may be null.
  virtual void epilogue_backward(Context&, View<const T> y, View<T> dy, const Epilogue<T>&, T* dbias,
                                 T* dlogs, T factor) const = 0;

  // Batch norm inside nets, with or without ReLU.
  virtual void norm_relu(Context&, View<const T> x, const T* shift, const T* scale, const T* beta, bool relu,
                         View<T> y) const = 0;
  /// dy becomes dv, the gradient before ReLU; sums (2, C): dv, dv * normalised x.
  virtual void norm_relu_sums(Context&, View<const T> x, const T* shift, const T* scale, const T* beta,
                              bool relu, View<T> dy, double* sums) const = 0;
  /// dx += scale (dv - mean_dv - normalised x * mean_dvn).
  virtual void norm_relu_backward(Context&, View<const T> x, const T* shift, const T* scale, const T* mean_dv,
                                  const T* mean_dvn, View<const T> dv, View<T> dx) const = 0;

  // Units of dense nets, and gates of residual blocks.
  /// y = f(x), where y may be x.
  virtual void activate(Context&, Activation f, View<const T> x, View<T> y) const = 0;
  /// dx = dy f'(x), where dx may be dy; or dx +=. at: f(x), or x for silu.
  virtual void activate_backward(Context&, Activation f, View<const T> at, View<const T> dy, View<T> dx,
                                 bool accumulate) const = 0;
  /// y = x times a random mask of 0 and 1 / (1 - p), or y +=. A value is 0 with probability p, rounded to a
  /// multiple of 2^-16. The mask depends on masks, stream, the row's number in its batch and the column.
  virtual void dropout(Context&, double p, const MaskSeed* masks, uint32_t stream, int64_t first_row,
                       View<const T> x, View<T> y, bool accumulate) const = 0;
  /// y *= sigmoid(s).
  virtual void gate(Context&, View<const T> s, View<T> y) const = 0;
  /// From the gate's y: ds += its gradient, and dy becomes that of what y was before.
  virtual void gate_backward(Context&, View<const T> s, View<const T> y, View<T> dy, View<T> ds) const = 0;

  /// y = relu([gain x, -gain x]), and one more channel for parity >= 0: 1 on the pixels of that parity.
  virtual void concat_relu(Context&, View<const T> x, T gain, int parity, View<T> y) const = 0;
  virtual void concat_relu_backward(Context&, View<const T> y, View<const T> dy, T gain,
                                    View<T> dx) const = 0;

  /// w = v / |v| * g for each column of v (rows, cols); g null: 1. norms (cols) are written.
  virtual void weight_norm(Context&, int64_t rows, int64_t cols, const T* v, const T* g, T* norms,
                           T* w) const = 0;
  /// dv (rows, cols), dg (cols) +=; g and dg may be null.
  virtual void weight_norm_backward(Context&, int64_t rows, int64_t cols, const T* v, const T* g,
                                    const T* norms, const T* dw, T* dv, T* dg) const = 0;

 protected:
  ~NetKernels() = default;
};

}  // namespace evenflow
