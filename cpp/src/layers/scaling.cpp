#include "layers/channel_scale.hpp"

namespace evenflow {
namespace {

template <class T>
class Scaling final : public ChannelScale<T> {
 public:
  explicit Scaling(Shape in) : ChannelScale<T>("scaling", in) {}

  void declare(const Scope& scope) override {
    logs_ = scope.add("logs", {this->channels()}, Group::no_decay);
  }

 private:
  double coefficients(const Params<T>& params, T* shift, T* scale) const override {
    const T* logs = params.value(logs_);
    double total = 0;
    for (int64_t c = 0; c < this->channels(); ++c) {
      shift[c] = T(0);
      scale[c] = std::exp(logs[c]);
      total += logs[c];
    }
    return total;
  }

  void add_gradients(const Params<T>& params, const double* sums, double dlogdet_pixels) const override {
    for (int64_t c = 0; c < this->channels(); ++c) {
      params.grad(logs_)[c] += static_cast<T>(sums[this->channels() + c] + dlogdet_pixels);
    }
  }

  ParamId logs_ = 0;
};

template <class T>
class Rescale final : public ChannelScale<T> {
 public:
  Rescale(Shape in, double offset, double width)
      : ChannelScale<T>("rescale", in), offset_(offset), width_(width) {}

 private:
  double coefficients(const Params<T>&, T* shift, T* scale) const override {
    for (int64_t c = 0; c < this->channels(); ++c) {
      shift[c] = static_cast<T>(-offset_);
      scale[c] = static_cast<T>(1 / width_);
    }
    return -static_cast<double>(this->channels()) * std::log(width_);
  }

  double offset_;
  double width_;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> scaling(Shape in) {
  return std::make_unique<Scaling<T>>(in);
}

template <class T>
std::unique_ptr<Layer<T>> rescale(Shape in, double offset, double width) {
  return std::make_unique<Rescale<T>>(in, offset, width);
}

template std::unique_ptr<Layer<float>> scaling<float>(Shape);
template std::unique_ptr<Layer<double>> scaling<double>(Shape);
template std::unique_ptr<Layer<float>> rescale<float>(Shape, double, double);
template std::unique_ptr<Layer<double>> rescale<double>(Shape, double, double);

}  // namespace evenflow
