#include "evenflow/error.hpp"
#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

Shape squeezed(const Shape& in) {
  if (in.h % 2 || in.w % 2) {
    fail<ShapeError>("squeeze", "expected even height and width, got ", in.h, " x ", in.w);
  }
  return {in.n, in.h / 2, in.w / 2, 4 * in.c};
}

Shape unsqueezed(const Shape& in) {
  if (in.c % 4) fail<ShapeError>("unsqueeze", "expected a multiple of 4 channels, got ", in.c);
  return {in.n, 2 * in.h, 2 * in.w, in.c / 4};
}

/// Only moves values: backward applies the inverse movement to values and gradients.
template <class T>
class Squeeze final : public Layer<T> {
 public:
  Squeeze(Shape in, SqueezeOrder order, bool reversed)
      : Layer<T>(reversed ? "unsqueeze" : "squeeze", in, reversed ? unsqueezed(in) : squeezed(in), false),
        diagonal_(order == SqueezeOrder::diagonal),
        reversed_(reversed) {}

 private:
  void do_forward(Context& ctx, const Params<T>&, View<const T> x, View<T> z, double*) const override {
    ctx.kernels<T>().mixing.squeeze(ctx, diagonal_, reversed_, x, z);
  }
  void do_inverse(Context& ctx, const Params<T>&, View<const T> z, View<T> x, double*) const override {
    ctx.kernels<T>().mixing.squeeze(ctx, diagonal_, !reversed_, z, x);
  }
  void do_backward(Context& ctx, const Params<T>&, View<const T> z, View<const T> dz, const double*,
                   View<T> x, View<T> dx) const override {
    ctx.kernels<T>().mixing.squeeze(ctx, diagonal_, !reversed_, z, x);
    ctx.kernels<T>().mixing.squeeze(ctx, diagonal_, !reversed_, dz, dx);
  }
  void do_inverse_backward(Context& ctx, const Params<T>&, View<const T> x, View<const T> dx, const double*,
                           View<T> z, View<T> dz) const override {
    ctx.kernels<T>().mixing.squeeze(ctx, diagonal_, reversed_, x, z);
    ctx.kernels<T>().mixing.squeeze(ctx, diagonal_, reversed_, dx, dz);
  }

  bool diagonal_;
  bool reversed_;
};

template <class T>
class Flatten final : public Layer<T> {
 public:
  explicit Flatten(Shape in) : Layer<T>("flatten", in, {0, 1, 1, in.per_sample()}, false) {}

 private:
  // Pixels and rows of an image are equally spaced, but with different strides.
  void move(Context& ctx, View<const T> from, View<T> to) const {
    const Shape image = this->input_shape().with_batch(from.shape.n);
    const int64_t pixels = image.pixels_per_sample();
    if (to.shape.c == image.per_sample()) {
      ctx.kernels<T>().move.copy_blocks(ctx, View<const T>(from.data, image, from.stride),
                                        pixels * from.stride, View<T>(to.data, image), to.stride);
    } else {
      ctx.kernels<T>().move.copy_blocks(ctx, View<const T>(from.data, image), from.stride,
                                        View<T>(to.data, image, to.stride), pixels * to.stride);
    }
  }
  void do_forward(Context& ctx, const Params<T>&, View<const T> x, View<T> z, double*) const override {
    move(ctx, x, z);
  }
  void do_inverse(Context& ctx, const Params<T>&, View<const T> z, View<T> x, double*) const override {
    move(ctx, z, x);
  }
  void do_backward(Context& ctx, const Params<T>&, View<const T> z, View<const T> dz, const double*,
                   View<T> x, View<T> dx) const override {
    move(ctx, z, x);
    move(ctx, dz, dx);
  }
  void do_inverse_backward(Context& ctx, const Params<T>&, View<const T> x, View<const T> dx, const double*,
                           View<T> z, View<T> dz) const override {
    move(ctx, x, z);
    move(ctx, dx, dz);
  }
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> squeeze(Shape in, SqueezeOrder order) {
  return std::make_unique<Squeeze<T>>(in, order, false);
}

template <class T>
std::unique_ptr<Layer<T>> unsqueeze(Shape in, SqueezeOrder order) {
  return std::make_unique<Squeeze<T>>(in, order, true);
}

template <class T>
std::unique_ptr<Layer<T>> flatten(Shape in) {
  return std::make_unique<Flatten<T>>(in);
}

template std::unique_ptr<Layer<float>> squeeze<float>(Shape, SqueezeOrder);
template std::unique_ptr<Layer<double>> squeeze<double>(Shape, SqueezeOrder);
template std::unique_ptr<Layer<float>> unsqueeze<float>(Shape, SqueezeOrder);
template std::unique_ptr<Layer<double>> unsqueeze<double>(Shape, SqueezeOrder);
template std::unique_ptr<Layer<float>> flatten<float>(Shape);
template std::unique_ptr<Layer<double>> flatten<double>(Shape);

}  // namespace evenflow
