#include "evenflow/error.hpp"
#include "layers/movement.hpp"

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

template <class T>
class Squeeze final : public Movement<T> {
 public:
  Squeeze(Shape in, SqueezeOrder order, bool reversed)
      : Movement<T>(reversed ? "unsqueeze" : "squeeze", in, reversed ? unsqueezed(in) : squeezed(in)),
        diagonal_(order == SqueezeOrder::diagonal),
        reversed_(reversed) {}

 private:
  void move(Context& ctx, const Params<T>&, bool back, View<const T> from, View<T> to) const override {
    ctx.kernels<T>().mixing.squeeze(ctx, diagonal_, back != reversed_, from, to);
  }

  bool diagonal_;
  bool reversed_;
};

template <class T>
class Flatten final : public Movement<T> {
 public:
  explicit Flatten(Shape in) : Movement<T>("flatten", in, {0, 1, 1, in.per_sample()}) {}

 private:
  // Pixels and rows of an image are equally spaced, but with different strides.
  void move(Context& ctx, const Params<T>&, bool back, View<const T> from, View<T> to) const override {
    const Shape image = this->input_shape().with_batch(from.shape.n);
    const int64_t pixels = image.pixels_per_sample();
    if (!back) {
      ctx.kernels<T>().move.copy_blocks(ctx, View<const T>(from.data, image, from.stride),
                                        pixels * from.stride, View<T>(to.data, image), to.stride);
    } else {
      ctx.kernels<T>().move.copy_blocks(ctx, View<const T>(from.data, image), from.stride,
                                        View<T>(to.data, image, to.stride), pixels * to.stride);
    }
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
