#pragma once

#include "flow/chain.hpp"
#include "kernels/kernel_set.hpp"

// The two directions of a chain: from data to latents and from latents to data. Everything that moves a batch
// (densities, samples, both kinds of gradients, initialisation, diagnosis) calls one of these loops with its
// own `through`.

namespace evenflow {

/// Values between two nodes of a chain, with their gradient if the pass computes one.
template <class T>
struct Batch {
  View<T> value;
  View<T> gradient;  ///< data null: none

  Batch() = default;
  Batch(View<T> value_, View<T> gradient_ = {}) : value(value_), gradient(gradient_) {}
  template <class U>
  Batch(const Batch<U>& other) : value(other.value), gradient(other.gradient) {}

  template <class F>
  Batch map(const F& f) const {
    return {f(value), gradient.data ? f(gradient) : View<T>()};
  }
};

/// Latents (n, D), with their gradient if the pass computes one.
template <class T>
struct Latents {
  T* value = nullptr;
  T* gradient = nullptr;
};

/// Memory for two batches, used in turn.
template <class T>
class Buffers {
 public:
  Buffers(WorkspaceScope& scope, int64_t size, bool gradient) {
    for (T*& buffer : value_) buffer = scope.take<T>(size);
    if (!gradient) return;
    for (T*& buffer : gradient_) buffer = scope.take<T>(size);
  }
  Batch<T> next(Shape shape) {
    at_ = 1 - at_;
    return {View<T>(value_[at_], shape), gradient_[at_] ? View<T>(gradient_[at_], shape) : View<T>()};
  }

 private:
  T* value_[2];
  T* gradient_[2] = {nullptr, nullptr};
  int at_ = 1;
};

template <class T>
void copy_batch(Context& ctx, const Batch<const T>& from, const Batch<T>& to) {
  ctx.kernels<T>().move.copy(ctx, from.value, to.value);
  if (to.gradient.data) ctx.kernels<T>().move.copy(ctx, from.gradient, to.gradient);
}

/// Copy a level's values to, or from, their position in rows of latents (n, D).
template <class T>
void put_level(Context& ctx, const Chain<T>& chain, const Level& level, View<const T> from, T* z) {
  ctx.kernels<T>().move.copy_blocks(ctx, from, from.shape.pixels_per_sample() * from.stride,
                                    View<T>(z + level.offset, from.shape), chain.dims());
}
template <class T>
void get_level(Context& ctx, const Chain<T>& chain, const Level& level, const T* z, View<T> to) {
  ctx.kernels<T>().move.copy_blocks(ctx, View<const T>(z + level.offset, to.shape), chain.dims(), to,
                                    to.shape.pixels_per_sample() * to.stride);
}
template <class T>
void put_level(Context& ctx, const Chain<T>& chain, const Level& level, const Batch<const T>& from,
               const Latents<T>& z) {
  put_level(ctx, chain, level, from.value, z.value);
  if (z.gradient) put_level(ctx, chain, level, from.gradient, z.gradient);
}
template <class T>
void get_level(Context& ctx, const Chain<T>& chain, const Level& level, const Latents<const T>& z,
               const Batch<T>& to) {
  get_level(ctx, chain, level, z.value, to.value);
  if (z.gradient) get_level(ctx, chain, level, z.gradient, to.gradient);
}

/// Nodes [begin, end).
struct NodeRange {
  size_t begin, end;
};
template <class T>
NodeRange all_nodes(const Chain<T>& chain) {
  return {0, chain.nodes.size()};
}

/// Moves x through the nodes of `range`. through(node number, input, output) computes a node's output, which
/// may alias its input. Writes latents to z unless z.value is null; the range must then have all nodes.
/// Returns the input of node `end`, in the scope's memory.
template <class T, class Through>
Batch<const T> to_latent(Context& ctx, WorkspaceScope& scope, const Chain<T>& chain, NodeRange range,
                         Batch<const T> x, const Latents<T>& z, const Through& through) {
  const int64_t n = x.value.shape.n;
  Buffers<T> buffers(scope, n * chain.dims(), x.gradient.data != nullptr);
  Batch<T> writable;  // x, once it is in memory that may be overwritten
  size_t level = 0;
  for (size_t i = range.begin; i < range.end; ++i) {
    const Node<T>& node = chain.nodes[i];
    const Batch<T> out =
        writable.value.data && node.layer->in_place() ? writable : buffers.next(node.output(n));
    through(i, x, out);
    if (node.keep && z.value) {
      put_level<T>(ctx, chain, chain.levels[level++],
                   out.map([&](View<T> v) { return node.factored_out(v); }), z);
    }
    writable = out.map([&](View<T> v) { return node.kept(v); });
    x = writable;
  }
  if (z.value) put_level<T>(ctx, chain, chain.levels.back(), x, z);
  return x;
}

/// Moves latents back through all nodes, last node first. through(node number, output, input) computes a
/// node's input, which may alias its output; if it returns false, the walk ends. Writes the first node's
/// input to x.
template <class T, class Through>
void to_data(Context& ctx, const Chain<T>& chain, const Latents<const T>& z, const Batch<T>& x,
             const Through& through) {
  WorkspaceScope scope(ctx);
  const int64_t n = x.value.shape.n;
  Buffers<T> buffers(scope, n * chain.dims(), z.gradient != nullptr);
  size_t level = chain.levels.size() - 1;
  Batch<T> at = buffers.next(chain.levels[level].shape.with_batch(n));
  get_level(ctx, chain, chain.levels[level], z, at);
  for (size_t i = chain.nodes.size(); i-- > 0;) {
    const Node<T>& node = chain.nodes[i];
    if (node.keep) {
      const Batch<T> whole = buffers.next(node.output(n));
      copy_batch<T>(ctx, at, whole.map([&](View<T> v) { return node.kept(v); }));
      get_level(ctx, chain, chain.levels[--level], z,
                whole.map([&](View<T> v) { return node.factored_out(v); }));
      at = whole;
    }
    const Batch<T> in = i == 0 ? x : node.layer->in_place() ? at : buffers.next(node.input(n));
    if (!through(i, at, in)) return;
    at = in;
  }
  if (chain.nodes.empty()) copy_batch<T>(ctx, at, x);
}

}  // namespace evenflow
