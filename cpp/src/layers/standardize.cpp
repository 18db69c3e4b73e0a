#include "evenflow/error.hpp"
#include "layers/channel_scale.hpp"
#include "layers/init_actnorm.hpp"

namespace evenflow {
namespace {

template <class T>
class Standardize final : public ChannelScale<T> {
 public:
  explicit Standardize(Shape in) : ChannelScale<T>("standardize", in) {}

  void declare(const Scope& scope) override {
    name_ = scope.prefix();
    mean_ = scope.add("mean", {this->channels()}, Group::fixed);
    std_ = scope.add("std", {this->channels()}, Group::fixed);
  }

  void init(ParamArena<T>& arena, Rng&) const override {
    for (int64_t c = 0; c < this->channels(); ++c) arena.value(std_)[c] = T(1);
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    WorkspaceScope scope(ctx);
    const int64_t n = this->channels();
    T* mean = scope.take<T>(n);
    T* var = scope.take<T>(n);
    ctx.kernels<T>().moments(ctx, -1, x, mean, var);
    for (int64_t c = 0; c < n; ++c) {
      if (!std::isfinite(mean[c]) || !std::isfinite(var[c]) || !varies(mean[c], var[c])) {
        fail<NumericError>(name_, "expected a finite, varying column, got mean ", mean[c], ", variance ",
                           var[c], " in column ", c);
      }
    }
    for (int64_t c = 0; c < n; ++c) {
      arena.value(mean_)[c] = mean[c];
      arena.value(std_)[c] = std::sqrt(var[c]);
    }
  }

 private:
  double coefficients(const Params<T>& params, T* shift, T* scale) const override {
    double total = 0;
    for (int64_t c = 0; c < this->channels(); ++c) {
      shift[c] = -params.value(mean_)[c];
      scale[c] = T(1) / params.value(std_)[c];
      total -= std::log(static_cast<double>(params.value(std_)[c]));
    }
    return total;
  }

  std::string name_;
  ParamId mean_ = 0;
  ParamId std_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> standardize(Shape in) {
  return std::make_unique<Standardize<T>>(in);
}

template std::unique_ptr<Layer<float>> standardize<float>(Shape);
template std::unique_ptr<Layer<double>> standardize<double>(Shape);

}  // namespace evenflow
