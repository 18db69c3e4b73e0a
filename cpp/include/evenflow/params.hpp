#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "evenflow/export.h"

namespace evenflow {

class Context;

/// How training treats a parameter tensor.
enum class Group {
  decay,     ///< trained, and the target of weight decay
  no_decay,  ///< trained
  stats,     ///< running statistics: not trained, averaged over batches
  fixed      ///< set at construction or by init(x), then constant
};

/// Index of a tensor in its layout.
using ParamId = int;

/// How many tensors and values a model may have.
struct ParamLimit {
  int64_t tensors = int64_t{1} << 20;
  int64_t values = int64_t{1} << 48;
};

/// Names, shapes and offsets of every tensor of a model, in one flat buffer. Tensors are ordered by group:
/// decay, no_decay, stats, fixed. Each starts at a multiple of 16 values, so at least on a 64-byte boundary;
/// the gaps are always zero.
class EVENFLOW_API ParamLayout {
 public:
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    Group group;
    int64_t size;
    int64_t offset;
    bool overwritable;  ///< its gradient is computed at once, so that it may be stored rather than added
  };

  explicit ParamLayout(const ParamLimit& limit = {}) : limit_(limit) {}

  const ParamLimit& limit() const { return limit_; }
  /// ConfigError for a name that is in use, and for more tensors or values than the limit.
  ParamId add(const std::string& name, std::vector<int64_t> shape, Group group, bool overwritable = false);
  /// The number of one more stream of random draws that layers make in training.
  uint32_t add_stream() { return streams_++; }
  void finalize();

  uint32_t streams() const { return streams_; }
  const std::vector<Entry>& entries() const { return entries_; }
  const Entry& entry(ParamId id) const { return entries_[static_cast<size_t>(id)]; }
  int64_t offset(ParamId id) const { return entry(id).offset; }
  int64_t size(ParamId id) const { return entry(id).size; }

  int64_t decay_size() const { return begin_[1]; }
  /// Trained tensors fill [0, trainable_size()).
  int64_t trainable_size() const { return begin_[2]; }
  int64_t stats_begin() const { return begin_[2]; }
  int64_t stats_size() const { return begin_[3] - begin_[2]; }
  int64_t total_size() const { return begin_[4]; }
  /// Ranges [first, end) that cover the trained gradients except the overwritable ones, in order.
  const std::vector<std::pair<int64_t, int64_t>>& added_to() const { return added_to_; }

 private:
  ParamLimit limit_;
  std::vector<Entry> entries_;
  std::unordered_set<std::string> names_;
  int64_t values_ = 0;
  uint32_t streams_ = 0;
  int64_t begin_[5] = {0, 0, 0, 0, 0};
  std::vector<std::pair<int64_t, int64_t>> added_to_;
};

/// A node in the tree of parameter names: Scope(layout, "level1") / "step3" / "coupling".
class EVENFLOW_API Scope {
 public:
  Scope(ParamLayout& layout, std::string prefix) : layout_(layout), prefix_(std::move(prefix)) {}
  Scope operator/(const std::string& name) const {
    return Scope(layout_, prefix_.empty() ? name : prefix_ + "." + name);
  }
  ParamId add(const std::string& name, std::vector<int64_t> shape, Group group,
              bool overwritable = false) const {
    return layout_.add((*this / name).prefix_, std::move(shape), group, overwritable);
  }
  uint32_t add_stream() const { return layout_.add_stream(); }
  const std::string& prefix() const { return prefix_; }

 private:
  ParamLayout& layout_;
  std::string prefix_;
};

/// What dropout's masks depend on in a training step, besides the place of a value in the flow.
struct MaskSeed {
  uint64_t seed = 0;       ///< give each step another one
  uint64_t first_row = 0;  ///< number of the batch's first row: a row's mask depends on its number
};

/// What a density is conditioned on: nothing, labels or a context, whichever the flow takes. Also holds the
/// sample weights and the seed of a training step.
template <class T>
struct Given {
  Given(const int32_t* classes = nullptr) : labels(classes) {}
  explicit Given(const T* numbers, T* gradient = nullptr) : context(numbers), dcontext(gradient) {}

  const int32_t* labels = nullptr;  ///< (n,) classes
  const T* context = nullptr;       ///< (n, Flow::context()), contiguous
  T* dcontext = nullptr;            ///< same shape: backward passes write the context's gradient; or null
  const double* sample_weight = nullptr;  ///< (n,) factor of each sample's loss in a step; null: 1
  MaskSeed masks;                         ///< of dropout in a step; no other call drops anything
};

/// What the rows of one call are conditioned on, as layers read it.
template <class T>
struct Conditions {
  const int32_t* labels = nullptr;  ///< (N,) classes, for class-conditional models
  const T* context = nullptr;       ///< (N, C) standardised context
  T* dcontext = nullptr;            ///< (N, C) backward adds the context's gradient; null: not requested
  int64_t first_row = 0;            ///< number in the call of the first row of x
};

template <class T>
struct Mode;

/// The parameters that a layer reads during one call, and what the call is about.
template <class T>
struct Params {
  const ParamLayout* layout = nullptr;
  const T* values = nullptr;
  T* grads = nullptr;  ///< backward adds to them; null: only gradients by inputs are wanted
  Conditions<T> given;
  const Mode<T>* mode = nullptr;  ///< of a pass that the flow makes; null elsewhere

  /// Null where a layer has no such parameter (id -1), or no gradient is wanted.
  const T* value(ParamId id) const { return id < 0 ? nullptr : values + layout->offset(id); }
  T* grad(ParamId id) const { return id < 0 || !grads ? nullptr : grads + layout->offset(id); }
};

/// A zero-initialised buffer that kernels of a device and the program share. The program may access it only
/// while no kernel runs: after Context::synchronize(). On the CPU it is plain memory, aligned to 64 bytes.
template <class T>
class EVENFLOW_API SharedBuffer {
 public:
  /// device: "cpu", or the device of the kernels. DeviceError as for Context.
  explicit SharedBuffer(int64_t size, const std::string& device = "cpu");

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return size_; }

  friend bool operator==(const SharedBuffer& a, const SharedBuffer& b) {
    return std::equal(a.data(), a.data() + a.size(), b.data(), b.data() + b.size());
  }

 private:
  std::unique_ptr<T[], std::function<void(T*)>> data_;
  int64_t size_;
};

/// A model's parameters: owns two buffers of the same layout, values and gradients.
template <class T>
class EVENFLOW_API ParamArena {
 public:
  /// device: the device of the contexts that use the arena; see SharedBuffer.
  explicit ParamArena(std::shared_ptr<const ParamLayout> layout, const std::string& device = "cpu");

  const std::string& device() const { return device_; }

  const ParamLayout& layout() const { return *layout_; }
  T* values() { return values_.data(); }
  const T* values() const { return values_.data(); }
  /// The caller may write through this pointer at any time. So grads_are_zero(), grads_square() and
  /// grads_are_finite() know nothing from then on.
  T* grads() {
    writable_elsewhere_ = true;
    return grads_.data();
  }
  const T* grads() const { return grads_.data(); }
  T* value(ParamId id) { return values() + layout_->offset(id); }
  const T* value(ParamId id) const { return values() + layout_->offset(id); }
  T* grad(ParamId id) { return grads() + layout_->offset(id); }

  /// For one call of backward, which adds to the gradients.
  Params<T> params() {
    zero_ = finite_ = false;
    square_ = -1;
    return {layout_.get(), values(), grads_.data(), {}};
  }
  /// For forward and inverse.
  Params<T> params() const { return {layout_.get(), values(), nullptr, {}}; }

  /// Whether gradients are known to be zero: nothing was added since zero_grad, and grads() gave out no
  /// pointer.
  bool grads_are_zero() const { return zero_ && !writable_elsewhere_; }
  /// Sum of squares of all trained gradients if it is known and all are finite, else -1.
  double grads_square() const { return writable_elsewhere_ ? -1 : square_; }
  /// Stores a computed sum of squares. It is valid until the gradients change.
  void set_grads_square(double square) { square_ = square; }
  /// Whether the gradients, and so their norm, are known to be finite.
  bool grads_are_finite() const { return grads_square() >= 0 || (finite_ && !writable_elsewhere_); }

 private:
  template <class U>
  friend void zero_grad(Context&, ParamArena<U>&);
  template <class U>
  friend double clip_grad_norm(Context&, ParamArena<U>&, double);
  std::shared_ptr<const ParamLayout> layout_;
  std::string device_;
  SharedBuffer<T> values_;
  SharedBuffer<T> grads_;
  bool zero_ = true;
  bool finite_ = false;
  double square_ = -1;
  bool writable_elsewhere_ = false;
};

extern template class SharedBuffer<float>;
extern template class SharedBuffer<double>;
extern template class ParamArena<float>;
extern template class ParamArena<double>;

}  // namespace evenflow
