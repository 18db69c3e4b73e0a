#pragma once

#include "kernels/coupling/apply.hpp"
#include "kernels/coupling/kernels.hpp"
#include "kernels/ops/fill.hpp"
#include "kernels/ops/with_flag.hpp"

namespace evenflow {

template <class Exec, class T>
class CouplingLaunch final : public CouplingKernels<T> {
 public:
  void forward(Context& ctx, const CouplingPlan& plan, const SharedNumbers<const T*>& shared, View<const T> x,
               View<const T> h, View<T> y, double* logdet) const override {
    apply<false>(ctx, plan, shared, x, h, y, logdet);
  }

  void inverse(Context& ctx, const CouplingPlan& plan, const SharedNumbers<const T*>& shared, View<const T> y,
               View<const T> h, View<T> x, double* logdet) const override {
    apply<true>(ctx, plan, shared, y, h, x, logdet);
  }

  void backward(Context& ctx, const CouplingPlan& plan, const SharedNumbers<const T*>& shared,
                View<const T> y, View<const T> dy, const double* dlogdet, View<const T> h, bool x_known,
                View<T> x, View<T> dx, View<T> dh, const SharedNumbers<T*>& dshared) const override {
    ops::with_flag(x_known, [&](auto known) {
      apply_backward<false, decltype(known)::value>(ctx, plan, shared, y, dy, dlogdet, h, x, dx, dh, dshared);
    });
  }

  void inverse_backward(Context& ctx, const CouplingPlan& plan, const SharedNumbers<const T*>& shared,
                        View<const T> x, View<const T> dx, const double* dlogdet, View<const T> h,
                        bool y_known, View<T> y, View<T> dy, View<T> dh,
                        const SharedNumbers<T*>& dshared) const override {
    ops::with_flag(y_known, [&](auto known) {
      apply_backward<true, decltype(known)::value>(ctx, plan, shared, x, dx, dlogdet, h, y, dy, dh, dshared);
    });
  }

 private:
  template <class U>
  static ops::Rows<U> rows(const View<U>& v) {
    return {v.data, v.stride};
  }

  template <class L>
  static ops::CouplingValues<T, L> values(const CouplingPlan& plan, const L& law,
                                          const SharedNumbers<const T*>& shared, const Shape& shape,
                                          View<const T> h) {
    const int64_t each = plan.interleaved ? law.parameters() : 1, kinds = plan.interleaved ? 1 : plan.count;
    ops::CouplingValues<T, L> out{{shape.w, shape.h, each, kinds, plan.parity}, law, rows(h), {}, {}};
    static_assert(L::shared <= kMostShared, "SharedNumbers has room for them");
    if constexpr (L::shared > 0) {
      for (int i = 0; i < L::shared; ++i) {
        out.shared_at[i] = shared[static_cast<size_t>(i)];
        out.shared[i] = static_cast<T>(L::shared_defaults[i]);
      }
    }
    return out;
  }

  template <bool inverse>
  static void apply(Context& ctx, const CouplingPlan& plan, const SharedNumbers<const T*>& shared,
                    View<const T> from, View<const T> h, View<T> to, double* logdet) {
    std::visit(
        [&](const auto& law) {
          using L = std::decay_t<decltype(law)>;
          Exec::template map_groups<T>(ctx, from.shape.n, from.shape.pixels_per_sample(), plan.count,
                                       ops::CouplingApply<T, L, inverse>{
                                           values(plan, law, shared, from.shape, h), rows(from), rows(to)},
                                       logdet);
        },
        plan.law);
  }

  template <bool inverse, bool known>
  static void apply_backward(Context& ctx, const CouplingPlan& plan, const SharedNumbers<const T*>& shared,
                             View<const T> from, View<const T> dfrom, const double* dlogdet, View<const T> h,
                             View<T> to, View<T> dto, View<T> dh, const SharedNumbers<T*>& dshared) {
    std::visit(
        [&](const auto& law) {
          using L = std::decay_t<decltype(law)>;
          // No gradient by a number needs the real inputs: one kernel fewer is compiled.
          constexpr bool read = known && !std::is_base_of_v<ops::laws::FixedLaw, L>;
          const int64_t n = from.shape.n;
          WorkspaceScope scope(ctx);
          double* sums = nullptr;
          if constexpr (L::shared > 0) {
            sums = scope.take<double>(L::shared * n);
            Exec::for_each(ctx, 1, L::shared * n, ops::Fill<double>{0, sums});
          }
          Exec::template map_groups<T>(
              ctx, n, from.shape.pixels_per_sample(), plan.count,
              ops::CouplingBackward<T, L, inverse, read>{values(plan, law, shared, from.shape, h), rows(from),
                                                         rows(dfrom), dlogdet, rows(to), rows(dto), rows(dh)},
              sums);
          if constexpr (L::shared > 0) {
            ops::AddShared<T, L::shared> add;
            for (int i = 0; i < L::shared; ++i) add.to[i] = dshared[static_cast<size_t>(i)];
            Exec::sum_rows(ctx, n, 1, sums, add);
          }
        },
        plan.law);
  }
};

}  // namespace evenflow
