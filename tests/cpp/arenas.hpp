#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "evenflow/evenflow.hpp"

// What tests do to a model's parameters.

namespace evenflow::test {

/// The values of a tensor.
template <class T>
struct Values {
  T* begin() const { return first; }
  T* end() const { return first + size; }
  T& operator[](int64_t i) const { return first[i]; }
  void fill(T value) const { std::fill_n(first, size, value); }

  T* first;
  int64_t size;
};

/// Empty if there is no such tensor.
template <class T>
Values<T> find_tensor(ParamArena<T>& arena, const std::string& name) {
  for (const ParamLayout::Entry& entry : arena.layout().entries()) {
    if (entry.name == name) return {arena.values() + entry.offset, entry.size};
  }
  return {nullptr, 0};
}

template <class T>
Values<T> tensor(ParamArena<T>& arena, const std::string& name) {
  const Values<T> found = find_tensor(arena, name);
  if (!found.size) throw std::out_of_range("no tensor " + name);
  return found;
}

/// Adds normal noise of this deviation to all trained values.
template <class T>
void add_noise(ParamArena<T>& arena, double deviation) {
  Rng rng(4, Stream::test);
  for (const ParamLayout::Entry& entry : arena.layout().entries()) {
    T* const value = arena.values() + entry.offset;
    for (int64_t i = 0; entry.offset < arena.layout().trainable_size() && i < entry.size; ++i) {
      value[i] += static_cast<T>(deviation * rng.normal());
    }
  }
}

/// The text of the error that `call` throws, which is of this type; "" if it throws none.
template <class E = Error, class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

inline bool starts_with(const std::string& text, const std::string& start) {
  return text.rfind(start, 0) == 0;
}

inline void check_contains(const std::string& text, const std::string& part) {
  CHECK_MESSAGE(text.find(part) != std::string::npos, "expected '", part, "' in '", text, "'");
}

}  // namespace evenflow::test
