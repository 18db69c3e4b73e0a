#pragma once

#include <algorithm>

#include "kernels/derived.hpp"
#include "kernels/device/exec.hpp"
#include "kernels/ops/constants.hpp"
#include "kernels/ops/lu.hpp"
#include "kernels/ops/small.hpp"

// A DerivedPlan in few launches: a block for each entry.

namespace evenflow::device {

/// Entries of a plan as a kernel's argument, which has 4 kB at most.
template <class Entry>
struct Entries {
  static constexpr int64_t kMost = 3840 / sizeof(Entry);
  int64_t first;  ///< its number in the plan
  Entry of[kMost];
};

/// scales of each entry; partial (entries): what its logs add to the log-determinant, joined as a tree.
template <class T>
struct DeriveScales {
  static constexpr int threads = kThreads;
  using Sums = Tree<Add, 1>;
  using Registers = Nothing;
  using Shared = typename Sums::Shared;
  Entries<DerivedScale> entries;
  const T* params;
  T* scales;
  double* partial;

  EVENFLOW_HD int64_t phases(int64_t) const { return Sums::levels + 2; }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers&, Shared& shared) const {
    const DerivedScale& entry = entries.of[at.block];
    if (phase == 0) {
      double total = 0;
      for (int64_t c = at.thread; c < entry.count; c += threads) {
        const T logs = params[entry.logs + c];
        if (entry.at >= 0) scales[entry.at + c] = ops::rounded_exp(T(kLogScale) * logs);
        total += static_cast<double>(logs);
      }
      shared.value[0][at.thread] = total;
    } else if (phase <= Sums::levels) {
      Sums::join(phase, at.thread, shared);
    } else if (at.thread == 0) {
      // Scales of nets have no part in it, whatever they are.
      partial[entries.first + at.block] = entry.weight == 0 ? 0.0 : entry.weight * shared.value[0][0];
    }
  }
};

/// Room of a launch's blocks, `squares` times n * n and n numbers each, side by side.
struct MatrixRoom {
  double* all;
  int64_t squares;

  EVENFLOW_HD double* of(const Entries<DerivedMatrix>& entries, int64_t block) const {
    const DerivedMatrix &first = entries.of[0], &entry = entries.of[block];
    return all + squares * (entry.at - first.at) + entry.rows - first.rows;
  }
  /// For any launch.
  static MatrixRoom take(WorkspaceScope& scope, const std::vector<DerivedMatrix>& list, int64_t squares) {
    int64_t most = 0;
    for (size_t first = 0; first < list.size(); first += Entries<DerivedMatrix>::kMost) {
      const size_t end = std::min<size_t>(list.size(), first + Entries<DerivedMatrix>::kMost) - 1;
      const DerivedMatrix &begin = list[first], &last = list[end];
      most =
          std::max(most, squares * (last.at + last.n * last.n - begin.at) + last.rows + last.n - begin.rows);
    }
    return {scope.take<double>(most), squares};
  }
};

/// The parameters that a matrix comes from.
template <class T>
EVENFLOW_HD ops::LuFactors<T> factors_of(const DerivedMatrix& entry, const T* params) {
  return {{params + entry.lower, params + entry.upper, params + entry.logs, params + entry.sign,
           params + entry.permutation},
          entry.n};
}

/// A layer's own body for each entry: F::one(entries, block) is the one of a block.
template <class F>
struct EachMatrix {
  using One = typename F::One;
  static constexpr int threads = One::threads;
  using Registers = typename One::Registers;
  using Shared = typename One::Shared;
  Entries<DerivedMatrix> entries;
  F f;

  EVENFLOW_HD int64_t phases(int64_t block) const { return f.one(entries, block).phases(0); }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers& r, Shared& shared) const {
    f.one(entries, at.block).run(phase, {0, 1, at.thread}, r, shared);
  }
};

/// W = P L U and log |det W|, and unless null W^-1. W may be where W^-1 goes: nothing reads it in between.
template <class T, int block_rows, int block_cols>
struct DeriveMatrices {
  using One = ops::LuMatrix<T, block_rows, block_cols>;
  const T* params;
  T* matrices;
  T* inverses;
  double* log_det;  ///< (entries)
  MatrixRoom room;

  EVENFLOW_HD One one(const Entries<DerivedMatrix>& entries, int64_t block) const {
    const DerivedMatrix& entry = entries.of[block];
    return {factors_of(entry, params), matrices + entry.at, inverses ? inverses + entry.at : nullptr,
            log_det + entries.first + block, room.of(entries, block)};
  }
};

/// Gradients of L, U and logs.
template <class T, int block_rows, int block_cols>
struct DerivedGradients {
  using One = ops::LuGradients<T, double, block_rows, block_cols>;
  const T* params;
  const double* dmatrices;
  const double* dlogdet;
  T* grads;
  MatrixRoom room;

  EVENFLOW_HD One one(const Entries<DerivedMatrix>& entries, int64_t block) const {
    const DerivedMatrix& entry = entries.of[block];
    return {factors_of(entry, params),
            dmatrices + entry.at,
            dlogdet,
            entry.pixels,
            {grads + entry.lower, grads + entry.upper, grads + entry.logs},
            room.of(entries, block)};
  }
};

/// A launch for each so many entries of a list: body.entries is filled in.
template <class Launcher, class Entry, class Body>
void launch_entries(Context& ctx, const std::vector<Entry>& list, Body body) {
  const int64_t count = static_cast<int64_t>(list.size());
  for (int64_t first = 0; first < count; first += Entries<Entry>::kMost) {
    const int64_t blocks = std::min(count - first, Entries<Entry>::kMost);
    body.entries = {};
    body.entries.first = first;
    std::copy_n(list.begin() + first, blocks, body.entries.of);
    Launcher::launch(ctx, blocks, body);
  }
}

/// W and log |det W| (number of matrices), or with `inverses` those too.
template <class Launcher, class T>
void derive_matrices(Context& ctx, const DerivedPlan& plan, const T* params, T* matrices, T* inverses,
                     double* log_det) {
  using Exec = DeviceExec<Launcher>;
  WorkspaceScope scope(ctx.workspace());
  const MatrixRoom room = MatrixRoom::take(scope, plan.matrices, 1);
  using F = DeriveMatrices<T, Exec::block_rows, Exec::block_cols>;
  launch_entries<Launcher>(ctx, plan.matrices,
                           EachMatrix<F>{{}, {params, matrices, inverses, log_det, room}});
}

/// See FlowKernels.
template <class Launcher, class T>
void derive(Context& ctx, const T* params, const Derived<T>& to) {
  const DerivedPlan& plan = *to.plan;
  const int64_t scales = static_cast<int64_t>(plan.scales.size());
  WorkspaceScope scope(ctx.workspace());
  double* partial = scope.take<double>(scales);
  launch_entries<Launcher>(ctx, plan.scales, DeriveScales<T>{{}, params, to.scales, partial});
  DeviceExec<Launcher>::sum_values(ctx, scales, partial, to.log_det);
  if (plan.matrices.empty()) return;
  double* unused = scope.take<double>(static_cast<int64_t>(plan.matrices.size()));
  derive_matrices<Launcher>(ctx, plan, params, to.matrices, to.inverses, unused);
}

template <class Launcher, class T>
void add_matrix_gradients(Context& ctx, const T* params, const Derived<T>& of, T* grads) {
  using Exec = DeviceExec<Launcher>;
  const DerivedPlan& plan = *of.plan;
  WorkspaceScope scope(ctx.workspace());
  const MatrixRoom room = MatrixRoom::take(scope, plan.matrices, 3);
  using F = DerivedGradients<T, Exec::block_rows, Exec::block_cols>;
  launch_entries<Launcher>(ctx, plan.matrices,
                           EachMatrix<F>{{}, {params, of.dmatrices, of.dlogdet, grads, room}});
}

}  // namespace evenflow::device
