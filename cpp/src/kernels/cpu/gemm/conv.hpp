#pragma once

#include "kernels/cpu/exec.hpp"
#include "kernels/cpu/gemm/multiply.hpp"

// Convolutions as matrix products. A 3x3 kernel multiplies the channels of one side by nine taps. This
// happens on the side with fewer channels, so there are two ways (gather_input chooses):
//
//   in.c <= cout:  x (m, c) -> images with a border -> patches (m, 9 c)
//                  y (m, cout) = patches * w (9 c, cout)
//
//   in.c > cout:   products (m, 9 cout) = x (m, c) * w (c, 9 cout)
//                  y[m] = sum over taps of products[neighbour of m at the tap, tap]
//
// m are pixels. Images and products are whole arrays in memory. Patches never are: each strip gathers its own
// (Patches) into a buffer that stays in L1 or L2. Both products run the loops of multiply.hpp. The gradient
// by x swaps the two ways, and the gradient by w sums over pixels (TransposedProduct).

namespace evenflow::gemm {

EVENFLOW_INLINE bool gather_input(const ConvDims& dims) {
  return dims.kernel == 1 || dims.in.c <= dims.cout;
}

/// Row length of `products`, the product of each pixel with all taps.
template <class T>
EVENFLOW_INLINE int64_t products_stride(int64_t channels) {
  return padded_stride(9 * channels + kSlack / 4, sizeof(T));
}

/// Calls finish(sum over taps of products[source(m, tap), (tap, n)]) for rows [m_begin, m_end). With sign 1
/// the source is the pixel that the tap reads, with -1 the pixel that reads m through the tap. Where the
/// source is outside the image, reads outside (9, channels + slack) instead, or nothing if that is null.
template <class Isa, class T, class Finish>
void gather_taps(const Shape& shape, int64_t m_begin, int64_t m_end, int sign, const T* products,
                 int64_t channels, const T* outside, const Finish& finish) {
  using Vector = typename RegisterTile<Isa, T>::Vector;
  constexpr int L = RegisterTile<Isa, T>::lanes;
  constexpr int64_t kAhead = 8;  // pixels: every load touches another line and would wait for it
  const int64_t stride = products_stride<T>(channels);
  for (int64_t m = m_begin; m < m_end; ++m) {
    const T* const later = products + (m + shape.w + kAhead) * stride;
    for (int64_t c = 0; c < 9 * channels; c += Strided<T>::line) __builtin_prefetch(later + c);
    const int64_t j = m % shape.w, i = m / shape.w % shape.h;
    const T* source[9];
#pragma GCC unroll 1
    for (int t = 0; t < 9; ++t) {
      const int64_t dy = sign * (t / 3 - 1), dx = sign * (t % 3 - 1);
      const bool inside = i + dy >= 0 && i + dy < shape.h && j + dx >= 0 && j + dx < shape.w;
      source[t] = inside    ? products + (m + dy * shape.w + dx) * stride + t * channels
                  : outside ? outside + t * channels
                            : nullptr;
    }
    for (int64_t n = 0; n < channels; n += L) {
      typename RegisterTile<Isa, T>::Value sum = {};
#pragma GCC unroll 1
      for (int t = 0; t < 9; ++t) {
        if (source[t]) sum += *reinterpret_cast<const Vector*>(source[t] + n);
      }
      if (n + L <= channels) {
        finish.template columns<Isa, 1, typename RegisterTile<Isa, T>::Value>(1, m, n,
                                                                              [&](int) { return sum; });
      } else {
        for (int64_t c = n; c < channels; ++c) {
          finish.template columns<Isa, 1, T>(1, m, c, [&](int) { return sum[c - n]; });
          keep_scalar(c);
        }
      }
    }
  }
}

/// Weights of the edge indicator, with slack to read past their end.
template <class T>
EVENFLOW_INLINE const T* outside_weights(WorkspaceScope& scope, const ConvDims& dims, const T* w) {
  if (!dims.edge) return nullptr;
  T* out = scope.take<T>(9 * dims.cout + kSlack);
  for (int64_t t = 0; t < 9; ++t) {
    copy_run(out + t * dims.cout, w + (t * dims.weight_rows() + dims.in.c) * dims.cout, dims.cout);
  }
  for (int64_t i = 9 * dims.cout; i < 9 * dims.cout + kSlack; ++i) out[i] = T(0);
  return out;
}

/// Copies x into images with a border, on its own team of threads.
template <class Isa, class T, bool bf16, class S>
Bordered<Isa, T, bf16> bordered(Context& ctx, WorkspaceScope& scope, const Strided<S>& x, const Shape& shape,
                                bool edge) {
  auto* out = scope.take<typename Bordered<Isa, T, bf16>::Element>(Bordered<Isa, T, bf16>::size(shape, edge));
  Bordered<Isa, T, bf16> image;
  constexpr int64_t kPixel = 16;  // overhead of a pixel, in numbers copied
  run_team<Isa>(CpuExec<Isa>::threads_for(ctx, shape.pixels() * (shape.c + kPixel)), [&](const Team& team) {
    const Bordered<Isa, T, bf16> filled = Bordered<Isa, T, bf16>::fill(team, x, shape, edge, out);
    if (team.rank == 0) image = filled;
  });
  return image;
}

/// gather_taps for all rows on its own team of threads, or on one thread if `finish` accumulates column sums.
template <class Isa, class T, class Finish>
void gather_all_taps(Context& ctx, const Shape& shape, int sign, const T* products, int64_t channels,
                     const T* outside, const Finish& finish) {
  const int64_t rows = shape.pixels();
  const int threads = Finish::has_sums ? 1 : CpuExec<Isa>::threads_for(ctx, rows * 9 * channels);
  run_team<Isa>(threads, [&](const Team& team) {
    gather_taps<Isa, T>(shape, team.begin(rows), team.end(rows), sign, products, channels, outside, finish);
  });
}

/// y = act((conv(x) + bias) * scale). S and Y are float types or Bf16. bf16: bfloat16 products. x must be
/// row-major if the kernel is 3x3.
template <class Isa, class T, bool bf16, class S, class Y>
void conv_forward(Context& ctx, const ConvDims& dims, const Strided<const S>& x, const T* w,
                  const Epilogue<T>& epilogue, const Strided<Y>& y) {
  const int64_t m = dims.in.pixels();
  WorkspaceScope scope(ctx);
  const ActivateTo<T, Y> finish{y, epilogue.bias, epilogue.scale, epilogue.relu};
  const WeightsB<Isa, T, bf16> rows(WeightsAs::rows, dims, w);
  if (dims.kernel == 1) {
    multiply<Isa, T, bf16>(ctx, m, MatrixRows<Isa, T, S, bf16>{x, dims.in.c}, rows, finish);
  } else if (gather_input(dims)) {
    multiply<Isa, T, bf16>(ctx, m,
                           Patches<Isa, T, bf16>{bordered<Isa, T, bf16>(ctx, scope, x, dims.in, dims.edge)},
                           rows, finish);
  } else {
    T* products = scope.take<T>(m * products_stride<T>(dims.cout) + kSlack);
    multiply<Isa, T, bf16>(ctx, m, MatrixRows<Isa, T, S, bf16>{x, dims.in.c},
                           WeightsB<Isa, T, bf16>(WeightsAs::channels_by_tap_outputs, dims, w),
                           ActivateTo<T, T>{{products, products_stride<T>(dims.cout)}});
    gather_all_taps<Isa, T>(ctx, dims.in, 1, products, dims.cout, outside_weights(scope, dims, w), finish);
  }
}

/// finish(conv^T(dy)). dy must be row-major if the kernel is 3x3.
template <class Isa, class T, bool bf16, class S, class Finish>
void conv_backward_data(Context& ctx, const ConvDims& dims, const Strided<const S>& dy, const T* w,
                        const Finish& finish) {
  const int64_t m = dims.in.pixels();
  WorkspaceScope scope(ctx);
  if (dims.kernel == 1) {
    multiply<Isa, T, bf16>(ctx, m, MatrixRows<Isa, T, S, bf16>{dy, dims.cout},
                           WeightsB<Isa, T, bf16>(WeightsAs::outputs_by_tap_channels, dims, w), finish);
  } else if (!gather_input(dims)) {
    multiply<Isa, T, bf16>(ctx, m,
                           Patches<Isa, T, bf16>{bordered<Isa, T, bf16>(ctx, scope, dy, dims.out(), false)},
                           WeightsB<Isa, T, bf16>(WeightsAs::tap_outputs_by_channels, dims, w), finish);
  } else {
    T* products = scope.take<T>(m * products_stride<T>(dims.in.c) + kSlack);
    multiply<Isa, T, bf16>(ctx, m, MatrixRows<Isa, T, S, bf16>{dy, dims.cout},
                           WeightsB<Isa, T, bf16>(WeightsAs::outputs_by_tap_channels, dims, w),
                           ActivateTo<T, T>{{products, products_stride<T>(dims.in.c)}});
    gather_all_taps<Isa, T>(ctx, dims.in, -1, products, dims.in.c, static_cast<const T*>(nullptr),
                            finish.for_block(0));
  }
}

/// Gradient of the edge indicator's weights for taps [begin, end): sums of dy over the pixels whose tap is
/// outside the image.
template <class Isa, class T, class S>
void edge_weight_gradient(const ConvDims& dims, const Strided<const S>& dy, int64_t begin, int64_t end,
                          T* dw) {
  const Shape& in = dims.in;
  for (int64_t line = 0; line < in.n * in.h; ++line) {
    const int64_t i = line % in.h;
    const bool whole = i == 0 || i + 1 == in.h;  // in other lines only the ends are at an edge
    for (int64_t j = 0; j < in.w; j += whole || j + 1 == in.w ? 1 : in.w - 1) {
      const S* from = dy.data + (line * in.w + j) * dy.stride;
      for (int64_t t = begin; t < end; ++t) {
        const int64_t row = i + t / 3 - 1, column = j + t % 3 - 1;
        if (row >= 0 && row < in.h && column >= 0 && column < in.w) continue;
        T* out = dw + (t * dims.weight_rows() + in.c) * dims.cout;
#pragma GCC ivdep
        for (int64_t n = 0; n < dims.cout; ++n) out[n] += LoadStore<Isa, T>::load(from + n);
      }
    }
  }
}

/// Weight gradient: dw += x^T dy, or dw = with overwrite. add() takes all pixels at once or successive runs
/// of them, and the threads of a team divide dw. Buffers come from `scope`. blocked: operands of 1x1 kernels
/// may be channel-blocked.
template <class Isa, class T, bool bf16, class S, class D, bool blocked = false>
class WeightGradient {
 public:
  WeightGradient(Context& ctx, WorkspaceScope& scope, const ConvDims& dims, const Strided<const S>& x,
                 const Strided<const D>& dy, T* dw, bool overwrite)
      : dims_(dims),
        x_{x, dims.in.c},
        dy_(dy),
        dw_(dw),
        overwrite_(overwrite),
        sums_(dw),
        stride_(dims.cout) {
    if (dims.kernel == 1) {
      // With few outputs compute dy^T x instead, because vectors of outputs would be nearly empty.
      narrow_ =
          !bf16 && dims.cout <= RegisterTile<Isa, T>::low_rows && dims.in.c >= RegisterTile<Isa, T>::cols;
      if (narrow_) take_sums(scope, dims.cout, dims.in.c);
      return;
    }
    if (gather_input(dims)) {
      image_ = bordered<Isa, T, bf16>(ctx, scope, x, dims.in, dims.edge);
    } else {
      image_ = bordered<Isa, T, bf16>(ctx, scope, dy, dims.out(), false);
      // ((tap, n), c) with taps in reverse order: channels divide more evenly and need no neighbours.
      take_sums(scope, 9 * dims.cout, dims.in.c);
    }
  }

  /// Images of dy with a border, if the kernel is 3x3 with more inputs than outputs.
  const Bordered<Isa, T, bf16>& dy_image() const { return image_; }

  /// Elements of scratch memory per thread.
  int64_t scratch_size() const {
    int64_t values = 0;
    product(dy_, [&](const auto& p) { values = p.scratch_size(); });
    return values;
  }

  /// Adds pixels [begin, end) of dy.
  void add(const Team& team, int64_t begin, int64_t end, const Strided<const D>& dy, T* scratch) const {
    product(dy, [&](const auto& p) { p.run(team, begin, end, scratch); });
  }

  /// Writes this thread's share of dw, after all pixels and a barrier.
  __attribute__((noinline)) void finish(const Team& team) const {
    if (sums_ == dw_) return;
    finish_edge(team.begin(9), team.end(9));
    constexpr int64_t kLine = Strided<T>::line;
    const int64_t rows = dims_.weight_rows(), cout = dims_.cout, taps = dims_.taps();
    for (int64_t t = 0; t < taps; ++t) {
      for (int64_t c0 = team.begin(dims_.in.c), end = team.end(dims_.in.c), next; c0 < end; c0 = next) {
        next = ops::min_of(end, c0 + kLine);
        for (int64_t n = 0; n < cout; ++n) {
          const T* from = sums_ + ((taps - 1 - t) * cout + n) * stride_;
          T* to = dw_ + t * rows * cout + n;
          for (int64_t c = c0; c < next; ++c) put(from[c], to + c * cout);
        }
      }
    }
  }

 private:
  template <class X>
  using Pixels = MatrixRows<Isa, T, X, bf16>;
  template <class Left, class Right>
  using Product = TransposedProduct<Isa, T, Left, Right, blocked>;

  void take_sums(WorkspaceScope& scope, int64_t rows, int64_t width) {
    stride_ = padded_stride(width, sizeof(T));
    sums_ = scope.take<T>(rows * stride_);
  }

  /// Rows of the edge indicator for taps [begin, end).
  void finish_edge(int64_t begin, int64_t end) const {
    if (!dims_.edge) return;
    for (int64_t t = begin; overwrite_ && t < end; ++t) {
      T* edge = dw_ + (t * dims_.weight_rows() + dims_.in.c) * dims_.cout;
      for (int64_t n = 0; n < dims_.cout; ++n) edge[n] = T(0);
    }
    edge_weight_gradient<Isa, T, D>(dims_, dy_, begin, end, dw_);
  }

  void put(T sum, T* to) const { *to = overwrite_ ? sum : *to + sum; }

  template <class F>
  void product(const Strided<const D>& dy, const F& f) const {
    const Pixels<D> dy_rows{dy, dims_.cout};
    const int64_t m = dims_.in.pixels(), cin = dims_.in.c, cout = dims_.cout;
    const bool overwrite = overwrite_ || sums_ != dw_;
    if (narrow_) {
      if constexpr (!bf16) {
        f(Product<Pixels<D>, Pixels<S>>(m, dy_rows, cout, x_, cin, sums_, stride_, overwrite));
      }
    } else if (dims_.kernel == 1) {
      f(Product<Pixels<S>, Pixels<D>>(m, x_, cin, dy_rows, cout, sums_, stride_, overwrite));
    } else if (gather_input(dims_)) {
      f(Product<Patches<Isa, T, bf16>, Pixels<D>>(m, {image_}, 9 * dims_.weight_rows(), dy_rows, cout, sums_,
                                                  stride_, overwrite));
    } else {
      f(Product<Patches<Isa, T, bf16>, Pixels<S>>(m, {image_}, 9 * cout, x_, cin, sums_, stride_, overwrite));
    }
  }

  ConvDims dims_;
  Pixels<S> x_;
  Strided<const D> dy_;
  T* dw_;
  bool overwrite_;
  T* sums_;  ///< accumulates the products: dw itself, or a buffer in another order
  int64_t stride_;
  bool narrow_ = false;
  Bordered<Isa, T, bf16> image_;
};

/// Weight gradient over all pixels: dw += x^T dy, or dw = with overwrite.
template <class Isa, class T, bool bf16, class S, class D>
void conv_backward_weights(Context& ctx, const ConvDims& dims, const Strided<const S>& x,
                           const Strided<const D>& dy, T* dw, bool overwrite = false) {
  const int64_t m = dims.in.pixels();
  if (m == 0) return;
  WorkspaceScope scope(ctx);
  const WeightGradient<Isa, T, bf16, S, D> gradient(ctx, scope, dims, x, dy, dw, overwrite);
  const int threads = threads_for_product(ctx, m, dims.weight_rows() * dims.taps(), dims.cout);
  const int64_t scratch = gradient.scratch_size();
  T* scratches = scope.take<T>(threads * scratch);
  run_team<Isa>(threads, [&](const Team& team) {
    [[maybe_unused]] const typename MatrixUnit<Isa>::Session session;
    gradient.add(team, 0, m, dy, scratches + team.rank * scratch);
    team.barrier();
    gradient.finish(team);
  });
}

}  // namespace evenflow::gemm
