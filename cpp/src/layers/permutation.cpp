#include <algorithm>
#include <limits>
#include <vector>

#include "evenflow/error.hpp"
#include "layers/movement.hpp"
#include "layers/order.hpp"

namespace evenflow {
namespace {

template <class T>
class Permutation final : public Movement<T> {
 public:
  Permutation(Shape in, Order order) : Movement<T>("permutation", in, in), order_(order) {
    constexpr int64_t most = int64_t{1} << std::numeric_limits<T>::digits;  // indices are stored as T
    if (in.c > most) fail<ConfigError>("permutation", "expected channels <= ", most, ", got ", in.c);
  }

  void declare(const Scope& scope) override {
    name_ = scope.prefix();
    order_id_ = scope.add("permutation", {this->input_shape().c}, Group::fixed);
  }

  void init(ParamArena<T>& arena, Rng& rng) const override {
    const int64_t n = this->input_shape().c;
    T* order = arena.value(order_id_);
    for (int64_t c = 0; c < n; ++c) {
      const int64_t evens = (n + 1) / 2;
      const int64_t even_first = c < evens ? 2 * c : 2 * (c - evens) + 1;
      order[c] = static_cast<T>(order_ == Order::reverse      ? n - 1 - c
                                : order_ == Order::even_first ? even_first
                                                              : c);
    }
    if (order_ != Order::shuffle) return;
    for (int64_t c = n - 1; c > 0; --c) std::swap(order[c], order[rng.below(c + 1)]);
  }

  void check_parameters(const ParamArena<T>& arena) const override {
    const int64_t n = this->input_shape().c;
    std::vector<int32_t> order(static_cast<size_t>(n));
    invert_order(name_, arena.value(order_id_), n, order.data());
  }

  void check_values(Context& ctx, const Params<T>& params) const override {
    const int64_t n = this->input_shape().c;
    HostScope host(ctx);
    invert_order(name_, host.read(params.value(order_id_), n), n, host.take<int32_t>(n));
  }

 private:
  // z[c] = x[order[c]], or its inverse.
  void move(Context& ctx, const Params<T>& params, bool back, View<const T> in, View<T> out) const override {
    const int64_t n = in.shape.c;
    WorkspaceScope scope(ctx);
    int32_t* order = scope.take<int32_t>(n);
    ctx.kernels<T>().mixing.channel_order(ctx, n, params.value(order_id_), back, order);
    if (ctx.on_host() && std::find(order, order + n, -1) != order + n) check_values(ctx, params);
    ctx.kernels<T>().mixing.gather_channels(ctx, in, order, out);
  }

  Order order_;
  std::string name_;
  ParamId order_id_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> permutation(Shape in, Order order) {
  return std::make_unique<Permutation<T>>(in, order);
}

template std::unique_ptr<Layer<float>> permutation<float>(Shape, Order);
template std::unique_ptr<Layer<double>> permutation<double>(Shape, Order);

}  // namespace evenflow
