#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

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

/// A part of an error text: a string, a character or a number.
class TextPart {
 public:
  TextPart(const char* text) : kind_(kText), text_(text) {}
  TextPart(const std::string& text) : kind_(kText), text_(text) {}
  TextPart(char letter) : kind_(kLetter), letter_(letter) {}
  template <class Number, class = std::enable_if_t<std::is_arithmetic<Number>::value>>
  TextPart(Number number)
      : kind_(std::is_floating_point<Number>::value ? kReal
              : std::is_signed<Number>::value       ? kWhole
                                                    : kNatural) {
    if constexpr (std::is_floating_point<Number>::value) {
      real_ = static_cast<double>(number);
    } else if constexpr (std::is_signed<Number>::value) {
      whole_ = static_cast<long long>(number);
    } else {
      natural_ = static_cast<unsigned long long>(number);
    }
  }

 private:
  friend EVENFLOW_API std::string text_of_parts(const TextPart* parts, size_t count);
  enum Kind { kText, kLetter, kWhole, kNatural, kReal } kind_;
  std::string_view text_;
  union {
    char letter_;
    long long whole_;
    unsigned long long natural_;
    double real_;
  };
};

/// Joins the parts. It is not inline because each of hundreds of error sites would then contain a stream.
EVENFLOW_API std::string text_of_parts(const TextPart* parts, size_t count);
template <class... Parts>
std::string text_of(const Parts&... parts) {
  const TextPart all[] = {parts...};
  return text_of_parts(all, sizeof...(parts));
}

/// Throws `E` with the text "[where] part part ...".
template <class E, class... Parts>
[[noreturn]] void fail(const std::string& where, const Parts&... parts) {
  throw E(text_of('[', where, "] ", parts...));
}

}  // namespace evenflow
