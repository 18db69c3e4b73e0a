#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace evenflow::json {

struct Value;
using Array = std::vector<Value>;
/// Members in the order of the text, with unique keys.
using Object = std::vector<std::pair<std::string, Value>>;

/// A JSON value (RFC 8259). A number without fraction and exponent is stored as the first type that holds it:
/// int64_t, uint64_t, double.
struct Value {
  std::variant<std::nullptr_t, bool, int64_t, uint64_t, double, std::string, Array, Object> data;

  /// The value as a T, or nullptr if it is of another type.
  template <class T>
  const T* get() const {
    return std::get_if<T>(&data);
  }
  /// The member `key`, or nullptr if there is none or this is not an object.
  const Value* find(std::string_view key) const;
};

/// Parses a text with exactly one value. The text must be valid UTF-8 without lone surrogates; keys must be
/// unique, numbers finite, and arrays and objects nested at most 32 deep. Otherwise IoError `[where] expected
/// ..., got ... at byte N of source`.
Value parse(std::string_view text, const std::string& where, const std::string& source);

/// The text as a JSON string with its quotes; IoError unless it is valid UTF-8.
std::string quote(std::string_view text, const std::string& where, const std::string& source);

/// Quotes the text for an error message: its first bytes, with '?' for anything but printable ASCII.
std::string shown(std::string_view text);

}  // namespace evenflow::json
