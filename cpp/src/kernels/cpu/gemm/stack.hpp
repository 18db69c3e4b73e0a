#pragma once

#include <new>

#include "kernels/cpu/gemm/conv.hpp"
#include "kernels/cpu/gemm/small_net.hpp"

// A chain of convolutions as one kernel. Forward, a block of pixels goes through the whole chain while its
// activations are in the second-level cache. Backward, the derivative of each activation is taken where the
// product that yields its gradient leaves the registers.

namespace evenflow::gemm {

/// The hidden activations of a chain in one buffer, H: T or Bf16; in panels, or in rows padded_stride apart.
template <class T, class H>
struct HiddenViews {
  H* data;
  const StackUnit<T>* units;
  int64_t pixels;
  bool panels;

  EVENFLOW_HD View<H> operator[](int unit) const {
    H* at = data;
    for (int u = 0; u < unit; ++u) at += hidden_size(units[u].dims.cout, pixels, sizeof(H));
    return view(at, units[unit]);
  }
  /// Of a unit's activations at `at`.
  EVENFLOW_HD View<H> view(H* at, const StackUnit<T>& unit) const {
    const int64_t cout = unit.dims.cout;
    return View<H>(at, unit.dims.in.with_channels(cout),
                   panels ? Matrix<H>::line : padded_stride(cout, sizeof(H)));
  }
  /// Values of a buffer for the activations of so many pixels.
  EVENFLOW_HD int64_t size(int64_t channels, int64_t count) const {
    return panels ? panels_size(channels, count, sizeof(H)) : count * padded_stride(channels, sizeof(H));
  }
  /// Of such a buffer; see Matrix.
  EVENFLOW_HD int64_t hop(int64_t count) const {
    return panels ? (panel_rows(count) - 1) * Matrix<H>::line : 0;
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

/// Whether it is worth it, with sums over `depth` steps.
template <class Isa, class T>
bool in_blocks(const StackUnit<T>* units, int count, int64_t pixels, int64_t depth) {
  return Blocks<Isa, T>(pixels, depth).count > 1 && pointwise_inside(units, count);
}

/// The longest sum of a chain's products, of those backward.
template <class T>
EVENFLOW_HD int64_t backward_depth(const StackUnit<T>* units, int count) {
  int64_t depth = 1;
  for (int u = 0; u < count; ++u) depth = ops::max_of(depth, units[u].dims.taps() * units[u].dims.cout);
  return depth;
}

/// Whether kept activations lie in panels; the way back asks too. Products with one or two columns read rows
/// by vectors, which know no hops.
template <class Isa, class T, class H>
bool in_panels(const StackUnit<T>* units, int count, int64_t pixels) {
  if (!Tile<Isa, T>::panels || !std::is_same<H, T>::value || pixels < kPanelPixels) return false;
  for (int u = 0; u < count; ++u) {
    if (units[u].dims.in.c <= 2 || units[u].dims.cout <= 2) return false;
  }
  return in_blocks<Isa, T>(units, count, pixels, backward_depth(units, count));
}

/// The weights of a chain's units, packed, and products with them.
template <class Isa, class T, bool half>
class PackedUnits {
 public:
  void take(WorkspaceScope& scope, int count) {
    count_ = count;
    weights_ = scope.take<WeightsB<Isa, T, half>>(count);
    packed_ = scope.take<T*>(count);
  }

  void set(WorkspaceScope& scope, int u, const WeightsB<Isa, T, half>& weights) {
    weights_[u] = weights;
    packed_[u] = scope.take<T>(weights.packed_size());
    size_ += weights.packed_size();
    // Values of patches, and their parts of half the size.
    tile_size_ = ops::max_of(tile_size_, (split<Isa> ? 1 + Isa::parts : 1) * Tile<Isa, T>::rows *
                                                 padded_stride(weights.depth(), sizeof(T)) +
                                             kSlack);
  }

  /// Of the largest tile of pixels.
  int64_t tile_size() const { return tile_size_; }

  /// This thread's share.
  void pack(const Team& team) const {
    int64_t first = 0;  // value of all units' panels
    for (int u = 0; u < count_; ++u) {
      const int64_t size = weights_[u].panel_size();
      for (int64_t p = 0; p < weights_[u].panels(); ++p, first += size) {
        if (first < team.begin(size_) || first >= team.end(size_)) continue;
        weights_[u].pack(packed_[u] + p * size, p);
      }
    }
  }

  /// finish_of(tile)(tiles [first, end) of a times the weights of unit u).
  template <class A, class FinishOf>
  void multiply(int u, const A& a, const RowTiles& rows, int64_t first, int64_t end,
                const FinishOf& finish_of, PlacedTile<T>* placed, T* tiles) const {
    const WeightsB<Isa, T, half>& b = weights_[u];
    multiply_block(
        a, rows, first, end, b, 0, b.panels(), [&](int64_t p) { return b.panel_in(packed_[u], p); },
        finish_of, placed, tiles, true);
  }

 private:
  int count_ = 0;
  WeightsB<Isa, T, half>* weights_ = nullptr;
  T** packed_ = nullptr;
  int64_t size_ = 0, tile_size_ = 0;
};

/// f(begin, end) for the tiles [first, last) of a thread, about kBlockTiles at a time: as many as its cache
/// holds, so that weights are seldom read.
template <class F>
void by_tiles(int64_t first, int64_t last, const F& f) {
  const int64_t count = last - first,
                parts = ops::max_of<int64_t>(1, (count + kBlockTiles / 2) / kBlockTiles);
  for (int64_t i = 0; i < parts && count > 0; ++i)
    f(first + count * i / parts, first + count * (i + 1) / parts);
}
constexpr int64_t kMostTiles = kBlockTiles + kBlockTiles / 2;  ///< at a time, of by_tiles

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
        rows_(RowTiles::of<Isa, T>(m_)),
        acts_(acts),
        hidden_{acts, units, m_, acts && in_panels<Isa, T, H>(units, count, m_)} {}

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
  static constexpr bool half = split<Isa> || std::is_same<H, Bf16>::value;

  void one_row() {
    T* y = acts_ ? acts_ : scope_.template take<T>(hidden_size(units_, count_, 1, sizeof(T)));
    const T* x = x_.data;
    for (int u = 0; u < count_; ++u) {
      const ConvDims& dims = units_[u].dims;
      const Epilogue<T>& e = units_[u].epilogue;
      if (u + 1 == count_) y = h_.data;
      const WeightsB<Isa, T, half> b(WeightsAs::rows, dims, units_[u].w);
      const Activate<T, T> finish{{y, 0}, e.bias, e.scale, e.relu};
      if constexpr (split<Isa>) {
        multiply_row(ctx_, x, b, finish);
      } else if (!multiply_row(ctx_, x, b, finish)) {
        multiply(ctx_, 1, ViewRows<Isa, T, T, false>{x, 0, dims.in.c}, b, finish);
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
    T* rooms = scope_.template take<T>(threads * net.room());
    run_team<Isa>(threads, [&](const Team& team) {
      net.run(x_, h_, team.begin(m_), team.end(m_), rooms + team.rank * net.room());
    });
  }

  void by_units() {
    if (!acts_) hidden_.data = scope_.template take<H>(hidden_size(units_, count_, m_, sizeof(H)));
    const int64_t hop = hidden_.hop(m_);
    for (int u = 0; u < count_; ++u) {
      const StackUnit<T>& unit = units_[u];
      const bool first = u == 0, last = u + 1 == count_;
      if (first && last) {
        conv_forward<Isa, T, half, T, T>(ctx_, unit.dims, x_, unit.w, unit.epilogue, h_);
      } else if (first) {
        conv_forward<Isa, T, half, T, H>(ctx_, unit.dims, x_, unit.w, unit.epilogue, hidden_[0], 0, hop);
      } else if (last) {
        conv_forward<Isa, T, half, H, T>(ctx_, unit.dims, hidden_[u - 1], unit.w, unit.epilogue, h_, hop);
      } else {
        conv_forward<Isa, T, half, H, H>(ctx_, unit.dims, hidden_[u - 1], unit.w, unit.epilogue, hidden_[u],
                                         hop, hop);
      }
    }
  }

  void by_blocks() {
    const StackUnit<T>& last = units_[count_ - 1];
    const bool taps_last = last.dims.kernel == 3, taps_first = units_[0].dims.kernel == 3;
    const int threads = ctx_.threads();
    weights_.take(scope_, count_);
    const int64_t tiles = ops::min_of(kMostTiles, rows_.count()), tile_rows = tiles * Tile<Isa, T>::rows;
    int64_t local_size = 0;
    for (int u = 0; u < count_; ++u) {
      const bool by_taps = u + 1 == count_ && taps_last;
      weights_.set(
          scope_, u,
          {by_taps ? WeightsAs::channels_by_tap_outputs : WeightsAs::rows, units_[u].dims, units_[u].w});
      if (u + 1 < count_ && !acts_) {
        local_size = ops::max_of(local_size, hidden_.size(units_[u].dims.cout, tile_rows));
      }
    }
    const int64_t tile_size = weights_.tile_size();
    T* tile_buffers = scope_.template take<T>(threads * tiles * tile_size);
    PlacedTile<T>* placed = scope_.template take<PlacedTile<T>>(threads * tiles);
    H* local = scope_.template take<H>(threads * 2 * local_size);
    if (taps_last) {
      products_ = scope_.template take<T>(m_ * products_stride<T>(last.dims.cout) + kSlack);
      outside_ = outside_weights(scope_, last.dims, last.w);
    }
    if (taps_first) image_ = bordered<Isa, T, half, T>(ctx_, scope_, x_, units_[0].dims.edge);
    run_team<Isa>(threads, [&](const Team& team) {
      [[maybe_unused]] const typename MatrixUnit<Isa>::Session session;
      weights_.pack(team);
      team.barrier();
      const Room room{placed + team.rank * tiles,
                      tile_buffers + team.rank * tiles * tile_size,
                      {local + team.rank * 2 * local_size, local + (team.rank * 2 + 1) * local_size}};
      by_tiles(team.begin(rows_.count()), team.end(rows_.count()),
               [&](int64_t first, int64_t end) { block(first, end, room); });
      if (!taps_last) return;
      team.barrier();
      gather_taps<Isa, T>(
          last.dims.in, team.begin(m_), team.end(m_), 1, products_, last.dims.cout, outside_,
          Activate<T, T>{{h_.data, h_.stride}, last.epilogue.bias, last.epilogue.scale, last.epilogue.relu});
    });
  }

  /// A thread's own memory.
  struct Room {
    PlacedTile<T>* placed;
    T* tiles;
    H* hidden[2];  ///< of the present block, where activations are not kept
  };

  /// Hidden activations of a unit, of the block that starts at tile `first`: row m is at data + m * stride.
  View<H> hidden(int u, int64_t first, const Room& room) const {
    if (acts_) return hidden_[u];
    View<H> view = hidden_.view(room.hidden[u % 2], units_[u]);
    view.data -= rows_.row(first) * view.stride;
    return view;
  }

  void block(int64_t first, int64_t end, const Room& room) const {
    for (int u = 0; u < count_; ++u) {
      if (u > 0) {
        const View<H> in = hidden(u - 1, first, room);
        unit(u, ViewRows<Isa, T, H, half>{in.data, in.stride, in.shape.c, hidden_.hop(m_)}, first, end, room);
      } else if (units_[0].dims.kernel == 3) {
        unit(0, PatchRows<Isa, T, half>{image_}, first, end, room);
      } else {
        unit(0, ViewRows<Isa, T, T, half>{x_.data, x_.stride, x_.shape.c}, first, end, room);
      }
    }
  }

  template <class A>
  void unit(int u, const A& a, int64_t first, int64_t end, const Room& room) const {
    const Epilogue<T>& e = units_[u].epilogue;
    if (u + 1 < count_) {
      const View<H> y = hidden(u, first, room);
      product(u, a, first, end, room,
              Activate<T, H>{{y.data, y.stride, hidden_.hop(m_)}, e.bias, e.scale, e.relu});
    } else if (products_) {
      product(u, a, first, end, room, Activate<T, T>{{products_, products_stride<T>(units_[u].dims.cout)}});
    } else {
      product(u, a, first, end, room, Activate<T, T>{{h_.data, h_.stride}, e.bias, e.scale, e.relu});
    }
  }

  template <class A, class Finish>
  void product(int u, const A& a, int64_t first, int64_t end, const Room& room, const Finish& finish) const {
    weights_.multiply(
        u, a, rows_, first, end, [&](int64_t) -> const auto& { return finish; }, room.placed, room.tiles);
  }

  Context& ctx_;
  WorkspaceScope scope_;
  const StackUnit<T>* units_;
  int count_;
  View<const T> x_;
  View<T> h_;
  int64_t m_;
  RowTiles rows_;
  H* acts_;
  HiddenViews<T, H> hidden_;
  PackedUnits<Isa, T, half> weights_;
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
        rows_(RowTiles::of<Isa, T>(m_)),
        hidden_{const_cast<H*>(acts), units, m_, in_panels<Isa, T, H>(units, count, m_)} {}

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
  static constexpr bool half = split<Isa> || std::is_same<H, Bf16>::value;

  void by_units() {
    WorkspaceScope scope(ctx_);
    int64_t widest = 0;
    for (int u = 0; u + 1 < count_; ++u) {
      widest = ops::max_of(widest, padded_stride(units_[u].dims.cout, sizeof(H)));
    }
    H* buffers[2] = {scope.template take<H>(m_ * widest), scope.template take<H>(m_ * widest)};
    View<H> da = buffer_for(count_ - 2, buffers);
    inner_unit<T>(count_ - 1, dh_, da);
    for (int u = count_ - 2; u > 0; --u) {
      const View<H> next = buffer_for(u - 1, buffers);
      inner_unit<H>(u, da, next);
      da = next;
    }
    first_unit<H>(da);
  }

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
    T* sums = scope.take<T>(blocks * 2 * width);
    zero(sums, blocks * 2 * width);
    conv_backward_data<Isa, T, half, D>(ctx_, unit.dims, da, unit.w,
                                        derivative(u - 1, {below.data, below.stride}, sums));
    add_sums(lower, sums, blocks, 0, width);
    conv_backward_weights<Isa, T, half, H, D>(ctx_, unit.dims, y, da, unit.dw, unit.overwrite);
  }

  template <class D>
  void first_unit(View<const D> da) {
    const StackUnit<T>& unit = units_[0];
    if (dx_.data) {
      conv_backward_data<Isa, T, half, D>(ctx_, unit.dims, da, unit.w, AddTo<T>{dx_.data, dx_.stride});
    }
    conv_backward_weights<Isa, T, half, T, D>(ctx_, unit.dims, x_, da, unit.dw, unit.overwrite);
  }

  /// What turns the gradient of unit u's activation into da and adds up its columns.
  ActivateBackward<T, H> derivative(int u, const Matrix<H>& da, T* sums) const {
    const View<H> y = hidden_[u];
    const Epilogue<T>& e = units_[u].epilogue;
    return {da, {y.data, y.stride, hidden_.hop(m_)}, e.scale, e.relu, sums, y.shape.c};
  }

  static void zero(T* sums, int64_t count) {
    for (int64_t i = 0; i < count; ++i) sums[i] = T(0);
  }

  /// The sums of all blocks to the gradients of bias and scale, columns [begin, end). Inlined it would be in
  /// every chain of every type.
  __attribute__((noinline)) static void add_sums(const StackUnit<T>& unit, const T* sums, int64_t blocks,
                                                 int64_t begin, int64_t end) {
    const int64_t width = unit.dims.cout;
    constexpr int64_t kAtOnce = 64;  // neighbours of a row of sums
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

  /// A run of pixels at a time: each thread takes its share through all units, then all threads add the run
  /// to the gradients of the weights. Activations come from memory once, and their derivatives never go
  /// there.
  void by_runs() {
    WorkspaceScope scope(ctx_);
    const int threads = ctx_.threads(), last = count_ - 1;
    // Whole blocks of the gradients' sums, so that these do not depend on the threads; about kBlockTiles
    // tiles for each thread.
    const PixelBlocks blocks = PixelBlocks::of<Isa, T>(m_, by_pairs<Isa, half>);
    const int64_t run = (threads * kBlockTiles * kRows + blocks.size - 1) / blocks.size;  // blocks
    const int64_t largest = ops::min_of(m_, (run - 1) * blocks.size + blocks.largest);
    const int64_t groups = groups_of(rows_.count());
    weights_.take(scope, count_);
    da_ = scope.template take<View<H>>(last);
    sums_ = scope.template take<T*>(last);
    for (int u = 0; u < count_; ++u) {
      const StackUnit<T>& unit = units_[u];
      weights_.set(scope, u,
                   {u > 0 && unit.dims.kernel == 3 ? WeightsAs::tap_outputs_by_channels
                                                   : WeightsAs::outputs_by_tap_channels,
                    unit.dims, unit.w});
      if (u == last) break;
      da_[u] = hidden_[u];
      da_[u].data = scope.template take<H>(hidden_.size(unit.dims.cout, largest));
      sums_[u] = scope.template take<T>(groups * 2 * unit.dims.cout);
    }
    const int64_t hop = hidden_.hop(m_);
    da_hop_ = hidden_.hop(largest);
    constexpr bool panels = Tile<Isa, T>::panels && std::is_same<H, T>::value;
    using Inner = WeightGradient<Isa, T, half, H, H, panels>;
    const WeightGradient<Isa, T, half, T, H, panels> first_gradient(
        ctx_, scope, units_[0].dims, x_, da_[0], units_[0].dw, units_[0].overwrite, 0, da_hop_);
    const WeightGradient<Isa, T, half, H, T, panels> last_gradient(
        ctx_, scope, units_[last].dims, hidden_[last - 1], dh_, units_[last].dw, units_[last].overwrite, hop);
    Inner* inner = scope.template take<Inner>(last);
    int64_t gradient_size = ops::max_of(first_gradient.room(), last_gradient.room());
    for (int u = 1; u < last; ++u) {
      new (inner + u) Inner(ctx_, scope, units_[u].dims, hidden_[u - 1], da_[u], units_[u].dw,
                            units_[u].overwrite, hop, da_hop_);
      gradient_size = ops::max_of(gradient_size, inner[u].room());
    }
    dh_image_ = last_gradient.dy_image();
    if (dx_.data && units_[0].dims.kernel == 3) {
      products_ = scope.template take<T>(m_ * products_stride<T>(x_.shape.c) + kSlack);
    }
    const int64_t tiles = ops::min_of(kMostTiles, rows_.count()), tiles_size = tiles * weights_.tile_size();
    const int64_t room_size = ops::max_of(tiles_size, gradient_size);
    T* rooms = scope.template take<T>(threads * room_size);
    PlacedTile<T>* placed = scope.template take<PlacedTile<T>>(threads * tiles);
    run_team<Isa>(threads, [&](const Team& team) {
      [[maybe_unused]] const typename MatrixUnit<Isa>::Session session;
      T* room = rooms + team.rank * room_size;
      weights_.pack(team);
      team.barrier();
      for (int64_t begin = 0, end; begin < m_; begin = end) {
        end = blocks.next(begin, m_, run);
        const int64_t first_tile = share_of(begin, end, team.rank, team.size),
                      end_tile = share_of(begin, end, team.rank + 1, team.size);
        zero_sums(first_tile, end_tile);
        by_tiles(first_tile, end_tile, [&](int64_t tile, int64_t next) {
          derivatives(begin, tile, next, placed + team.rank * tiles, room);
        });
        team.barrier();
        last_gradient.add(team, begin, end, dh_.data, room);
        for (int u = last - 1; u > 0; --u) inner[u].add(team, begin, end, da_of(u, begin).data, room);
        first_gradient.add(team, begin, end, da_of(0, begin).data, room);
        team.barrier();
      }
      last_gradient.finish(team);
      for (int u = 1; u < last; ++u) inner[u].finish(team);
      first_gradient.finish(team);
      for (int u = 0; u < last; ++u) {
        const int64_t width = units_[u].dims.cout;
        add_sums(units_[u], sums_[u], groups, team.begin(width), team.end(width));
      }
      if (!products_) return;
      gather_taps<Isa, T>(x_.shape, team.begin(m_), team.end(m_), -1, products_, x_.shape.c,
                          static_cast<const T*>(nullptr), AddTo<T>{dx_.data, dx_.stride});
    });
  }

  static constexpr int64_t kRows = Tile<Isa, T>::rows;

  // One thread adds up the columns of a group of tiles, whatever the number of threads: a sixth of a run or
  // so, that few threads get equal shares.
  static constexpr int64_t group_tiles() {
    const int64_t tiles = kPixelBlock / kRows;
    for (int64_t parts = 6;; --parts) {
      if (tiles % parts == 0) return tiles / parts;
    }
  }
  static int64_t groups_of(int64_t tiles) { return (tiles + group_tiles() - 1) / group_tiles(); }

  /// The first tile of a thread's share of the run of rows [begin, end).
  int64_t share_of(int64_t begin, int64_t end, int rank, int size) const {
    const int64_t first = rows_.at(begin), count = rows_.at(end) - first;
    return first + ops::min_of(count, groups_of(count) * rank / size * group_tiles());
  }

  void zero_sums(int64_t first_tile, int64_t end_tile) const {
    const int64_t first = first_tile / group_tiles(), count = groups_of(end_tile) - first;
    for (int u = 0; u + 1 < count_; ++u) {
      const int64_t size = 2 * units_[u].dims.cout;
      zero(sums_[u] + first * size, count * size);
    }
  }

  /// da of unit u, of a run that starts at row `begin`, such that row m is at data + m * stride.
  View<H> da_of(int u, int64_t begin) const {
    View<H> view = da_[u];
    view.data -= begin * view.stride;
    return view;
  }

  /// Tiles [first, end) of a run that starts at row `begin`, from dh to da of each unit and to dx.
  void derivatives(int64_t begin, int64_t first, int64_t end, PlacedTile<T>* placed, T* tiles) const {
    const auto derive = [&](int u, const auto& a) {
      const View<H> below = da_of(u - 1, begin);
      const ActivateBackward<T, H> finish =
          derivative(u - 1, {below.data, below.stride, da_hop_}, sums_[u - 1]);
      weights_.multiply(
          u, a, rows_, first, end, [&](int64_t tile) { return finish.for_block(tile / group_tiles()); },
          placed, tiles);
    };
    if (units_[count_ - 1].dims.kernel == 3) {
      derive(count_ - 1, PatchRows<Isa, T, half>{dh_image_});
    } else {
      derive(count_ - 1, ViewRows<Isa, T, T, half>{dh_.data, dh_.stride, dh_.shape.c});
    }
    const auto rows_of = [&](int u) {
      const View<H> da = da_of(u, begin);
      return ViewRows<Isa, T, H, half>{da.data, da.stride, da.shape.c, da_hop_};
    };
    for (int u = count_ - 2; u > 0; --u) derive(u, rows_of(u));
    if (products_) {
      const Activate<T, T> finish{{products_, products_stride<T>(x_.shape.c)}};
      weights_.multiply(
          0, rows_of(0), rows_, first, end, [&](int64_t) -> const auto& { return finish; }, placed, tiles);
    } else if (dx_.data) {
      const AddTo<T> finish{dx_.data, dx_.stride};
      weights_.multiply(
          0, rows_of(0), rows_, first, end, [&](int64_t) -> const auto& { return finish; }, placed, tiles);
    }
  }

  Context& ctx_;
  const StackUnit<T>* units_;
  int count_;
  View<const T> x_;
  View<const T> dh_;
  View<T> dx_;
  int64_t m_;
  RowTiles rows_;
  HiddenViews<T, H> hidden_;
  PackedUnits<Isa, T, half> weights_;
  View<H>* da_ = nullptr;  ///< of the present run, of all units but the last
  int64_t da_hop_ = 0;
  T** sums_ = nullptr;  ///< their columns' sums, (groups, 2, width)
  T* products_ = nullptr;
  Bordered<Isa, T, half> dh_image_;
};

}  // namespace evenflow::gemm
