#pragma once

#include "kernels/cpu/gemm/conv.hpp"

// A chain of convolutions as one kernel. Forward, a block of pixels goes through the whole chain while its
// activations are in the second-level cache. Backward, the derivative of each activation is taken where the
// product that yields its gradient leaves the registers.

namespace evenflow::gemm {

/// The hidden activations of a chain in one buffer, H: T or Bf16. Rows are padded_stride apart.
template <class T, class H>
struct HiddenViews {
  H* data;
  const StackUnit<T>* units;
  int64_t pixels;

  EVENFLOW_HD View<H> operator[](int unit) const {
    H* at = data;
    for (int u = 0; u < unit; ++u) at += pixels * padded_stride(units[u].dims.cout, sizeof(H));
    const int64_t cout = units[unit].dims.cout;
    return View<H>(at, units[unit].dims.in.with_channels(cout), padded_stride(cout, sizeof(H)));
  }
};

/// Whether no unit looks at neighbours.
template <class T>
EVENFLOW_HD bool pointwise(const StackUnit<T>* units, int count) {
  for (int u = 0; u < count; ++u) {
    if (units[u].dims.kernel != 1) return false;
  }
  return true;
}

/// Whether a block of pixels can pass the whole chain: only the first and the last unit look at neighbours.
template <class T>
EVENFLOW_HD bool pointwise_inside(const StackUnit<T>* units, int count) {
  for (int u = 1; u < count; ++u) {
    if (units[u].dims.kernel != 1 && (u + 1 < count || gather_input(units[u].dims))) return false;
  }
  return count > 1 && gather_input(units[0].dims);
}

template <class Isa, class T, class H>
class StackForward {
 public:
  StackForward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, H* acts, View<T> h)
      : ctx_(ctx),
        scope_(ctx),
        units_(units),
        count_(count),
        x_(x),
        h_(h),
        m_(x.shape.pixels()),
        acts_(acts) {}

  void run() {
    if constexpr (std::is_same<H, T>::value) {
      if (m_ == 1 && pointwise(units_, count_)) return one_row();
    }
    int64_t depth = 1;
    for (int u = 0; u < count_; ++u) depth = ops::max_of(depth, units_[u].dims.weight_rows());
    const Blocks<Isa, T> blocks(m_, depth);
    if (blocks.count > 1 && pointwise_inside(units_, count_)) {
      by_blocks(blocks);
    } else {
      by_units();
    }
  }

 private:
  static constexpr bool half = split<Isa> || std::is_same<H, Bf16>::value;

  void one_row() {
    T* y = acts_ ? acts_ : scope_.template take<T>(hidden_size(units_, count_, 1, sizeof(T)));
    const T* x = x_.data;
    for (int u = 0; u < count_; ++u) {
      const ConvDims& dims = units_[u].dims;
      const Epilogue<T>& e = units_[u].epilogue;
      if (u + 1 == count_) y = h_.data;
      const WeightsB<Isa, T, half> b(WeightsAs::rows, dims, units_[u].w);
      const Activate<T, T> finish{y, 0, e.bias, e.scale, e.relu};
      if constexpr (split<Isa>) {
        multiply_row(ctx_, x, b, finish);
      } else if (!multiply_row(ctx_, x, b, finish)) {
        multiply(ctx_, 1, ViewRows<Isa, T, T, false>{x, 0, dims.in.c}, b, finish);
      }
      x = y;
      y += padded_stride(dims.cout, sizeof(T));
    }
  }

  void by_units() {
    if (!acts_) acts_ = scope_.template take<H>(hidden_size(units_, count_, m_, sizeof(H)));
    const HiddenViews<T, H> hidden{acts_, units_, m_};
    for (int u = 0; u < count_; ++u) {
      const StackUnit<T>& unit = units_[u];
      const bool first = u == 0, last = u + 1 == count_;
      if (first && last) {
        conv_forward<Isa, T, half, T, T>(ctx_, unit.dims, x_, unit.w, unit.epilogue, h_);
      } else if (first) {
        conv_forward<Isa, T, half, T, H>(ctx_, unit.dims, x_, unit.w, unit.epilogue, hidden[0]);
      } else if (last) {
        conv_forward<Isa, T, half, H, T>(ctx_, unit.dims, hidden[u - 1], unit.w, unit.epilogue, h_);
      } else {
        conv_forward<Isa, T, half, H, H>(ctx_, unit.dims, hidden[u - 1], unit.w, unit.epilogue, hidden[u]);
      }
    }
  }

  void by_blocks(const Blocks<Isa, T>& blocks) {
    const StackUnit<T>& last = units_[count_ - 1];
    const bool taps_last = last.dims.kernel == 3, taps_first = units_[0].dims.kernel == 3;
    const int threads = ctx_.threads();
    weights_ = scope_.template take<WeightsB<Isa, T, half>>(count_);
    packed_ = scope_.template take<T*>(count_);
    int64_t tile_size = 0, hidden_row = 0, panels = 0;
    for (int u = 0; u < count_; ++u) {
      const bool by_taps = u + 1 == count_ && taps_last;
      weights_[u] = WeightsB<Isa, T, half>(by_taps ? WeightsAs::channels_by_tap_outputs : WeightsAs::rows,
                                           units_[u].dims, units_[u].w);
      packed_[u] = scope_.template take<T>(weights_[u].packed_size());
      panels += weights_[u].panels();
      // Values of patches, and their parts of half the size.
      tile_size = ops::max_of(tile_size, (split<Isa> ? 1 + Isa::parts : 1) * Tile<Isa, T>::rows *
                                                 padded_stride(weights_[u].depth(), sizeof(T)) +
                                             kSlack);
      if (u + 1 < count_) hidden_row = ops::max_of(hidden_row, padded_stride(units_[u].dims.cout, sizeof(H)));
    }
    const int64_t tiles = ops::min_of(kBlockTiles, blocks.tiles);
    T* tile_buffers = scope_.template take<T>(threads * tiles * tile_size);
    Strip<T>* strips = scope_.template take<Strip<T>>(threads * tiles);
    const int64_t local_size = acts_ ? 0 : tiles * Tile<Isa, T>::rows * hidden_row;
    H* local = scope_.template take<H>(threads * 2 * local_size);
    if (taps_last) {
      products_ = scope_.template take<T>(m_ * products_stride<T>(last.dims.cout) + kSlack);
      outside_ = outside_weights(scope_, last.dims, last.w);
    }
    if (taps_first) image_ = bordered<Isa, T, half, T>(ctx_, scope_, x_, units_[0].dims.edge);
    run_team<Isa>(threads, [&](const Team& team) {
      [[maybe_unused]] const typename MatrixUnit<Isa>::Session session;
      pack_share(team, panels);
      team.barrier();
      Room room{strips + team.rank * tiles,
                tile_buffers + team.rank * tiles * tile_size,
                {local + team.rank * 2 * local_size, local + (team.rank * 2 + 1) * local_size}};
      const int64_t first = team.begin(blocks.tiles), share = team.end(blocks.tiles) - first;
      const int64_t parts = (share + kBlockTiles - 1) / kBlockTiles;
      for (int64_t i = 0; i < parts; ++i) {
        block(blocks.row(first + share * i / parts), blocks.row(first + share * (i + 1) / parts), room);
      }
      if (!taps_last) return;
      team.barrier();
      gather_taps<Isa, T>(
          last.dims.in, team.begin(m_), team.end(m_), 1, products_, last.dims.cout, outside_,
          Activate<T, T>{h_.data, h_.stride, last.epilogue.bias, last.epilogue.scale, last.epilogue.relu});
    });
  }

  /// A thread's own memory.
  struct Room {
    Strip<T>* strips;
    T* tiles;
    H* hidden[2];  ///< of the present block, where activations are not kept
  };

  void pack_share(const Team& team, int64_t panels) {
    int64_t first = 0;
    for (int u = 0; u < count_; first += weights_[u++].panels()) {
      for (int64_t p = 0; p < weights_[u].panels(); ++p) {
        if (first + p < team.begin(panels) || first + p >= team.end(panels)) continue;
        weights_[u].pack(packed_[u] + p * weights_[u].panel_size(), p);
      }
    }
  }

  /// Hidden activations of a unit such that row m is at data + m * stride.
  View<H> hidden(int u, int64_t m_begin, const Room& room) const {
    if (acts_) return HiddenViews<T, H>{acts_, units_, m_}[u];
    const int64_t cout = units_[u].dims.cout, stride = padded_stride(cout, sizeof(H));
    return View<H>(room.hidden[u % 2] - m_begin * stride, x_.shape.with_channels(cout), stride);
  }

  void block(int64_t begin, int64_t end, const Room& room) const {
    for (int u = 0; u < count_; ++u) {
      if (u > 0) {
        const View<H> in = hidden(u - 1, begin, room);
        unit(u, ViewRows<Isa, T, H, half>{in.data, in.stride, in.shape.c}, begin, end, room);
      } else if (units_[0].dims.kernel == 3) {
        unit(0, PatchRows<Isa, T, half>{image_}, begin, end, room);
      } else {
        unit(0, ViewRows<Isa, T, T, half>{x_.data, x_.stride, x_.shape.c}, begin, end, room);
      }
    }
  }

  template <class A>
  void unit(int u, const A& a, int64_t begin, int64_t end, const Room& room) const {
    const Epilogue<T>& e = units_[u].epilogue;
    if (u + 1 < count_) {
      const View<H> y = hidden(u, begin, room);
      product(u, a, begin, end, room, Activate<T, H>{y.data, y.stride, e.bias, e.scale, e.relu});
    } else if (products_) {
      product(u, a, begin, end, room, Activate<T, T>{products_, products_stride<T>(units_[u].dims.cout)});
    } else {
      product(u, a, begin, end, room, Activate<T, T>{h_.data, h_.stride, e.bias, e.scale, e.relu});
    }
  }

  template <class A, class Finish>
  void product(int u, const A& a, int64_t begin, int64_t end, const Room& room, const Finish& finish) const {
    const WeightsB<Isa, T, half>& b = weights_[u];
    multiply_block(
        a, begin, end, b, 0, b.panels(), [&](int64_t p) { return b.panel_in(packed_[u], p); }, finish,
        room.strips, room.tiles, true);
  }

  Context& ctx_;
  WorkspaceScope scope_;
  const StackUnit<T>* units_;
  int count_;
  View<const T> x_;
  View<T> h_;
  int64_t m_;
  H* acts_;
  WeightsB<Isa, T, half>* weights_ = nullptr;
  T** packed_ = nullptr;
  T* products_ = nullptr;
  const T* outside_ = nullptr;
  Bordered<Isa, T, half> image_;
};

/// dh is da of the last unit: the caller took its epilogue back.
template <class Isa, class T, class H>
class StackBackward {
 public:
  StackBackward(Context& ctx, const StackUnit<T>* units, int count, View<const T> x, const H* acts,
                View<const T> dh, View<T> dx)
      : ctx_(ctx),
        units_(units),
        count_(count),
        x_(x),
        dh_(dh),
        dx_(dx),
        m_(x.shape.pixels()),
        hidden_{const_cast<H*>(acts), units, m_} {}

  void run() {
    WorkspaceScope scope(ctx_);
    int64_t widest = 0;
    for (int u = 0; u + 1 < count_; ++u) {
      widest = ops::max_of(widest, padded_stride(units_[u].dims.cout, sizeof(H)));
    }
    H* buffers[2] = {scope.template take<H>(m_ * widest), scope.template take<H>(m_ * widest)};
    if (count_ == 1) {
      first_unit<T>(dh_);
      return;
    }
    View<H> da = buffer_for(count_ - 2, buffers);
    inner_unit<T>(count_ - 1, dh_, da);
    for (int u = count_ - 2; u > 0; --u) {
      const View<H> next = buffer_for(u - 1, buffers);
      inner_unit<H>(u, da, next);
      da = next;
    }
    first_unit<H>(da);
  }

 private:
  static constexpr bool half = split<Isa> || std::is_same<H, Bf16>::value;

  View<H> buffer_for(int u, H* const* buffers) const {
    View<H> v = hidden_[u];
    v.data = buffers[u % 2];
    return v;
  }

  /// From da of unit u to its weights' gradient and da of the unit below.
  template <class D>
  void inner_unit(int u, View<const D> da, View<H> below) {
    const StackUnit<T>& unit = units_[u];
    const StackUnit<T>& lower = units_[u - 1];
    const View<const H> y = hidden_[u - 1];
    const int64_t width = y.shape.c;
    WorkspaceScope scope(ctx_);
    // Without patches each row block adds up its own share; see gather_all_taps for the other case.
    const bool taps = unit.dims.kernel == 3 && gather_input(unit.dims);
    const int64_t blocks =
        taps ? 1 : Blocks<Isa, T>(m_, unit.dims.kernel * unit.dims.kernel * unit.dims.cout).count;
    T* sums = scope.template take<T>(blocks * 2 * width);
    for (int64_t i = 0; i < blocks * 2 * width; ++i) sums[i] = T(0);
    const ActivateBackward<T, H> finish{below.data,           below.stride,        y.data, y.stride,
                                        lower.epilogue.scale, lower.epilogue.relu, sums,   width};
    conv_backward_data<Isa, T, half, D>(ctx_, unit.dims, da, unit.w, finish);
    for (int64_t c = 0; c < width; ++c) {
      double total = 0, dots = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        total += sums[2 * b * width + c];
        dots += sums[(2 * b + 1) * width + c];
      }
      if (lower.dbias) lower.dbias[c] += static_cast<T>(total);
      if (lower.dlogs) lower.dlogs[c] += static_cast<T>(lower.logs_factor * dots);
    }
    conv_backward_weights<Isa, T, half, H, D>(ctx_, unit.dims, y, da, unit.dw);
  }

  template <class D>
  void first_unit(View<const D> da) {
    const StackUnit<T>& unit = units_[0];
    if (dx_.data) {
      conv_backward_data<Isa, T, half, D>(ctx_, unit.dims, da, unit.w, AddTo<T>{dx_.data, dx_.stride});
    }
    conv_backward_weights<Isa, T, half, T, D>(ctx_, unit.dims, x_, da, unit.dw);
  }

  Context& ctx_;
  const StackUnit<T>* units_;
  int count_;
  View<const T> x_;
  View<const T> dh_;
  View<T> dx_;
  int64_t m_;
  HiddenViews<T, H> hidden_;
};

}  // namespace evenflow::gemm
