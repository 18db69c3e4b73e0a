#include "evenflow/params.hpp"

#include <cstring>

#include "core/device.hpp"
#include "core/memory.hpp"
#include "evenflow/error.hpp"

namespace evenflow {

ParamId ParamLayout::add(const std::string& name, std::vector<int64_t> shape, Group group,
                         bool overwritable) {
  const auto expect = [&](bool fits, int64_t most, const char* what) {
    if (!fits) fail<ConfigError>("params", "expected at most ", most, what, " in all, got more with ", name);
  };
  expect(static_cast<int64_t>(entries_.size()) < limit_.tensors, limit_.tensors, " tensors");
  const int64_t left = limit_.values - values_;
  int64_t size = 1;
  for (const int64_t d : shape) {
    expect(d >= 0 && (d == 0 || size <= left / d), limit_.values, " values");
    size *= d;
  }
  values_ += size;
  if (!names_.insert(name).second) {
    fail<ConfigError>("params", "expected unique names, got ", name, " twice");
  }
  entries_.push_back({name, std::move(shape), group, size, 0, overwritable});
  return static_cast<ParamId>(entries_.size()) - 1;
}

void ParamLayout::finalize() {
  constexpr int64_t kPad = 16;  // values: 64 bytes of float32, 128 of float64
  entries_.shrink_to_fit();
  names_ = {};
  int64_t at = 0;
  for (int g = 0; g < 4; ++g) {
    begin_[g] = at;
    for (Entry& entry : entries_) {
      if (entry.group != static_cast<Group>(g)) continue;
      entry.offset = at;
      at += (entry.size + kPad - 1) / kPad * kPad;
    }
  }
  begin_[4] = at;
  std::vector<std::pair<int64_t, int64_t>> stored;
  for (const Entry& entry : entries_) {
    if (entry.overwritable) stored.emplace_back(entry.offset, entry.offset + entry.size);
  }
  std::sort(stored.begin(), stored.end());
  stored.emplace_back(trainable_size(), trainable_size());
  at = 0;
  for (const auto& [first, end] : stored) {
    if (at < first) added_to_.emplace_back(at, first);
    at = end;
  }
}

template <class T>
SharedBuffer<T>::SharedBuffer(int64_t size, const std::string& device) : size_(size) {
  const size_t bytes = static_cast<size_t>(size) * sizeof(T);
  if (const Backend* backend = find_backend(device.c_str())) {
    data_ = {static_cast<T*>(backend->allocate_shared(bytes)),
             [backend](T* data) { backend->release_shared(data); }};
    std::memset(data_.get(), 0, bytes);
  } else {
    data_ = {static_cast<T*>(allocate(bytes)), [bytes](T* data) { deallocate(data, bytes); }};
  }
}

template <class T>
ParamArena<T>::ParamArena(std::shared_ptr<const ParamLayout> layout, const std::string& device)
    : layout_(std::move(layout)),
      device_(device),
      values_(layout_->total_size(), device),
      grads_(layout_->total_size(), device) {}

template class SharedBuffer<float>;
template class SharedBuffer<double>;
template class ParamArena<float>;
template class ParamArena<double>;

}  // namespace evenflow
