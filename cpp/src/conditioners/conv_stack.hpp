#pragma once

#include <string>
#include <type_traits>

#include "conditioners/conv_unit.hpp"
#include "evenflow/error.hpp"

namespace evenflow {

/// A chain of units without weight norm. `acts` holds the outputs of all but the last.
template <class T>
class ConvStack : public Conditioner<T> {
 public:
  struct Unit {
    std::string name;
    ConvUnitConfig config;
  };

  ConvStack(Shape in, int64_t out_channels, const std::vector<Unit>& units, NetDtype dtype)
      : Conditioner<T>(in, out_channels), half_(dtype == NetDtype::bfloat16) {
    if (half_ && !std::is_same<T, float>::value) {
      fail<ConfigError>("conditioner", "expected bfloat16 inside a float32 model, got a float64 model");
    }
    for (const Unit& unit : units) {
      names_.push_back(unit.name);
      units_.emplace_back(unit.config);
    }
  }

  void declare(const Scope& scope) override {
    for (size_t u = 0; u < units_.size(); ++u) units_[u].declare(scope / names_[u], true);
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
    const int64_t value = half_ ? 2 : sizeof(T);
    int64_t bytes = 0;
    for (size_t u = 0; u + 1 < units_.size(); ++u) {
      bytes += value * hidden_size(units_[u].config().cout, units_[u].output_shape(n).pixels(), value);
    }
    return bytes / static_cast<int64_t>(sizeof(T));  // rows are whole cache lines
  }

  void forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> h, T* acts) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    ctx.kernels<T>().stack_forward(ctx, stack(ctx, scope, host, params, x.shape.n),
                                   static_cast<int>(units_.size()), half_, x, acts, h);
  }

  void backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> h, T* acts, View<T> dh,
                View<T> dx) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    ctx.kernels<T>().stack_backward(ctx, stack(ctx, scope, host, params, x.shape.n),
                                    static_cast<int>(units_.size()), half_, x, acts, h, dh, dx);
  }

 protected:
  const std::vector<ConvUnit<T>>& units() const { return units_; }

 private:
  /// The list is the program's, what it points to the device's.
  const StackUnit<T>* stack(Context& ctx, WorkspaceScope& scope, HostScope& host, const Params<T>& params,
                            int64_t n) const {
    StackUnit<T>* stack = host.take<StackUnit<T>>(static_cast<int64_t>(units_.size()));
    for (size_t u = 0; u < units_.size(); ++u) {
      units_[u].describe(ctx, scope, params, n, *new (&stack[u]) StackUnit<T>());
    }
    return stack;
  }

  bool half_;
  std::vector<std::string> names_;
  std::vector<ConvUnit<T>> units_;
};

}  // namespace evenflow
