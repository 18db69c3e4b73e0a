#pragma once

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "evenflow/export.h"

namespace evenflow {

/// Root of everything the library throws but std::bad_alloc, where there is no memory. Texts read
/// `[where] expected ..., got ...`.
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

/// All parts, one after the other.
template <class... Parts>
std::string text_of(const Parts&... parts) {
  std::ostringstream text;
  text.imbue(std::locale::classic());  // the program's may write 1100 as 1.100
  const auto put = [&text](const auto& part) {
    using Part = std::decay_t<decltype(part)>;
    if constexpr (std::is_floating_point<Part>::value) {
      if (part != part) return void(text << "nan");  // its sign says nothing
    }
    text << part;
  };
  (put(parts), ...);
  return text.str();
}

/// Throws `E` with the text "[where] part part ...".
template <class E, class... Parts>
[[noreturn]] void fail(const std::string& where, const Parts&... parts) {
  throw E(text_of('[', where, "] ", parts...));
}

}  // namespace evenflow
