#pragma once

#include "kernels/cpu/gemm/chain.hpp"
#include "kernels/cpu/gemm/small_net.hpp"

// Runs a chain of convolutions as one kernel: a block of pixels passes all units while its activations stay
// in L2.
//
//   for each block of 8 strips              pixels; threads take blocks from a work queue
//     for each unit of the chain            its input is the block's output of the unit before, in L2
//       for each panel of weights           outputs; all units are packed once and shared by all threads
//         for each strip of the block       pixels; rows read in place, or patches gathered for 3x3
//           microkernel                     inputs (times taps); sums in registers
//           finish                          bias, scale, ReLU; stores the next unit's input
//   barrier, if the last unit is 3x3
//   for each pixel                          threads divide them; sums nine taps of its neighbours
//
// Activations that the backward pass does not need stay in two buffers per thread. Small batches and chains
// with inner 3x3 units run unit by unit instead, with all threads inside each product.

namespace evenflow::gemm {

template <class Isa, class T, class H>
class StackForward {
 public:
  StackForward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, H* acts, View<T> h)
      : ctx_(ctx),
        scope_(ctx),
        units_(units),
        count_(count),
        x_(strided_of(x)),
        h_(strided_of(h)),
        m_(x.shape.pixels()),
        rows_(RowStrips::of<Isa, T>(m_)),
        acts_(acts),
        hidden_{acts, units, m_, acts && channel_blocked<Isa, T, H>(units, count, m_)} {}

  void run() {
    if constexpr (std::is_same<H, T>::value) {
      if (m_ == 1 && pointwise(units_, count_)) return one_row();
    }
    if constexpr (std::is_same<H, T>::value && SmallNet<Isa, T>::exists) {
      if (!acts_ && pointwise(units_, count_) && SmallNet<Isa, T>::fits(units_, count_, m_)) {
        return side_by_side();
      }
    }
    int64_t depth = 1;
    for (int u = 0; u < count_; ++u) depth = ops::max_of(depth, units_[u].dims.weight_rows());
    if (in_blocks<Isa, T>(units_, count_, m_, depth)) {
      by_blocks();
    } else {
      by_units();
    }
  }

 private:
  static constexpr bool bf16 = split<Isa> || std::is_same<H, Bf16>::value;

  void one_row() {
    T* y = acts_ ? acts_ : scope_.template take<T>(activation_values(units_, count_, 1, sizeof(T)));
    const T* x = x_.data;
    for (int u = 0; u < count_; ++u) {
      const ConvDims& dims = units_[u].dims;
      const Epilogue<T>& e = units_[u].epilogue;
      if (u + 1 == count_) y = h_.data;
      const WeightsB<Isa, T, bf16> b(WeightsAs::rows, dims, units_[u].w);
      const ActivateTo<T, T> finish{{y, 0}, e.bias, e.scale, e.relu};
      if constexpr (split<Isa>) {
        multiply_row(ctx_, x, b, finish);
      } else if (!multiply_row(ctx_, x, b, finish)) {
        multiply<Isa, T, false>(ctx_, 1, MatrixRows<Isa, T, T, false>{{x}, dims.in.c}, b, finish);
      }
      x = y;
      y += padded_stride(dims.cout, sizeof(T));
    }
  }

  void side_by_side() {
    int64_t products = 0;
    for (int u = 0; u < count_; ++u) products += units_[u].dims.weight_size();
    const int threads = threads_for_product(ctx_, m_, products, 1);
    const SmallNet<Isa, T> net(scope_, units_, count_);
    T* scratches = scope_.template take<T>(threads * net.scratch_size());
    run_team<Isa>(threads, [&](const Team& team) {
      net.run(x_, h_, team.begin(m_), team.end(m_), scratches + team.rank * net.scratch_size());
    });
  }

  void by_units() {
    if (!acts_) hidden_.data = scope_.template take<H>(activation_values(units_, count_, m_, sizeof(H)));
    for (int u = 0; u < count_; ++u) {
      const StackUnit<T>& unit = units_[u];
      const bool first = u == 0, last = u + 1 == count_;
      if (first && last) {
        conv_forward<Isa, T, bf16, T, T>(ctx_, unit.dims, x_, unit.w, unit.epilogue, h_);
      } else if (first) {
        conv_forward<Isa, T, bf16, T, H>(ctx_, unit.dims, x_, unit.w, unit.epilogue, hidden_[0]);
      } else if (last) {
        conv_forward<Isa, T, bf16, H, T>(ctx_, unit.dims, hidden_[u - 1], unit.w, unit.epilogue, h_);
      } else {
        conv_forward<Isa, T, bf16, H, H>(ctx_, unit.dims, hidden_[u - 1], unit.w, unit.epilogue, hidden_[u]);
      }
    }
  }

  void by_blocks() {
    const StackUnit<T>& last = units_[count_ - 1];
    const bool taps_last = last.dims.kernel == 3, taps_first = units_[0].dims.kernel == 3;
    const int threads = ctx_.threads();
    weights_.take(scope_, count_);
    const int64_t strips = ops::min_of(kBlockStrips, rows_.count()),
                  block_rows = strips * RegisterTile<Isa, T>::rows;
    int64_t local_size = 0;
    for (int u = 0; u < count_; ++u) {
      const bool by_taps = u + 1 == count_ && taps_last;
      weights_.set(
          scope_, u,
          {by_taps ? WeightsAs::channels_by_tap_outputs : WeightsAs::rows, units_[u].dims, units_[u].w});
      if (u + 1 < count_ && !acts_) {
        local_size = ops::max_of(local_size, hidden_.size(u, block_rows));
      }
    }
    const int64_t strip_size = weights_.strip_size();
    T* strip_buffers = scope_.template take<T>(threads * strips * strip_size);
    LeftStrip<T>* left_strips = scope_.template take<LeftStrip<T>>(threads * strips);
    H* local = scope_.template take<H>(threads * 2 * local_size);
    if (taps_last) {
      products_ = scope_.template take<T>(m_ * products_stride<T>(last.dims.cout) + kSlack);
      outside_ = outside_weights(scope_, last.dims, last.w);
    }
    if (taps_first) {
      image_ = bordered<Isa, T, bf16>(ctx_, scope_, x_, units_[0].dims.in, units_[0].dims.edge);
    }
    const WorkQueue queue(scope_.template take<WorkQueue::Progress>(threads), threads);
    run_team<Isa>(threads, [&](const Team& team) {
      [[maybe_unused]] const typename MatrixUnit<Isa>::Session session;
      weights_.pack(team);
      team.barrier();
      const Scratch scratch{left_strips + team.rank * strips,
                            strip_buffers + team.rank * strips * strip_size,
                            {local + team.rank * 2 * local_size, local + (team.rank * 2 + 1) * local_size}};
      queue.run(team, rows_.count(), kBlockStrips,
                [&](int64_t first, int64_t end) { block(first, end, scratch); });
      if (!taps_last) return;
      team.barrier();
      gather_taps<Isa, T>(last.dims.in, team.begin(m_), team.end(m_), 1, products_, last.dims.cout, outside_,
                          ActivateTo<T, T>{h_, last.epilogue.bias, last.epilogue.scale, last.epilogue.relu});
    });
  }

  /// Scratch memory of one thread.
  struct Scratch {
    LeftStrip<T>* left_strips;
    T* strips;
    H* hidden[2];  ///< activations of the current block, if they are not kept
  };

  /// Hidden activations of a unit for the block that starts at strip `first`.
  Strided<H> hidden(int u, int64_t first, const Scratch& scratch) const {
    if (acts_) return hidden_[u];
    return hidden_.matrix(scratch.hidden[u % 2], u, m_).from_row(-rows_.row(first));
  }

  void block(int64_t first, int64_t end, const Scratch& scratch) const {
    for (int u = 0; u < count_; ++u) {
      if (u > 0) {
        unit(u, MatrixRows<Isa, T, H, bf16>{hidden(u - 1, first, scratch), units_[u].dims.in.c}, first, end,
             scratch);
      } else if (units_[0].dims.kernel == 3) {
        unit(0, Patches<Isa, T, bf16>{image_}, first, end, scratch);
      } else {
        unit(0, MatrixRows<Isa, T, T, bf16>{x_, units_[0].dims.in.c}, first, end, scratch);
      }
    }
  }

  void unit(int u, const LeftRows<Isa, T>& a, int64_t first, int64_t end, const Scratch& scratch) const {
    const Epilogue<T>& e = units_[u].epilogue;
    if (u + 1 < count_) {
      product(u, a, first, end, scratch,
              ActivateTo<T, H>{hidden(u, first, scratch), e.bias, e.scale, e.relu});
    } else if (products_) {
      product(u, a, first, end, scratch,
              ActivateTo<T, T>{{products_, products_stride<T>(units_[u].dims.cout)}});
    } else {
      product(u, a, first, end, scratch, ActivateTo<T, T>{h_, e.bias, e.scale, e.relu});
    }
  }

  template <class Finish>
  void product(int u, const LeftRows<Isa, T>& a, int64_t first, int64_t end, const Scratch& scratch,
               const Finish& finish) const {
    weights_.multiply(u, a, rows_, first, end, finish, kEveryStrip, scratch.left_strips, scratch.strips);
  }

  Context& ctx_;
  WorkspaceScope scope_;
  const StackUnit<T>* units_;
  int count_;
  Strided<const T> x_;
  Strided<T> h_;
  int64_t m_;
  RowStrips rows_;
  H* acts_;
  Hidden<T, H> hidden_;
  PackedUnits<Isa, T, bf16> weights_;
  T* products_ = nullptr;
  const T* outside_ = nullptr;
  Bordered<Isa, T, bf16> image_;
};

/// acts: hidden activations of type H, which are kept; null: they are not.
template <class Isa, class T, class H>
void stack_forward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, H* acts, View<T> h) {
  StackForward<Isa, T, H>(ctx, units, count, x, acts, h).run();
}

}  // namespace evenflow::gemm
