#pragma once

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
struct Slices {
  int64_t change_first = 0, change = 0;
  int64_t pass_first = 0, pass = 0;
  int parity = -1;  ///< checkerboards, all of whose channels do both: (i + j) % 2 of changed pixels
};

/// Those of a mask of halves or of a checkerboard.
inline Slices slices_of(Mask mask, int64_t channels) {
  const MaskSizes sizes = mask_sizes(mask, channels);
  Slices slices;
  slices.change = sizes.change;
  slices.pass = sizes.pass;
  if (is_checkerboard(mask)) {
    slices.parity = mask == Mask::checkerboard0 ? 0 : 1;
  } else if (mask == Mask::first_half) {
    slices.pass_first = sizes.change;
  } else {
    slices.change_first = sizes.pass;
  }
  return slices;
}

/// Channels 1, 3, 5, ... or 0, 2, 4, ...
inline std::vector<int64_t> every_second(Mask mask, int64_t channels) {
  std::vector<int64_t> list;
  for (int64_t c = mask == Mask::odd ? 1 : 0; c < channels; c += 2) list.push_back(c);
  return list;
}

/// A layer for slices, applied to channels in another order: moves them there, applies the layer and moves
/// them back.
template <class T, class Sliced>
class Reordered final : public Sliced {
 public:
  /// order[c]: the channel that the layer sees as its channel c.
  template <class... Args>
  explicit Reordered(std::vector<int32_t> order, Args&&... args)
      : Sliced(std::forward<Args>(args)...), there_(std::move(order)), back_(there_.size()) {
    for (size_t c = 0; c < there_.size(); ++c)
      back_[static_cast<size_t>(there_[c])] = static_cast<int32_t>(c);
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    WorkspaceScope scope(ctx);
    Sliced::init_from_data(ctx, arena, reordered(ctx, scope, x));
  }

 private:
  View<T> reordered(Context& ctx, WorkspaceScope& scope, View<const T> x) const {
    View<T> out(scope.take<T>(x.shape.size()), x.shape);
    gather(ctx, x, there_, out);
    return out;
  }
  void restore(Context& ctx, View<const T> from, View<T> to) const { gather(ctx, from, back_, to); }

  static void gather(Context& ctx, View<const T> from, const std::vector<int32_t>& order, View<T> to) {
    HostScope host(ctx);
    const int32_t* channels = host.send(order.data(), from.shape.c);
    ctx.kernels<T>().mixing.gather_channels(ctx, from, channels, to);
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = reordered(ctx, scope, x);
    Sliced::do_forward(ctx, params, buffer, buffer, logdet);
    restore(ctx, buffer, z);
  }
  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = reordered(ctx, scope, z);
    Sliced::do_inverse(ctx, params, buffer, buffer, logdet);
    restore(ctx, buffer, x);
  }
  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = reordered(ctx, scope, z);
    View<T> dbuffer = reordered(ctx, scope, dz);
    // A layer that is given its real input reads it from there; else the input takes the output's place.
    View<T> input = mode_of(params).known ? reordered(ctx, scope, x) : buffer;
    Sliced::do_backward(ctx, params, buffer, dbuffer, dlogdet, input, dbuffer);
    restore(ctx, input, x);
    restore(ctx, dbuffer, dx);
  }
  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    View<T> buffer = reordered(ctx, scope, x);
    View<T> dbuffer = reordered(ctx, scope, dx);
    View<T> output = mode_of(params).known ? reordered(ctx, scope, z) : buffer;
    Sliced::do_inverse_backward(ctx, params, buffer, dbuffer, dlogdet, output, dbuffer);
    restore(ctx, output, z);
    restore(ctx, dbuffer, dz);
  }

  std::vector<int32_t> there_, back_;
};

/// The layer Sliced(in, slices, args...), applied so that it changes the channels of a list. ShapeError
/// unless they are channels of `in`, in increasing order.
template <class T, class Sliced, class... Args>
std::unique_ptr<Layer<T>> on_channels(const char* kind, const Shape& in, const std::vector<int64_t>& changed,
                                      Args&&... args) {
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
  Slices slices;
  slices.change = static_cast<int64_t>(changed.size());
  slices.pass = in.c - slices.change;
  const bool together = changed.empty() || changed.back() - changed.front() + 1 == slices.change;
  const bool first = together && (changed.empty() || changed.front() == 0);
  (first ? slices.pass_first : slices.change_first) = first ? slices.change : slices.pass;
  if (first || (together && changed.back() == in.c - 1)) {
    return std::make_unique<Sliced>(in, slices, std::forward<Args>(args)...);
  }
  std::vector<int32_t> order;
  for (const bool changing : {false, true}) {
    for (int64_t c = 0; c < in.c; ++c) {
      if (changes[static_cast<size_t>(c)] == changing) order.push_back(static_cast<int32_t>(c));
    }
  }
  return std::make_unique<Reordered<T, Sliced>>(std::move(order), in, slices, std::forward<Args>(args)...);
}

}  // namespace evenflow
