#pragma once

#include "kernels/cpu/gemm/conv.hpp"
#include "kernels/cpu/gemm/layout.hpp"

// What both ways through a chain of convolutions share: where its activations lie, and its packed weights.

namespace evenflow::gemm {

/// The hidden activations of a chain in one buffer, H: T or Bf16; in panels, or in rows padded_stride apart.
template <class T, class H>
struct Hidden {
  H* data;
  const StackUnit<T>* units;
  int64_t pixels;
  bool blocked;

  EVENFLOW_INLINE Strided<H> operator[](int unit) const {
    H* at = data;
    for (int u = 0; u < unit; ++u) at += hidden_size(units[u].dims.cout, pixels, sizeof(H));
    return matrix(at, unit, pixels);
  }
  /// A unit's activations of `count` pixels, at `at`.
  EVENFLOW_INLINE Strided<H> matrix(H* at, int unit, int64_t count) const {
    if (blocked) return {at, Strided<H>::line, (blocked_rows(count) - 1) * Strided<H>::line};
    return {at, padded_stride(units[unit].dims.cout, sizeof(H))};
  }
  /// Values that it takes.
  EVENFLOW_INLINE int64_t size(int unit, int64_t count) const {
    const int64_t channels = units[unit].dims.cout;
    return blocked ? blocked_size(channels, count, sizeof(H)) : count * padded_stride(channels, sizeof(H));
  }
};

/// Whether no unit looks at neighbours.
template <class T>
EVENFLOW_INLINE bool pointwise(const StackUnit<T>* units, int count) {
  for (int u = 0; u < count; ++u) {
    if (units[u].dims.kernel != 1) return false;
  }
  return true;
}

/// Whether a block of pixels can pass the whole chain: only the first and the last unit look at neighbours.
template <class T>
EVENFLOW_INLINE bool pointwise_inside(const StackUnit<T>* units, int count) {
  for (int u = 1; u < count; ++u) {
    if (units[u].dims.kernel != 1 && (u + 1 < count || gather_input(units[u].dims))) return false;
  }
  return count > 1 && gather_input(units[0].dims);
}

/// Whether it is worth it, with sums over `depth` steps.
template <class Isa, class T>
bool in_blocks(const StackUnit<T>* units, int count, int64_t pixels, int64_t depth) {
  return CacheBlocks<Isa, T>(pixels, depth).count > 1 && pointwise_inside(units, count);
}

/// The longest sum of a chain's products, of those backward.
template <class T>
EVENFLOW_INLINE int64_t backward_depth(const StackUnit<T>* units, int count) {
  int64_t depth = 1;
  for (int u = 0; u < count; ++u) depth = ops::max_of(depth, units[u].dims.taps() * units[u].dims.cout);
  return depth;
}

/// Whether kept activations lie in panels; the way back asks too. Products with one or two columns read rows
/// by vectors, which know no hops.
template <class Isa, class T, class H>
bool channel_blocked(const StackUnit<T>* units, int count, int64_t pixels) {
  if (!RegisterTile<Isa, T>::blocked || !std::is_same<H, T>::value || pixels < kBlockedPixels) return false;
  for (int u = 0; u < count; ++u) {
    if (units[u].dims.in.c <= 2 || units[u].dims.cout <= 2) return false;
  }
  return in_blocks<Isa, T>(units, count, pixels, backward_depth(units, count));
}

/// The weights of a chain's units, packed, and products with them.
template <class Isa, class T, bool bf16>
class PackedUnits {
 public:
  void take(WorkspaceScope& scope, int count) {
    count_ = count;
    weights_ = scope.take<WeightsB<Isa, T, bf16>>(count);
    packed_ = scope.take<T*>(count);
  }

  void set(WorkspaceScope& scope, int u, const WeightsB<Isa, T, bf16>& weights) {
    weights_[u] = weights;
    packed_[u] = scope.take<T>(weights.packed_size());
    if (!weights.by_rows()) size_ += weights.packed_size();
    // Values of patches, and their parts of half the size.
    strip_size_ = ops::max_of(strip_size_, (split<Isa> ? 1 + Isa::parts : 1) * RegisterTile<Isa, T>::rows *
                                                   padded_stride(weights.depth(), sizeof(T)) +
                                               kSlack);
  }

  /// Of the largest tile of pixels.
  int64_t strip_size() const { return strip_size_; }

  /// This thread's share.
  void pack(const Team& team) const {
    int64_t first = 0;  // value of all units' panels, of those that aren't packed by rows
    for (int u = 0; u < count_; ++u) {
      const WeightsB<Isa, T, bf16>& weights = weights_[u];
      if (weights.by_rows()) {
        weights.pack(team, packed_[u]);
        continue;
      }
      const int64_t size = weights.panel_size(), panels = weights.panels();
      // Panels that begin within the share.
      const auto before = [&](int64_t value) {
        return ops::min_of(panels, ops::max_of<int64_t>(0, (value - first + size - 1) / size));
      };
      weights.pack(packed_[u], before(team.begin(size_)), before(team.end(size_)));
      first += panels * size;
    }
  }

  /// finish_of(tile)(tiles [first, end) of a times the weights of unit u).
  template <class A, class FinishOf>
  void multiply(int u, const A& a, const RowStrips& rows, int64_t first, int64_t end,
                const FinishOf& finish_of, LeftStrip<T>* left_strips, T* strips) const {
    const WeightsB<Isa, T, bf16>& b = weights_[u];
    multiply_block(
        a, rows, first, end, b, 0, b.panels(), [&](int64_t p) { return b.panel_in(packed_[u], p); },
        finish_of, left_strips, strips, true);
  }

 private:
  int count_ = 0;
  WeightsB<Isa, T, bf16>* weights_ = nullptr;
  T** packed_ = nullptr;
  int64_t size_ = 0;  ///< of panels that aren't packed by rows
  int64_t strip_size_ = 0;
};

/// f(begin, end) for the tiles [first, last) of a thread, about kBlockStrips at a time: as many as its cache
/// holds, so that weights are seldom read.
template <class F>
void by_strips(int64_t first, int64_t last, const F& f) {
  const int64_t count = last - first,
                parts = ops::max_of<int64_t>(1, (count + kBlockStrips / 2) / kBlockStrips);
  for (int64_t i = 0; i < parts && count > 0; ++i)
    f(first + count * i / parts, first + count * (i + 1) / parts);
}
constexpr int64_t kMostStrips = kBlockStrips + kBlockStrips / 2;  ///< at a time, of by_strips

}  // namespace evenflow::gemm
