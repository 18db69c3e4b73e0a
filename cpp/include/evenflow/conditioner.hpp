#pragma once

#include <memory>
#include <vector>

#include "evenflow/layer.hpp"

namespace evenflow {

/// The net inside a coupling. It maps the part that passes unchanged to the law's parameters for the other
/// part. It need not be invertible, only deterministic: both directions call it with the same input.
template <class T>
class EVENFLOW_API Conditioner {
 public:
  virtual ~Conditioner();

  const Shape& input_shape() const { return in_; }  ///< n is 0
  int64_t out_channels() const { return out_channels_; }

  virtual void declare(const Scope&) = 0;
  virtual void init(ParamArena<T>&, Rng&) const = 0;
  virtual void init_from_data(Context&, ParamArena<T>&, View<const T>) const {}

  /// Size of `acts` for a batch of n, in values. `acts` stores the activations that backward needs.
  virtual int64_t activation_size(int64_t n) const = 0;
  /// Writes h (n, height, width, out_channels) and, unless it is null, acts.
  virtual void forward(Context&, const Params<T>&, View<const T> x, View<T> h, T* acts) const = 0;
  /// Adds to dx and to params.grads; overwrites acts and dh. `h` is forward's output.
  virtual void backward(Context&, const Params<T>&, View<const T> x, View<const T> h, T* acts, View<T> dh,
                        View<T> dx) const = 0;

 protected:
  Conditioner(Shape in, int64_t out_channels) : in_(in.with_batch(0)), out_channels_(out_channels) {}

 private:
  Shape in_;
  int64_t out_channels_;
};

/// Initial weights of an MLP.
enum class MlpInit {
  nice,  ///< weights U(-0.01, 0.01), zero biases (NICE's official code)
  /// Weights and biases U(-b, b) with b = 1 / sqrt(inputs). The last layer is zero, so the coupling starts as
  /// the identity. The ReLU units bend at different inputs; with He's normal weights and zero biases they
  /// would all bend at the mean. On tables of 8 to 12 columns this gains 0.07 to 0.25 nats a row
  /// (bench/results/README.md).
  uniform_zero
};

/// Arithmetic inside the nets of a float32 model. With bfloat16, weights and hidden activations are rounded
/// to bfloat16 and products are summed in float32; parameters and gradients stay float32. A coupling inverts
/// equally well with either, because both directions evaluate the same net.
enum class NetDtype { same, bfloat16 };

/// Dense net with a linear output; on images, the same net at every pixel. dropout: the share of hidden units
/// that a training step sets to 0.
template <class T>
EVENFLOW_API std::unique_ptr<Conditioner<T>> mlp(Shape in, int64_t out_channels,
                                                 const std::vector<int64_t>& hidden, MlpInit init,
                                                 NetDtype dtype = NetDtype::same,
                                                 Activation activation = Activation::relu,
                                                 double dropout = 0);

/// Residual net of dense layers (nflows' ResidualNet): pre-activation blocks of two layers, with a gate by
/// the context.
struct ResidualNetConfig {
  int64_t width = 64;
  int64_t blocks = 2;
  int64_t context = 0;  ///< trailing input channels that also gate every block
  Activation activation = Activation::relu;
  NetDtype dtype = NetDtype::same;
  double dropout = 0;  ///< between a block's two layers, as in mlp
};
template <class T>
EVENFLOW_API std::unique_ptr<Conditioner<T>> residual_net(Shape in, int64_t out_channels,
                                                          const ResidualNetConfig& config);

/// Glow's net: 3x3, ActNorm, ReLU, 1x1, ActNorm, ReLU, zero-initialised 3x3 with output scale exp(3 logs).
/// 3x3 kernels see an indicator channel that is 1 outside the image (Kingma and Dhariwal 2018, official
/// code).
template <class T>
EVENFLOW_API std::unique_ptr<Conditioner<T>> glow_net(Shape in, int64_t out_channels, int64_t width,
                                                      NetDtype dtype = NetDtype::same);

/// Glow's `conv2d_zeros` alone: the net of the split prior.
template <class T>
EVENFLOW_API std::unique_ptr<Conditioner<T>> zero_conv(Shape in, int64_t out_channels);

/// Real NVP's residual net (Dinh et al. 2016, official code).
struct ResNetConfig {
  int64_t width = 32;
  int64_t blocks = 2;  ///< 0: a plain net of two (bottleneck: three) convolutions
  bool bottleneck = false;
  bool skip = true;  ///< sum 1x1 convolutions of every block's output
  bool batch_norm = true;
  bool weight_norm = true;
  int checkerboard = -1;  ///< parity (i + j) % 2 of the pixels that condition; -1: all pixels (channel masks)
  int64_t context = 0;    ///< trailing input channels that the first batch norm skips
};
template <class T>
EVENFLOW_API std::unique_ptr<Conditioner<T>> res_net(Shape in, int64_t out_channels,
                                                     const ResNetConfig& config);

}  // namespace evenflow
