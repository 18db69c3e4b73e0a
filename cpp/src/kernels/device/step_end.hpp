#pragma once

#include <limits>
#include <type_traits>

#include "kernels/device/exec.hpp"
#include "kernels/flow_program.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/ops/optim.hpp"

// The end of a training step, in kernels that go by what the pass before them found.

namespace evenflow::device {

/// One thread: whether a step is taken, and by what numbers; see StepEnd.
template <class T>
struct JudgeStep {
  StepEnd<T> end;
  /// Whether a drift, as KernelSet::distance found it, is within the tolerance.
  EVENFLOW_HD bool within(const double* found) const { return relative_distance(found) <= end.tolerance; }
  EVENFLOW_HD void operator()(int64_t, int64_t) const {
    const double norm = ops::sqrt(*end.square), most = end.settings[StepEnd<T>::max_norm];
    constexpr double kLargest = std::numeric_limits<double>::max();
    // Comparisons that NaN and infinity do not pass.
    const bool finite = *end.not_finite == 0 && norm <= kLargest && (!end.head || *end.head <= kLargest),
               taken = finite && within(end.found) && within(end.found + 2) && *end.initialized != T(0),
               clipped = taken && most > 0 && norm > most;
    end.verdict[StepEnd<T>::taken] = taken ? 1 : 0;
    end.verdict[StepEnd<T>::clipped] = clipped ? 1 : 0;
    end.verdict[StepEnd<T>::factor] = clipped ? most / norm : 1;
  }
};

/// An update if a number is not 0.
template <class F>
struct UpdateIf {
  using Number = typename F::Number;
  const double* condition;
  const double* rate;  ///< null: the update's own
  F update;
  EVENFLOW_HD bool packs(int n) const { return ops::packs(update, n); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t i) const {
    if (*condition == 0) return;
    F now = update;
    if (rate) now.set_rate(static_cast<Number>(*rate));
    now.template operator()<n>(row, i);
  }
};

/// Queues judgement and updates: no number is taken to the program.
template <class Launcher, class T>
void finish_step(Context& ctx, const StepEnd<T>& end) {
  using Exec = DeviceExec<Launcher>;
  using S = StepEnd<T>;
  const auto update = [&](int64_t n, int condition, const double* rate, const auto& f) {
    Exec::for_each(ctx, 1, n,
                   UpdateIf<typename std::decay<decltype(f)>::type>{end.verdict + condition, rate, f});
  };
  Exec::for_each(ctx, 1, 1, JudgeStep<T>{end});
  update(end.trainable, S::clipped, end.verdict + S::factor, ops::ScaleAll<T>{T(1), end.grads});
  const ops::StepBase<T> base{
      end.values, end.grads, T(0), T(end.config.shrink), T(end.config.weight_decay), end.decay_size};
  ops::with_rule(end.config, base, end.m, end.v,
                 [&](const auto& f, int64_t) { update(end.trainable, S::taken, end.settings + S::lr, f); });
  update(end.stats, S::taken, nullptr, ops::Average<T>{end.batch_stats, T(end.stats_rate), end.running});
  if (end.average) {
    update(end.total, S::taken, end.settings + S::average_rate,
           ops::Average<T>{end.values, T(0), end.average});
  }
}

}  // namespace evenflow::device
