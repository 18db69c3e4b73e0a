#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "evenflow/conditioner.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// The arguments of a step's forward pass. x2 is empty where the step reads one value.
template <class T>
struct StepForward {
  const Params<T>& params;
  View<const T> x, x2;
  View<T> y;
  T* kept;  ///< kept_size() values to leave for backward; null: not wanted
};

/// The same for backward, which adds to dx, dx2 and params.grads, and overwrites dy.
template <class T>
struct StepBackward {
  const Params<T>& params;
  View<const T> x, x2, y;
  const T* kept;
  View<T> dy, dx, dx2;
};

/// One step of a net: it reads one or two values, and writes one with the same pixels.
template <class T>
class NetStep {
 public:
  virtual ~NetStep() = default;

  const int64_t channels;                         ///< of the value that it writes
  const bool backward_reads_x, backward_reads_y;  ///< else x and x2, or y, have no data in backward
  const bool in_place;                            ///< y lies where x2 was

  virtual void declare(const Scope&) {}
  /// Files hold the parameters of batch norms before all others.
  virtual bool declared_first() const { return false; }
  virtual void init(ParamArena<T>&, Rng&) const {}
  virtual bool starts_from_data() const { return false; }
  virtual void init_from_data(Context&, ParamArena<T>&, View<const T> /*x*/) const {}
  /// What the step itself leaves for backward, in whole cache lines.
  virtual int64_t kept_size(int64_t /*pixels*/) const { return 0; }
  virtual void forward(Context&, const StepForward<T>&) const = 0;
  virtual void backward(Context&, const StepBackward<T>&) const = 0;

 protected:
  NetStep(int64_t channels_, bool reads_x, bool reads_y, bool in_place_ = false)
      : channels(channels_), backward_reads_x(reads_x), backward_reads_y(reads_y), in_place(in_place_) {}
};

/// A conditioner as a list of steps, run in order and, for gradients, in reverse. Values are numbered: 0 is
/// the input, and the last step writes the output. Of the others the net keeps those that backward reads.
template <class T>
class Net : public Conditioner<T> {
 public:
  static constexpr int kInput = 0;
  Net(Shape in, int64_t out_channels) : Conditioner<T>(in, out_channels), values_{{in.c}} {}

  /// Appends a step that reads the values x and x2 (-1: none), and returns the number of its result. A step
  /// in place returns x2: the value before it is lost, so no backward pass may read that.
  int add(std::unique_ptr<NetStep<T>> step, int x, int x2 = -1) {
    const int y = step->in_place ? x2 : static_cast<int>(values_.size());
    if (!step->in_place) values_.push_back({step->channels});
    values_[x].kept |= step->backward_reads_x;
    if (x2 >= 0) values_[x2].kept |= step->backward_reads_x;
    values_[y].kept |= step->backward_reads_y;
    nodes_.push_back({std::move(step), x, x2, y});
    kept_channels_ = scratch_channels_ = 0;
    for (int v = 1; v < static_cast<int>(values_.size()); ++v) {
      if (v == y || values_[v].of_input) continue;  // the output is the caller's, like the input
      int64_t& end = values_[v].kept ? kept_channels_ : scratch_channels_;
      values_[v].first = end;
      end += (values_[v].channels + 15) / 16 * 16;  // each value starts a cache line
    }
    return y;
  }
  /// The number of a value that is channels [first, first + count) of the input.
  int input_part(int64_t first, int64_t count) {
    values_.push_back({count, false, first, true});
    return static_cast<int>(values_.size()) - 1;
  }
  int64_t channels(int value) const { return values_[value].channels; }

  void declare(const Scope& scope) override {
    for (const bool first : {true, false}) {
      for (const Node& node : nodes_) {
        if (node.step->declared_first() == first) node.step->declare(scope);
      }
    }
  }

  void init(ParamArena<T>& arena, Rng& rng) const override {
    for (const Node& node : nodes_) node.step->init(arena, rng);
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    const auto asks = [](const Node& node) { return node.step->starts_from_data(); };
    if (std::none_of(nodes_.begin(), nodes_.end(), asks)) return;
    WorkspaceScope scope(ctx);
    const Shape out = x.shape.with_channels(this->out_channels());
    run(ctx, std::as_const(arena).params(), x, View<T>(scope.take<T>(out.size()), out), nullptr, &arena);
  }

  /// `acts` holds the values that are kept, then what each step leaves, in order.
  int64_t activation_size(int64_t n) const override {
    const int64_t pixels = this->input_shape().with_batch(n).pixels();
    int64_t size = room(kept_channels_, pixels);
    for (const Node& node : nodes_) size += node.step->kept_size(pixels);
    return size;
  }

  void forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> h, T* acts) const override {
    run(ctx, params, x, h, acts, nullptr);
  }

  void backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> h, T* acts, View<T> dh,
                View<T> dx) const override {
    const int64_t pixels = x.shape.pixels(), kept_size = room(kept_channels_, pixels),
                  size = kept_size + room(scratch_channels_, pixels);
    WorkspaceScope scope(ctx);
    T* gradients = take(scope, size);
    if (size) ctx.kernels<T>().move.zero(ctx, size, gradients);
    const Place<const T> value{x, h, acts, nullptr};
    const Place<T> gradient{dx, dh, gradients, gradients + kept_size};
    const T* of_step = acts + kept_size;
    for (size_t s = 0; s + 1 < nodes_.size(); ++s) of_step += nodes_[s].step->kept_size(pixels);
    for (size_t s = nodes_.size(); s-- > 0;) {
      const Node& node = nodes_[s];
      node.step->backward(ctx, {params, at(value, node.x), at(value, node.x2), at(value, node.y), of_step,
                                at(gradient, node.y), at(gradient, node.x), at(gradient, node.x2)});
      if (s > 0) of_step -= nodes_[s - 1].step->kept_size(pixels);
    }
  }

 private:
  struct Value {
    int64_t channels;
    bool kept = false;  ///< from forward until backward
    int64_t first = 0;  ///< channels before it: of the input, or in the memory for values of its kind
    bool of_input = false;
  };
  struct Node {
    std::unique_ptr<NetStep<T>> step;
    int x, x2, y;
  };
  /// Where the values of a batch lie, or their gradients.
  template <class U>
  struct Place {
    View<U> input, output;
    U *kept, *scratch;
  };

  /// Room for values of so many channels.
  static int64_t room(int64_t channels, int64_t pixels) { return pixels * channels; }

  /// Null for nothing: a net of one step, called for a few rows, would notice the time to take it.
  static T* take(WorkspaceScope& scope, int64_t size) { return size ? scope.take<T>(size) : nullptr; }

  template <class U>
  View<U> at(const Place<U>& place, int v) const {
    if (v < 0) return {};
    if (v == kInput) return place.input;
    if (values_[v].of_input) return place.input.channels(values_[v].first, values_[v].channels);
    if (v == nodes_.back().y) return place.output;
    const Shape shape = place.output.shape.with_channels(values_[v].channels);
    U* base = values_[v].kept ? place.kept : place.scratch;
    return View<U>(base ? base + room(values_[v].first, shape.pixels()) : nullptr, shape);
  }

  /// Forward. With an arena each step first sets its parameters by the data that reach it.
  void run(Context& ctx, const Params<T>& params, View<const T> x, View<T> h, T* acts,
           ParamArena<T>* arena) const {
    const int64_t pixels = x.shape.pixels();
    WorkspaceScope scope(ctx);
    T* kept = acts ? acts : take(scope, room(kept_channels_, pixels));
    T* scratch = take(scope, room(scratch_channels_, pixels));
    const Place<const T> read{x, h, kept, scratch};
    const Place<T> write{{}, h, kept, scratch};
    T* of_step = acts ? acts + room(kept_channels_, pixels) : nullptr;
    for (const Node& node : nodes_) {
      if (arena) node.step->init_from_data(ctx, *arena, at(read, node.x));
      node.step->forward(ctx, {params, at(read, node.x), at(read, node.x2), at(write, node.y), of_step});
      if (of_step && &node != &nodes_.back()) of_step += node.step->kept_size(pixels);
    }
  }

  std::vector<Value> values_;
  std::vector<Node> nodes_;
  int64_t kept_channels_ = 0, scratch_channels_ = 0;
};

}  // namespace evenflow
