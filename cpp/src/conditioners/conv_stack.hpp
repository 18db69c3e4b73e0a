#pragma once

#include <string>

#include "conditioners/conv_unit.hpp"

namespace evenflow {

/// A chain of units. `acts` holds the outputs of all but the last.
template <class T>
class ConvStack : public Conditioner<T> {
 public:
  struct Unit {
    std::string name;
    ConvUnitConfig config;
  };

  ConvStack(Shape in, int64_t out_channels, const std::vector<Unit>& units)
      : Conditioner<T>(in, out_channels) {
    for (const Unit& unit : units) {
      names_.push_back(unit.name);
      units_.emplace_back(unit.config);
    }
  }

  void declare(const Scope& scope) override {
    for (size_t u = 0; u < units_.size(); ++u) units_[u].declare(scope / names_[u]);
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    bool any = false;
    for (const ConvUnit<T>& unit : units_) any = any || unit.config().actnorm;
    if (!any) return;
    WorkspaceScope scope(ctx);
    for (const ConvUnit<T>& unit : units_) {
      if (unit.config().actnorm) unit.init_actnorm_from(ctx, arena, x);
      View<T> y(scope.take<T>(unit.output_size(x.shape.n)), unit.output_shape(x.shape.n));
      unit.forward(ctx, arena.params(), x, y);
      x = y;
    }
  }

  int64_t activation_size(int64_t n) const override {
    int64_t size = 0;
    for (size_t u = 0; u + 1 < units_.size(); ++u) size += units_[u].output_size(n);
    return size;
  }

  void forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> h, T* acts) const override {
    for (size_t u = 0; u + 1 < units_.size(); ++u) {
      View<T> y(acts, units_[u].output_shape(x.shape.n));
      units_[u].forward(ctx, params, x, y);
      acts += y.shape.size();
      x = y;
    }
    units_.back().forward(ctx, params, x, h);
  }

  void backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> h, T* acts, View<T> dh,
                View<T> dx) const override {
    const int64_t n = x.shape.n;
    WorkspaceScope scope(ctx);
    T* end = acts + activation_size(n);
    View<const T> y = h;
    View<T> dy = dh;
    for (size_t u = units_.size(); u-- > 0;) {
      if (u == 0) {
        units_[0].backward(ctx, params, x, y, dy, dx, true);
        return;
      }
      end -= units_[u - 1].output_size(n);
      const View<const T> input(end, units_[u - 1].output_shape(n));
      View<T> dinput(scope.take<T>(input.shape.size()), input.shape);
      units_[u].backward(ctx, params, input, y, dy, dinput, false);
      y = input;
      dy = dinput;
    }
  }

 protected:
  const std::vector<ConvUnit<T>>& units() const { return units_; }

 private:
  std::vector<std::string> names_;
  std::vector<ConvUnit<T>> units_;
};

}  // namespace evenflow
