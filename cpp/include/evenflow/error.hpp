#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include "evenflow/export.h"

namespace evenflow {

/// Base class of all exceptions that the library throws, except std::bad_alloc when memory runs out. Texts
/// read `[where] expected ..., got ...`.
class EVENFLOW_API Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An array whose shape does not fit the model or the operation.
class EVENFLOW_API ShapeError : public Error {
 public:
  using Error::Error;
};

/// A model or training setting outside its documented range.
class EVENFLOW_API ConfigError : public Error {
 public:
  using Error::Error;
};

/// A device that is absent, or that this build does not support.
class EVENFLOW_API DeviceError : public Error {
 public:
  using Error::Error;
};

/// A file that is missing, truncated, foreign or not writable.
class EVENFLOW_API IoError : public Error {
 public:
  using Error::Error;
};

/// A value that is not finite, or a transform that is numerically not invertible.
class EVENFLOW_API NumericError : public Error {
 public:
  using Error::Error;
};

/// A part of an error text.
using TextPart = std::variant<std::string_view, char, long long, unsigned long long, double>;
template <class T>
TextPart text_part(const T& value) {
  if constexpr (std::is_floating_point<T>::value) {
    return static_cast<double>(value);
  } else if constexpr (!std::is_arithmetic<T>::value || std::is_same<T, char>::value) {
    return value;
  } else if constexpr (std::is_signed<T>::value) {
    return static_cast<long long>(value);
  } else {
    return static_cast<unsigned long long>(value);
  }
}

/// Joins the parts. It is not inline because hundreds of error sites would then contain it.
EVENFLOW_API std::string text_of_parts(const TextPart* parts, size_t count);
template <class... Parts>
std::string text_of(const Parts&... parts) {
  const TextPart all[] = {text_part(parts)...};
  return text_of_parts(all, sizeof...(parts));
}

/// Throws `E` with the text "[where] part part ...".
template <class E, class... Parts>
[[noreturn]] void fail(const std::string& where, const Parts&... parts) {
  throw E(text_of('[', where, "] ", parts...));
}

}  // namespace evenflow
