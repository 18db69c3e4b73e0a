#pragma once

#include <new>

#include "kernels/cpu/gemm/chain.hpp"

// Backward pass of a chain of convolutions. The finish step of each product differentiates the activation
// below while the gradient is still in registers.
//
//   for each run of pixels                    whole depth blocks, about 8 strips per thread
//     for each group of strips                threads take groups from a work queue
//       for each unit, last to first          da of the unit below = (da * w^T) * act'
//     barrier
//     for each unit                           dw += input^T da over the run; threads divide dw
//   barrier; column sums become gradients of bias and scale; a 3x3 first unit sums its taps into dx

namespace evenflow::gemm {

template <class Isa, class T, class H>
class StackBackward {
 public:
  StackBackward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, const H* acts,
                View<const T> dh, View<T> dx)
      : ctx_(ctx),
        units_(units),
        count_(count),
        x_(strided_of(x)),
        dh_(strided_of(dh)),
        dx_(strided_of(dx)),
        m_(x.shape.pixels()),
        rows_(RowStrips::of<Isa, T>(m_)),
        hidden_{const_cast<H*>(acts), units, m_, channel_blocked<Isa, T, H>(units, count, m_)} {}

  void run() {
    if (m_ == 0) return;
    if (count_ == 1) return first_unit<T>(dh_);
    if (in_blocks<Isa, T>(units_, count_, m_, backward_depth(units_, count_))) {
      by_runs();
    } else {
      by_units();
    }
  }

 private:
  static constexpr bool bf16 = split<Isa> || std::is_same<H, Bf16>::value;

  void by_units() {
    WorkspaceScope scope(ctx_);
    int64_t size = 0;
    for (int u = 0; u + 1 < count_; ++u) size = ops::max_of(size, hidden_.size(u, m_));
    H* buffers[2] = {scope.template take<H>(size), scope.template take<H>(size)};
    const auto buffer_for = [&](int u) { return hidden_.matrix(buffers[u % 2], u, m_); };
    Strided<H> da = buffer_for(count_ - 2);
    inner_unit<T>(count_ - 1, dh_, da);
    for (int u = count_ - 2; u > 0; --u) {
      const Strided<H> next = buffer_for(u - 1);
      inner_unit<H>(u, da, next);
      da = next;
    }
    first_unit<H>(da);
  }

  /// Computes the weight gradient of unit u from its da, and da of the unit below.
  template <class D>
  void inner_unit(int u, const Strided<const D>& da, const Strided<H>& below) {
    const StackUnit<T>& unit = units_[u];
    const StackUnit<T>& lower = units_[u - 1];
    const int64_t width = lower.dims.cout;
    WorkspaceScope scope(ctx_);
    // Row blocks accumulate separate column sums, except where gather_all_taps runs on one thread.
    const bool taps = unit.dims.kernel == 3 && gather_input(unit.dims);
    const int64_t blocks =
        taps ? 1 : CacheBlocks<Isa, T>(m_, unit.dims.kernel * unit.dims.kernel * unit.dims.cout).count;
    T* sums = scope.take<T>(blocks * 2 * width);
    zero(sums, blocks * 2 * width);
    conv_backward_data<Isa, T, bf16, D>(ctx_, unit.dims, da, unit.w, derivative(u - 1, below, sums));
    add_sums(lower, sums, blocks, 0, width);
    if (!unit.dw) return;
    conv_backward_weights<Isa, T, bf16, H, D>(ctx_, unit.dims, hidden_[u - 1], da, unit.dw, unit.overwrite);
  }

  template <class D>
  void first_unit(const Strided<const D>& da) {
    const StackUnit<T>& unit = units_[0];
    if (dx_.data) {
      conv_backward_data<Isa, T, bf16, D>(ctx_, unit.dims, da, unit.w, AddTo<T>{dx_.data, dx_.stride});
    }
    if (!unit.dw) return;
    conv_backward_weights<Isa, T, bf16, T, D>(ctx_, unit.dims, x_, da, unit.dw, unit.overwrite);
  }

  /// Finish step that turns the gradient of unit u's activation into da and adds up its columns.
  ActivateBackwardTo<T, H> derivative(int u, const Strided<H>& da, T* sums) const {
    const Epilogue<T>& e = units_[u].epilogue;
    return {da, hidden_[u], e.scale, e.relu, sums, units_[u].dims.cout};
  }

  static void zero(T* sums, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sums[i] = T(0);
  }

  /// Adds the sums of all blocks, columns [begin, end), to the gradients of bias and scale. noinline avoids a
  /// copy for every chain and type.
  __attribute__((noinline)) static void add_sums(const StackUnit<T>& unit, const T* sums, int64_t blocks,
                                                 int64_t begin, int64_t end) {
    const int64_t width = unit.dims.cout;
    constexpr int64_t kAtOnce = 64;  // adjacent columns of a row of sums
    for (int64_t c0 = begin; c0 < end; c0 += kAtOnce) {
      double total[kAtOnce] = {}, dots[kAtOnce] = {};
      const int64_t count = ops::min_of(kAtOnce, end - c0);
      for (int64_t b = 0; b < blocks; ++b) {
        const T* from = sums + 2 * b * width + c0;
        for (int64_t i = 0; i < count; ++i) total[i] += from[i];
        for (int64_t i = 0; i < count; ++i) dots[i] += from[width + i];
      }
      for (int64_t i = 0; i < count; ++i) {
        if (unit.dbias) unit.dbias[c0 + i] += static_cast<T>(total[i]);
        if (unit.dlogs) unit.dlogs[c0 + i] += static_cast<T>(unit.logs_factor * dots[i]);
      }
    }
  }

  /// Processes one run of pixels at a time. A thread that has finished its part of the weight gradients
  /// starts on the next run, which therefore has its own buffers for da. Activations are read from memory
  /// once, and da never goes there.
  void by_runs() {
    WorkspaceScope scope(ctx_);
    const int threads = ctx_.threads(), last = count_ - 1;
    // Runs are whole depth blocks, so sums do not depend on the number of threads, and about kBlockStrips
    // strips per thread.
    const DepthBlocks blocks = DepthBlocks::of<Isa, T>(m_, by_pairs<Isa, bf16>);
    const int64_t run = (threads * kBlockStrips * kRows + blocks.size - 1) / blocks.size;  // in blocks
    const int64_t largest = ops::min_of(m_, (run - 1) * blocks.size + blocks.largest);
    const int places = blocks.next(0, m_, run) < m_ ? 2 : 1;
    const int64_t groups = groups_of(rows_.count());
    weights_.take(scope, count_);
    for (Strided<H>*& da : da_) da = scope.template take<Strided<H>>(last);
    sums_ = scope.template take<T*>(last);
    for (int u = 0; u < count_; ++u) {
      const StackUnit<T>& unit = units_[u];
      weights_.set(scope, u,
                   {u > 0 && unit.dims.kernel == 3 ? WeightsAs::tap_outputs_by_channels
                                                   : WeightsAs::outputs_by_tap_channels,
                    unit.dims, unit.w});
      if (u == last) break;
      for (int i = 0; i < places; ++i)
        da_[i][u] = hidden_.matrix(scope.template take<H>(hidden_.size(u, largest)), u, largest);
      sums_[u] = scope.template take<T>(groups * 2 * unit.dims.cout);
    }
    constexpr bool blocked = RegisterTile<Isa, T>::blocked && std::is_same<H, T>::value;
    using Inner = WeightGradient<Isa, T, bf16, H, H, blocked>;
    const WeightGradient<Isa, T, bf16, T, H, blocked> first_gradient(
        ctx_, scope, units_[0].dims, x_, da_[0][0], units_[0].dw, units_[0].overwrite);
    const WeightGradient<Isa, T, bf16, H, T, blocked> last_gradient(
        ctx_, scope, units_[last].dims, hidden_[last - 1], dh_, units_[last].dw, units_[last].overwrite);
    Inner* inner = scope.template take<Inner>(last);
    int64_t gradient_size = ops::max_of(first_gradient.scratch_size(), last_gradient.scratch_size());
    for (int u = 1; u < last; ++u) {
      new (inner + u)
          Inner(ctx_, scope, units_[u].dims, hidden_[u - 1], da_[0][u], units_[u].dw, units_[u].overwrite);
      gradient_size = ops::max_of(gradient_size, inner[u].scratch_size());
    }
    dh_image_ = last_gradient.dy_image();
    if (dx_.data && units_[0].dims.kernel == 3) {
      products_ = scope.template take<T>(m_ * products_stride<T>(units_[0].dims.in.c) + kSlack);
    }
    const int64_t strips = ops::min_of(kMostStrips, rows_.count()),
                  strips_size = strips * weights_.strip_size();
    const int64_t scratch_size = ops::max_of(strips_size, gradient_size);
    T* scratches = scope.template take<T>(threads * scratch_size);
    LeftStrip<T>* left_strips = scope.template take<LeftStrip<T>>(threads * strips);
    const auto take_queue = [&] {
      return WorkQueue(scope.template take<WorkQueue::Progress>(threads), threads);
    };
    const WorkQueue queues[2] = {take_queue(), take_queue()};
    const int64_t most = ops::max_of<int64_t>(1, (kBlockStrips + group_strips() / 2) / group_strips());
    run_team<Isa>(threads, [&](const Team& team) {
      [[maybe_unused]] const typename MatrixUnit<Isa>::Session session;
      T* scratch = scratches + team.rank * scratch_size;
      weights_.pack(team);
      team.barrier();
      int turn = 0;
      for (int64_t begin = 0, end; begin < m_; begin = end, turn = 1 - turn) {
        end = blocks.next(begin, m_, run);
        const Strided<H>* da = da_[turn];
        const int64_t first = rows_.at(begin), behind = rows_.at(end);
        queues[turn].run(team, groups_of(behind - first), most, [&](int64_t from, int64_t to) {
          const int64_t strip = first + from * group_strips(),
                        next = ops::min_of(behind, first + to * group_strips());
          zero_sums(strip, next);
          by_strips(strip, next, [&](int64_t t, int64_t t_next) {
            derivatives(da, begin, t, t_next, left_strips + team.rank * strips, scratch);
          });
        });
        queues[1 - turn].reset(team);  // no thread takes from it before the barrier
        team.barrier();
        if (!units_[0].dw) continue;
        last_gradient.add(team, begin, end, dh_, scratch);
        for (int u = last - 1; u > 0; --u) inner[u].add(team, begin, end, da[u].from_row(-begin), scratch);
        first_gradient.add(team, begin, end, da[0].from_row(-begin), scratch);
      }
      team.barrier();
      if (units_[0].dw) {
        last_gradient.finish(team);
        for (int u = 1; u < last; ++u) inner[u].finish(team);
        first_gradient.finish(team);
        for (int u = 0; u < last; ++u) {
          const int64_t width = units_[u].dims.cout;
          add_sums(units_[u], sums_[u], groups, team.begin(width), team.end(width));
        }
      }
      if (!products_) return;
      const Shape& in = units_[0].dims.in;
      gather_taps<Isa, T>(in, team.begin(m_), team.end(m_), -1, products_, in.c,
                          static_cast<const T*>(nullptr), AddTo<T>{dx_.data, dx_.stride});
    });
  }

  static constexpr int64_t kRows = RegisterTile<Isa, T>::rows;

  // One thread adds up the columns of a group of strips, whatever the number of threads. A group is about a
  // sixth of a depth block, small enough to balance a few threads.
  static constexpr int64_t group_strips() {
    const int64_t strips = kDepthBlock / kRows;
    for (int64_t parts = 6;; --parts) {
      if (strips % parts == 0) return strips / parts;
    }
  }
  static int64_t groups_of(int64_t strips) { return (strips + group_strips() - 1) / group_strips(); }

  void zero_sums(int64_t first_strip, int64_t end_strip) const {
    const int64_t first = first_strip / group_strips(), count = groups_of(end_strip) - first;
    for (int u = 0; u + 1 < count_; ++u) {
      const int64_t size = 2 * units_[u].dims.cout;
      zero(sums_[u] + first * size, count * size);
    }
  }

  /// Computes da of each unit, and dx, for strips [first, end) of a run that starts at row `begin`.
  void derivatives(const Strided<H>* da, int64_t begin, int64_t first, int64_t end, LeftStrip<T>* left_strips,
                   T* strips) const {
    const auto multiply = [&](int u, const LeftRows<Isa, T>& a, const auto& finish) {
      weights_.multiply(u, a, rows_, first, end, finish, group_strips(), left_strips, strips);
    };
    const auto derive = [&](int u, const LeftRows<Isa, T>& a) {
      multiply(u, a, derivative(u - 1, da[u - 1].from_row(-begin), sums_[u - 1]));
    };
    if (units_[count_ - 1].dims.kernel == 3) {
      derive(count_ - 1, Patches<Isa, T, bf16>{dh_image_});
    } else {
      derive(count_ - 1, MatrixRows<Isa, T, T, bf16>{dh_, units_[count_ - 1].dims.cout});
    }
    const auto rows_of = [&](int u) {
      return MatrixRows<Isa, T, H, bf16>{da[u].from_row(-begin), units_[u].dims.cout};
    };
    for (int u = count_ - 2; u > 0; --u) derive(u, rows_of(u));
    if (products_) {
      multiply(0, rows_of(0), ActivateTo<T, T>{{products_, products_stride<T>(units_[0].dims.in.c)}});
    } else if (dx_.data) {
      multiply(0, rows_of(0), AddTo<T>{dx_.data, dx_.stride});
    }
  }

  Context& ctx_;
  const StackUnit<T>* units_;
  int count_;
  Strided<const T> x_;
  Strided<const T> dh_;
  Strided<T> dx_;
  int64_t m_;
  RowStrips rows_;
  Hidden<T, H> hidden_;
  PackedUnits<Isa, T, bf16> weights_;
  Strided<H>* da_[2] = {};  ///< da of alternate runs, for all units but the last
  T** sums_ = nullptr;      ///< column sums of da and of dy * y, (groups, 2, width) per unit
  T* products_ = nullptr;
  Bordered<Isa, T, bf16> dh_image_;
};

/// dh is da of the last unit: the caller has already differentiated that unit's epilogue.
template <class Isa, class T, class H>
void stack_backward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, const H* acts,
                    View<const T> dh, View<T> dx) {
  StackBackward<Isa, T, H>(ctx, units, count, x, acts, dh, dx).run();
}

}  // namespace evenflow::gemm
