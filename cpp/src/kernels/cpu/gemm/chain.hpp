#pragma once

#include "kernels/cpu/gemm/conv.hpp"
#include "kernels/cpu/gemm/layout.hpp"

// Shared by the forward and backward pass of a chain of convolutions: its activations and its packed weights.

namespace evenflow::gemm {

/// Hidden activations of a chain in one buffer, stored as H (T or Bf16), channel-blocked or in rows
/// padded_stride apart.
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
  /// Activations of `count` pixels of a unit, stored at `at`.
  EVENFLOW_INLINE Strided<H> matrix(H* at, int unit, int64_t count) const {
    if (blocked) return {at, Strided<H>::line, (blocked_rows(count) - 1) * Strided<H>::line};
    return {at, padded_stride(units[unit].dims.cout, sizeof(H))};
  }
  /// Elements of that matrix.
  EVENFLOW_INLINE int64_t size(int unit, int64_t count) const {
    const int64_t channels = units[unit].dims.cout;
    return blocked ? blocked_size(channels, count, sizeof(H)) : count * padded_stride(channels, sizeof(H));
  }
};

/// Whether all units are 1x1.
template <class T>
EVENFLOW_INLINE bool pointwise(const StackUnit<T>* units, int count) {
  for (int u = 0; u < count; ++u) {
    if (units[u].dims.kernel != 1) return false;
  }
  return true;
}

/// Whether a block of pixels can pass the whole chain: only the first and the last unit may be 3x3.
template <class T>
EVENFLOW_INLINE bool pointwise_inside(const StackUnit<T>* units, int count) {
  for (int u = 1; u < count; ++u) {
    if (units[u].dims.kernel != 1 && (u + 1 < count || gather_input(units[u].dims))) return false;
  }
  return count > 1 && gather_input(units[0].dims);
}

/// Whether it pays to pass the chain in blocks, given sums over `depth` steps.
template <class Isa, class T>
bool in_blocks(const StackUnit<T>* units, int count, int64_t pixels, int64_t depth) {
  return CacheBlocks<Isa, T>(pixels, depth).count > 1 && pointwise_inside(units, count);
}

/// Longest sum among the products of the backward pass.
template <class T>
EVENFLOW_INLINE int64_t backward_depth(const StackUnit<T>* units, int count) {
  int64_t depth = 1;
  for (int u = 0; u < count; ++u) depth = ops::max_of(depth, units[u].dims.taps() * units[u].dims.cout);
  return depth;
}

/// Whether kept activations are channel-blocked. The forward and backward pass must agree. Products with one
/// or two columns read rows by vectors and need row-major matrices.
template <class Isa, class T, class H>
bool channel_blocked(const StackUnit<T>* units, int count, int64_t pixels) {
  if (!RegisterTile<Isa, T>::blocked || !std::is_same<H, T>::value || pixels < kBlockedPixels) return false;
  for (int u = 0; u < count; ++u) {
    if (units[u].dims.in.c <= 2 || units[u].dims.cout <= 2) return false;
  }
  return in_blocks<Isa, T>(units, count, pixels, backward_depth(units, count));
}

/// Packed weights of all units of a chain, and products with them.
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
    // Gathered patches, and for split operands their parts as well.
    strip_size_ = ops::max_of(strip_size_, (split<Isa> ? 1 + Isa::parts : 1) * RegisterTile<Isa, T>::rows *
                                                   padded_stride(weights.depth(), sizeof(T)) +
                                               kSlack);
  }

  /// Elements of the largest strip.
  int64_t strip_size() const { return strip_size_; }

  /// Packs this thread's share.
  void pack(const Team& team) const {
    int64_t first = 0;  // first element of a unit within all panels that aren't packed by rows
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

  /// finish(a times the weights of unit u) for strips [first, end), of which every `per_block` share a block
  /// of column sums.
  template <class Finish>
  void multiply(int u, const LeftRows<Isa, T>& a, const RowStrips& rows, int64_t first, int64_t end,
                const Finish& finish, int64_t per_block, LeftStrip<T>* left_strips, T* strips) const {
    const WeightsB<Isa, T, bf16>& b = weights_[u];
    const LeftStrip<T>* last = take_strips(a, rows, first, end, per_block, left_strips, strips);
    multiply_strips(left_strips, last, Panels<Isa, T, bf16>{b, packed_[u]}, 0, b.panels(), finish, true,
                    false);
  }

 private:
  int count_ = 0;
  WeightsB<Isa, T, bf16>* weights_ = nullptr;
  T** packed_ = nullptr;
  int64_t size_ = 0;  ///< elements of all panels that aren't packed by rows
  int64_t strip_size_ = 0;
};

/// Calls f(begin, end) for strips [first, last) of one thread, about kBlockStrips at a time. That many fit
/// its cache, so weights are read seldom.
template <class F>
void by_strips(int64_t first, int64_t last, const F& f) {
  const int64_t count = last - first,
                parts = ops::max_of<int64_t>(1, (count + kBlockStrips / 2) / kBlockStrips);
  for (int64_t i = 0; i < parts && count > 0; ++i)
    f(first + count * i / parts, first + count * (i + 1) / parts);
}
constexpr int64_t kMostStrips = kBlockStrips + kBlockStrips / 2;  ///< most strips of one call in by_strips

}  // namespace evenflow::gemm
