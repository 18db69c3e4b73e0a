#pragma once

#include <functional>

#include "core/mode.hpp"
#include "layers/channel_mask.hpp"

namespace evenflow {

/// Base class of layers that map channels, or a checkerboard's pixels, by a law. A subclass says where the
/// law's numbers come from, and where their gradients go.
template <class T>
class LawLayer : public Layer<T> {
 protected:
  using Apply = std::function<void(View<const T> h, View<T> dh)>;

  LawLayer(const char* kind, Shape in, const Slices& slices, const Law& law, bool interleaved = false)
      : Layer<T>(kind, in, in, true),
        slices_(slices),
        plan_{law, slices.change, interleaved, slices.parity},
        numbers_(slices.change * numbers_of(law)) {}

  /// Shape of the numbers of n samples, which are channels.
  Shape h_shape(int64_t n) const { return this->input_shape().with_batch(n).with_channels(numbers_); }

  template <class U>
  View<U> changed(View<U> v) const {
    return v.channels(slices_.change_first, slices_.change);
  }
  template <class U>
  View<U> passing(View<U> v) const {
    return v.channels(slices_.pass_first, slices_.pass);
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const View<const T> h = numbers(ctx, scope, host, params, x);
    pass(ctx, x, z);
    ctx.kernels<T>().coupling.forward(ctx, plan_, shared(params), changed(x), h, changed(z), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const View<const T> h = numbers(ctx, scope, host, params, z);
    pass(ctx, z, x);
    ctx.kernels<T>().coupling.inverse(ctx, plan_, shared(params), changed(z), h, changed(x), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    through(ctx, params, z, dx, [&](View<const T> h, View<T> dh) {
      ctx.kernels<T>().coupling.backward(ctx, plan_, shared(params), changed(z), changed(dz), dlogdet, h,
                                         mode_of(params).known, changed(x), changed(dx), dh,
                                         shared_gradients(params));
      pass(ctx, z, x);
      pass(ctx, dz, dx);
    });
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    through(ctx, params, x, dz, [&](View<const T> h, View<T> dh) {
      ctx.kernels<T>().coupling.inverse_backward(ctx, plan_, shared(params), changed(x), changed(dx), dlogdet,
                                                 h, mode_of(params).known, changed(z), changed(dz), dh,
                                                 shared_gradients(params));
      pass(ctx, x, z);
      pass(ctx, dx, dz);
    });
  }

  const Slices slices_;
  const CouplingPlan plan_;
  const int64_t numbers_;  ///< of a pixel

 private:
  /// The numbers for values x or z, of which those that pass are the same on both sides.
  virtual View<const T> numbers(Context& ctx, WorkspaceScope& scope, HostScope& host, const Params<T>& params,
                                View<const T> x) const = 0;
  /// apply(h, dh) computes values and gradients on the other side of `from`, and the gradients of numbers,
  /// which this function passes on.
  virtual void through(Context& ctx, const Params<T>& params, View<const T> from, View<T> dto,
                       const Apply& apply) const = 0;
  virtual SharedNumbers<const T*> shared(const Params<T>&) const { return {}; }
  virtual SharedNumbers<T*> shared_gradients(const Params<T>&) const { return {}; }

  void pass(Context& ctx, View<const T> from, View<T> to) const {
    if (slices_.parity >= 0 || slices_.pass == 0 || from.data == to.data) return;
    ctx.kernels<T>().move.copy(ctx, passing(from), passing(to));
  }
};

}  // namespace evenflow
