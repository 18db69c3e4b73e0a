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

/// What happens to a parameter tensor in training.
enum class Group {
  decay,     ///< trained, and the target of weight decay
  no_decay,  ///< trained
  stats,     ///< running statistics: not trained, averaged over batches
  fixed      ///< set at construction or by init(x), then constant
};

/// Index of a tensor in its layout.
using ParamId = int;

/// Names, shapes and offsets of every tensor of a model, in one flat buffer.
/// Order: decay, no_decay, stats, fixed; each tensor starts on a 64-byte boundary (of float64: 8 values)
/// and the gaps are always zero.
class EVENFLOW_API ParamLayout {
 public:
  struct Entry {
    std::string name;
    std::vector<int64_t> shape;
    Group group;
    int64_t size;
    int64_t offset;
    bool overwritable;  ///< its gradient is stored where Params::overwrite, not added
  };

  /// Throws ConfigError on a second use of a name, and where the values of all tensors pass 2^56.
  ParamId add(const std::string& name, std::vector<int64_t> shape, Group group, bool overwritable = false);
  void finalize();

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
  /// [first, end) of what trained tensors' gradients are besides the overwritable ones, in order.
  const std::vector<std::pair<int64_t, int64_t>>& added_to() const { return added_to_; }

 private:
  std::vector<Entry> entries_;
  std::unordered_set<std::string> names_;
  int64_t values_ = 0;
  int64_t begin_[5] = {0, 0, 0, 0, 0};
  std::vector<std::pair<int64_t, int64_t>> added_to_;
};

/// A place in the tree of names: Scope(layout, "level1") / "step3" / "coupling".
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
  const std::string& prefix() const { return prefix_; }

 private:
  ParamLayout& layout_;
  std::string prefix_;
};

/// What a density is conditioned on: nothing, or as the flow says, classes or numbers. And what samples count
/// for in a training step.
template <class T>
struct Given {
  Given(const int32_t* classes = nullptr) : labels(classes) {}
  explicit Given(const T* numbers, T* gradient = nullptr) : context(numbers), dcontext(gradient) {}

  const int32_t* labels = nullptr;  ///< (n,) classes
  const T* context = nullptr;       ///< (n, Flow::context()), contiguous
  T* dcontext = nullptr;            ///< alike: backward passes write the gradient by the context; null: none
  const double* sample_weight = nullptr;  ///< (n,) factors of the samples' terms of a step's loss; null: 1
};

/// What a layer sees of its model during one call.
template <class T>
struct Params {
  const ParamLayout* layout = nullptr;
  const T* values = nullptr;
  T* grads = nullptr;  ///< null outside backward
  T* batch_stats =
      nullptr;  ///< moments of this batch, laid out like the stats group; null: use the running ones
  const int32_t* labels = nullptr;  ///< (N,) classes of the batch, for class-conditional models
  bool overwrite = false;           ///< overwritable gradients hold nothing yet: they are stored, not added
  const T* context = nullptr;       ///< (N, C) standardised numbers that the density is given
  T* dcontext = nullptr;            ///< (N, C), null where nobody asks: backward adds the gradient by them

  const T* value(ParamId id) const { return values + layout->offset(id); }
  T* grad(ParamId id) const { return grads + layout->offset(id); }
  T* batch_stat(ParamId id) const {
    return batch_stats ? batch_stats + (layout->offset(id) - layout->stats_begin()) : nullptr;
  }
  bool training() const { return batch_stats != nullptr; }
};

/// Zeros that kernels of a device use, and that the program may touch while none of them runs: after
/// Context::synchronize(). On the CPU plain memory, aligned to 64 bytes.
template <class T>
class EVENFLOW_API SharedBuffer {
 public:
  /// device: "cpu", or where the kernels run; DeviceError as for Context.
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

/// Two equal buffers, values and gradients, owned here.
template <class T>
class EVENFLOW_API ParamArena {
 public:
  /// device: where the contexts of its calls compute; see SharedBuffer.
  explicit ParamArena(std::shared_ptr<const ParamLayout> layout, const std::string& device = "cpu");

  const std::string& device() const { return device_; }

  const ParamLayout& layout() const { return *layout_; }
  T* values() { return values_.data(); }
  const T* values() const { return values_.data(); }
  /// Who holds this pointer may write through it at any time: none of grads_are_zero(), grads_square() and
  /// grads_are_finite() can be known from then on.
  T* grads() {
    writable_elsewhere_ = true;
    return grads_.data();
  }
  const T* grads() const { return grads_.data(); }
  T* value(ParamId id) { return values() + layout_->offset(id); }
  const T* value(ParamId id) const { return values() + layout_->offset(id); }
  T* grad(ParamId id) { return grads() + layout_->offset(id); }

  /// For backward: with gradients to add to, during one call.
  Params<T> params(T* batch_stats = nullptr) {
    zero_ = finite_ = false;
    square_ = -1;
    return {layout_.get(), values(), grads_.data(), batch_stats};
  }
  /// For forward and inverse.
  Params<T> params() const { return {layout_.get(), values()}; }

  /// Whether gradients are known to be zero: nothing was added since zero_grad, and nobody else can write.
  bool grads_are_zero() const { return zero_ && !writable_elsewhere_; }
  /// The sum of squares of all trained parameters' gradients, all finite, where that is known; -1 elsewhere.
  double grads_square() const { return writable_elsewhere_ ? -1 : square_; }
  /// For who has computed it: until the next change it need not be computed again.
  void set_grads_square(double square) { square_ = square; }
  /// Whether they are known to be finite, and their norm with them.
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
