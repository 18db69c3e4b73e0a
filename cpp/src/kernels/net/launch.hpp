#pragma once

#include "kernels/net/activation.hpp"
#include "kernels/net/concat_relu.hpp"
#include "kernels/net/dropout.hpp"
#include "kernels/net/epilogue.hpp"
#include "kernels/net/kernels.hpp"
#include "kernels/net/norm_relu.hpp"
#include "kernels/net/weight_norm.hpp"
#include "kernels/ops/extent.hpp"
#include "kernels/ops/sums.hpp"
#include "kernels/ops/with_flag.hpp"

namespace evenflow {

/// All but convolutions and chains of them, which a backend's subclass adds.
template <class Exec, class T>
class NetLaunch : public NetKernels<T> {
 public:
  void epilogue_backward(Context& ctx, View<const T> y, View<T> dy, const Epilogue<T>& epilogue, T* dbias,
                         T* dlogs, T factor) const override {
    const int64_t rows = y.shape.pixels(), cols = y.shape.c;
    if (!epilogue.relu && !epilogue.scale && !dlogs) {
      if (!dbias) return;
      WorkspaceScope scope(ctx);
      double* sums = scope.take<double>(cols);
      Exec::template sum_columns<T>(ctx, rows, cols, ops::BiasBackward<T>{dy.data, dy.stride}, sums,
                                    dy.contiguous());
      return Exec::for_each(ctx, 1, cols, ops::AddSums<T>{1.0, sums, dbias});
    }
    const bool flat = y.contiguous() && dy.contiguous() && !epilogue.scale;
    ops::with_flag(epilogue.relu, [&](auto relu) {
      Exec::template sum_columns_to<T>(
          ctx, rows, cols,
          ops::EpilogueBackward<T, relu.value>{y.data, y.stride, dy.data, dy.stride, epilogue.scale},
          ops::AddPair<T>{factor, dbias, dlogs}, flat);
    });
  }

  void norm_relu(Context& ctx, View<const T> x, const T* shift, const T* scale, const T* beta, bool relu,
                 View<T> y) const override {
    Exec::for_each(ctx, x.shape.pixels(), x.shape.c,
                   ops::NormRelu<T>{x.data, x.stride, shift, scale, beta, relu, y.data, y.stride});
  }

  void norm_relu_sums(Context& ctx, View<const T> x, const T* shift, const T* scale, const T* beta, bool relu,
                      View<T> dy, double* sums) const override {
    Exec::template sum_columns<T>(
        ctx, x.shape.pixels(), x.shape.c,
        ops::NormReluSums<T>{x.data, x.stride, shift, scale, beta, relu, dy.data, dy.stride}, sums);
  }

  void norm_relu_backward(Context& ctx, View<const T> x, const T* shift, const T* scale, const T* mean_dv,
                          const T* mean_dvn, View<const T> dv, View<T> dx) const override {
    Exec::for_each(ctx, x.shape.pixels(), x.shape.c,
                   ops::NormReluBackward<T>{x.data, x.stride, shift, scale, mean_dv, mean_dvn, dv.data,
                                            dv.stride, dx.data, dx.stride});
  }

  void activate(Context& ctx, Activation f, View<const T> x, View<T> y) const override {
    const ops::Extent all = ops::extent_of(x, y);
    ops::with_activation(f, [&](auto unit) {
      Exec::for_each(ctx, all.rows, all.cols,
                     ops::Activate<T, decltype(unit)>{x.data, x.stride, y.data, y.stride});
    });
  }

  void activate_backward(Context& ctx, Activation f, View<const T> at, View<const T> dy, View<T> dx,
                         bool accumulate) const override {
    const ops::Extent all = ops::extent_of(at, dy, dx);
    ops::with_activation(f, [&](auto unit) {
      ops::with_flag(accumulate, [&](auto add) {
        Exec::for_each(ctx, all.rows, all.cols,
                       ops::ActivateBackward<T, decltype(unit), decltype(add)::value>{
                           at.data, at.stride, dy.data, dy.stride, dx.data, dx.stride});
      });
    });
  }

  void dropout(Context& ctx, double p, const MaskSeed* masks, uint32_t stream, int64_t first_row,
               View<const T> x, View<T> y, bool accumulate) const override {
    ops::with_flag(accumulate, [&](auto add) {
      const ops::Dropout<T, decltype(add)::value> drop(p, masks, stream, first_row, x, y);
      Exec::for_each(ctx, x.shape.pixels(), drop.blocks(), drop);
    });
  }

  void gate(Context& ctx, View<const T> s, View<T> y) const override {
    const ops::Extent all = ops::extent_of(s, y);
    Exec::for_each(ctx, all.rows, all.cols, ops::Gate<T>{s.data, s.stride, y.data, y.stride});
  }

  void gate_backward(Context& ctx, View<const T> s, View<const T> y, View<T> dy, View<T> ds) const override {
    const ops::Extent all = ops::extent_of(s, y, dy, ds);
    Exec::for_each(
        ctx, all.rows, all.cols,
        ops::GateBackward<T>{s.data, s.stride, y.data, y.stride, dy.data, dy.stride, ds.data, ds.stride});
  }

  void concat_relu(Context& ctx, View<const T> x, T gain, int parity, View<T> y) const override {
    Exec::for_each(ctx, x.shape.pixels(), x.shape.c,
                   ops::ConcatRelu<T>{x.data, x.stride, x.shape.c, gain, parity, x.shape.w, x.shape.h, y.data,
                                      y.stride});
  }

  void concat_relu_backward(Context& ctx, View<const T> y, View<const T> dy, T gain,
                            View<T> dx) const override {
    Exec::for_each(ctx, dx.shape.pixels(), dx.shape.c,
                   ops::ConcatReluBackward<T>{y.data, y.stride, dy.data, dy.stride, dx.shape.c, gain, dx.data,
                                              dx.stride});
  }

  void weight_norm(Context& ctx, int64_t rows, int64_t cols, const T* v, const T* g, T* norms,
                   T* w) const override {
    WorkspaceScope scope(ctx);
    double* squares = scope.take<double>(cols);
    T* factor = scope.take<T>(cols);
    Exec::template sum_columns<T>(ctx, rows, cols, ops::NormSquares<T>{v, cols}, squares);
    Exec::for_each(ctx, 1, cols, ops::NormFactors<T>{squares, g, norms, factor});
    Exec::for_each(ctx, rows, cols, ops::ScaleColumns<T>{v, factor, cols, w});
  }

  void weight_norm_backward(Context& ctx, int64_t rows, int64_t cols, const T* v, const T* g, const T* norms,
                            const T* dw, T* dv, T* dg) const override {
    WorkspaceScope scope(ctx);
    double* dots = scope.take<double>(cols);
    T* factor = scope.take<T>(cols);
    T* along = scope.take<T>(cols);
    Exec::template sum_columns<T>(ctx, rows, cols, ops::ColumnDots<T>{dw, v, cols}, dots);
    Exec::for_each(ctx, 1, cols, ops::NormFactorsBackward<T>{dots, g, norms, factor, along, dg});
    Exec::for_each(ctx, rows, cols, ops::WeightNormBackward<T>{v, dw, factor, along, cols, dv});
  }

 protected:
  /// What a chain's gradients begin with.
  void last_epilogue_backward(Context& ctx, const StackUnit<T>& last, View<const T> h, View<T> dh) const {
    if (last.epilogue.bias || last.epilogue.scale || last.epilogue.relu) {
      epilogue_backward(ctx, h, dh, last.epilogue, last.dbias, last.dlogs, last.logs_factor);
    }
  }
};

}  // namespace evenflow
