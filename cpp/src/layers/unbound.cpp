#include <algorithm>
#include <cmath>
#include <limits>

#include "core/numbers.hpp"
#include "evenflow/error.hpp"
#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

constexpr const char* kBounds = "bounds";

/// ConfigError if T cannot represent the bounds of column c, or no number between them.
template <class T>
void check_bounds(const Bounds& bounds, int64_t c) {
  const char* dtype = std::is_same<T, float>::value ? "float32" : "float64";
  if (!(bounds.low < bounds.high)) {
    fail<ConfigError>(kBounds, "expected a lower bound below the upper one, got ", exact_text(bounds.low),
                      " and ", exact_text(bounds.high), " for column ", c);
  }
  const T low = static_cast<T>(bounds.low), high = static_cast<T>(bounds.high);
  const bool has_low = std::isfinite(bounds.low), has_high = std::isfinite(bounds.high);
  const bool held = std::isfinite(low) == has_low && std::isfinite(high) == has_high &&
                    std::isfinite(high - low) == (has_low && has_high);
  if (!held || !(std::nextafter(low, high) < high)) {
    fail<ConfigError>(kBounds, "expected bounds that ", dtype, held ? " holds numbers between" : " holds",
                      ", got ", exact_text(bounds.low), " and ", exact_text(bounds.high), " for column ", c);
  }
}

/// Works in blocks of as many columns as a kernel takes.
template <class T>
class Unbound final : public Layer<T> {
 public:
  Unbound(Shape in, const std::vector<Bounds>& bounds) : Layer<T>(kBounds, in, in, true) {
    if (static_cast<int64_t>(bounds.size()) != in.c) {
      fail<ConfigError>(kBounds, "expected bounds for each of ", in.c, " columns, got ", bounds.size());
    }
    for (int64_t c = 0; c < in.c; ++c) {
      check_bounds<T>(bounds[static_cast<size_t>(c)], c);
      const int at = static_cast<int>(c % ColumnBounds<T>::kMost);
      if (at == 0) blocks_.emplace_back();
      const T low = static_cast<T>(bounds[static_cast<size_t>(c)].low),
              high = static_cast<T>(bounds[static_cast<size_t>(c)].high);
      ColumnBounds<T>& block = blocks_.back();
      block.low[at] = low;
      block.high[at] = high;
      block.log_width[at] = std::isfinite(high - low) ? std::log(high - low) : T(0);
    }
  }

  void init_from_data(Context& ctx, ParamArena<T>&, View<const T> x) const override { check(ctx, "init", x); }
  void check_inputs(Context& ctx, const char* call, View<const T> x) const override { check(ctx, call, x); }
  bool standardizes() const override { return true; }

 private:
  struct Column {
    T low, high, log_width;
  };
  Column column(int64_t c) const {
    const ColumnBounds<T>& block = blocks_[static_cast<size_t>(c / ColumnBounds<T>::kMost)];
    const int64_t at = c % ColumnBounds<T>::kMost;
    return {block.low[at], block.high[at], block.log_width[at]};
  }

  void check(Context& ctx, const char* call, View<const T> x) const {
    const int64_t columns = x.shape.c;
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const View<T> dense(scope.take<T>(x.shape.size()), x.shape);
    ctx.kernels<T>().move.copy(ctx, x, dense);
    const T* values = host.read(static_cast<const T*>(dense.data), x.shape.size());
    for (int64_t i = 0; i < x.shape.size(); ++i) {
      const Column of = column(i % columns);
      const bool has_low = std::isfinite(of.low), has_high = std::isfinite(of.high);
      if ((!has_low || values[i] > of.low) && (!has_high || values[i] < of.high)) continue;
      const std::string ends = has_low && has_high
                                   ? text_of("between ", exact_text(of.low), " and ", exact_text(of.high))
                               : has_low ? text_of("above ", exact_text(of.low))
                                         : text_of("below ", exact_text(of.high));
      fail<NumericError>(call, "expected values ", ends, " for column ", i % columns, ", got ",
                         exact_text(values[i]), " for sample ", ctx.first_row() + i / x.shape.per_sample());
    }
  }

  void do_forward(Context& ctx, const Params<T>&, View<const T> x, View<T> z, double* logdet) const override {
    map(ctx, false, x, z, logdet);
  }
  void do_inverse(Context& ctx, const Params<T>&, View<const T> z, View<T> x, double* logdet) const override {
    map(ctx, true, z, x, logdet);
  }
  void do_backward(Context& ctx, const Params<T>&, View<const T> z, View<const T> dz, const double* dlogdet,
                   View<T> x, View<T> dx) const override {
    by_blocks([&](const ColumnBounds<T>& block, int64_t first, int64_t count) {
      ctx.kernels<T>().channel.bounds_backward(ctx, block, false, z.channels(first, count),
                                               dz.channels(first, count), dlogdet, x.channels(first, count),
                                               dx.channels(first, count));
    });
  }
  void do_inverse_backward(Context& ctx, const Params<T>&, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    double* unused = scope.take<double>(x.shape.n);
    ctx.kernels<T>().move.fill_doubles(ctx, x.shape.n, 0, unused);
    map(ctx, false, x, z, unused);
    by_blocks([&](const ColumnBounds<T>& block, int64_t first, int64_t count) {
      ctx.kernels<T>().channel.bounds_backward(ctx, block, true, z.channels(first, count),
                                               dx.channels(first, count), dlogdet, {},
                                               dz.channels(first, count));
    });
  }

  void map(Context& ctx, bool inverse, View<const T> from, View<T> to, double* logdet) const {
    by_blocks([&](const ColumnBounds<T>& block, int64_t first, int64_t count) {
      ctx.kernels<T>().channel.bounds_map(ctx, block, inverse, from.channels(first, count),
                                          to.channels(first, count), logdet);
    });
  }

  /// Calls f(block, its first column, its number of columns) for every block.
  template <class F>
  void by_blocks(const F& f) const {
    const int64_t n = this->input_shape().c;
    int64_t first = 0;
    for (const ColumnBounds<T>& block : blocks_) {
      f(block, first, std::min<int64_t>(ColumnBounds<T>::kMost, n - first));
      first += ColumnBounds<T>::kMost;
    }
  }

  std::vector<ColumnBounds<T>> blocks_;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> unbound(Shape in, const std::vector<Bounds>& bounds) {
  return std::make_unique<Unbound<T>>(in, bounds);
}

template std::unique_ptr<Layer<float>> unbound<float>(Shape, const std::vector<Bounds>&);
template std::unique_ptr<Layer<double>> unbound<double>(Shape, const std::vector<Bounds>&);

}  // namespace evenflow
