#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "core/mode.hpp"
#include "evenflow/error.hpp"
#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"

// Layers that change some channels are written for slices of channels. Reordered applies them to any
// channels.

namespace evenflow {

/// Which channels change and which pass, each a slice.
struct Split {
  int64_t change_first = 0, change = 0;
  int64_t pass_first = 0, pass = 0;
  int parity = -1;  ///< checkerboards, all of whose channels do both: (i + j) % 2 of changed pixels
};

/// The split of a mask whose channels are slices: halves and checkerboards.
inline Split split_of(Mask mask, int64_t channels) {
  const MaskSizes sizes = mask_sizes(mask, channels);
  Split split;
  split.change = sizes.change;
  split.pass = sizes.pass;
  if (is_checkerboard(mask)) {
    split.parity = mask == Mask::checkerboard0 ? 0 : 1;
  } else if (mask == Mask::first_half) {
    split.pass_first = sizes.change;
  } else {
    split.change_first = sizes.pass;
  }
  return split;
}

/// Channels 1, 3, 5, ... or 0, 2, 4, ...
inline std::vector<int64_t> every_second(Mask mask, int64_t channels) {
  std::vector<int64_t> list;
  for (int64_t c = mask == Mask::odd ? 1 : 0; c < channels; c += 2) list.push_back(c);
  return list;
}

/// Applies a layer for slices to channels in another order: it moves them there, applies the layer and moves
/// them back.
template <class T>
class Reordered final : public Layer<T> {
 public:
  /// order[c]: the channel that the layer sees as its channel c.
  Reordered(const char* kind, std::unique_ptr<Layer<T>> inner, const std::vector<int32_t>& order)
      : Layer<T>(kind, inner->input_shape(), inner->input_shape(), true), inner_(std::move(inner)) {
    std::vector<int32_t> inverse(order.size());
    for (size_t c = 0; c < order.size(); ++c)
      inverse[static_cast<size_t>(order[c])] = static_cast<int32_t>(c);
    there_ = blocks_of(order);
    back_ = blocks_of(inverse);
  }

  void declare(const Scope& scope) override { inner_->declare(scope); }
  void init(ParamArena<T>& arena, Rng& rng) const override { inner_->init(arena, rng); }
  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    WorkspaceScope scope(ctx);
    inner_->init_from_data(ctx, arena, reordered(ctx, scope, x));
  }
  void check_parameters(const ParamArena<T>& arena) const override { inner_->check_parameters(arena); }
  void check_values(Context& ctx, const Params<T>& params) const override {
    inner_->check_values(ctx, params);
  }
  int64_t context() const override { return inner_->context(); }
  int64_t kept_size(int64_t n) const override { return inner_->kept_size(n); }

 private:
  using Blocks = std::vector<OrderBlock>;

  static Blocks blocks_of(const std::vector<int32_t>& order) {
    Blocks blocks;
    for (size_t c = 0; c < order.size(); ++c) {
      if (c % OrderBlock::kMost == 0) blocks.emplace_back();
      blocks.back().channels[c % OrderBlock::kMost] = order[c];
    }
    return blocks;
  }

  View<T> reordered(Context& ctx, WorkspaceScope& scope, View<const T> x) const {
    View<T> out(scope.take<T>(x.shape.size()), x.shape);
    gather(ctx, x, there_, out);
    return out;
  }
  void restore(Context& ctx, View<const T> from, View<T> to) const { gather(ctx, from, back_, to); }

  static void gather(Context& ctx, View<const T> from, const Blocks& blocks, View<T> to) {
    WorkspaceScope scope(ctx);
    const int64_t channels = from.shape.c;
    int32_t* order = scope.take<int32_t>(channels);
    int64_t first = 0;
    for (const OrderBlock& block : blocks) {
      const int64_t count = std::min<int64_t>(OrderBlock::kMost, channels - first);
      ctx.kernels<T>().mixing.write_order(ctx, block, count, order + first);
      first += count;
    }
    ctx.kernels<T>().mixing.gather_channels(ctx, from, order, to);
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = reordered(ctx, scope, x);
    inner_->forward(ctx, params, buffer, buffer, logdet);
    restore(ctx, buffer, z);
  }
  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = reordered(ctx, scope, z);
    inner_->inverse(ctx, params, buffer, buffer, logdet);
    restore(ctx, buffer, x);
  }
  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = reordered(ctx, scope, z);
    View<T> dbuffer = reordered(ctx, scope, dz);
    // A layer that is given its real input reads it from there; else the input takes the output's place.
    View<T> input = mode_of(params).known ? reordered(ctx, scope, x) : buffer;
    inner_->backward(ctx, params, buffer, dbuffer, dlogdet, input, dbuffer);
    restore(ctx, input, x);
    restore(ctx, dbuffer, dx);
  }
  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = reordered(ctx, scope, x);
    View<T> dbuffer = reordered(ctx, scope, dx);
    View<T> output = mode_of(params).known ? reordered(ctx, scope, z) : buffer;
    inner_->inverse_backward(ctx, params, buffer, dbuffer, dlogdet, output, dbuffer);
    restore(ctx, output, z);
    restore(ctx, dbuffer, dz);
  }

  std::unique_ptr<Layer<T>> inner_;
  Blocks there_, back_;
};

/// The layer make(split) for slices, applied so that it changes the channels of a list. ShapeError unless
/// they are channels of `in`, in increasing order.
template <class T, class Make>
std::unique_ptr<Layer<T>> on_channels(const char* kind, const Shape& in, const std::vector<int64_t>& changed,
                                      const Make& make) {
  std::vector<bool> changes(static_cast<size_t>(in.c));
  int64_t before = -1;
  for (const int64_t c : changed) {
    if (c <= before || c >= in.c) {
      fail<ShapeError>(kind, "expected changed channels in 0 ... ", in.c - 1, ", in increasing order, got ",
                       c, before < 0 ? text_of(" first") : text_of(" after ", before));
    }
    changes[static_cast<size_t>(c)] = true;
    before = c;
  }
  Split split;
  split.change = static_cast<int64_t>(changed.size());
  split.pass = in.c - split.change;
  const bool together = changed.empty() || changed.back() - changed.front() + 1 == split.change;
  if (together && (split.change == 0 || changed.front() == 0)) {
    split.pass_first = split.change;
    return make(split);
  }
  split.change_first = split.pass;
  if (together && changed.back() == in.c - 1) return make(split);
  std::vector<int32_t> order;
  for (const bool changing : {false, true}) {
    for (int64_t c = 0; c < in.c; ++c) {
      if (changes[static_cast<size_t>(c)] == changing) order.push_back(static_cast<int32_t>(c));
    }
  }
  return std::make_unique<Reordered<T>>(kind, make(split), order);
}

}  // namespace evenflow
