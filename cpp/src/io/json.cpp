#include "io/json.hpp"

#include <charconv>
#include <cmath>
#include <set>
#include <system_error>

#include "core/numbers.hpp"
#include "evenflow/error.hpp"

namespace evenflow::json {
namespace {

constexpr int kMaxDepth = 32;
constexpr size_t kMaxShown = 60;

/// Bytes of the UTF-8 sequence at `at` (RFC 3629, section 4), 0 if it is not valid.
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<uint8_t>(text[at + i]) : 0u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  size_t length = 0;
  if (lead >= 0xC2 && lead <= 0xDF) length = 2;
  if (lead >= 0xE0 && lead <= 0xEF) length = 3;
  if (lead >= 0xF0 && lead <= 0xF4) length = 4;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
  const bool surrogate = lead == 0xED && byte(1) > 0x9F;
  const bool too_large = lead == 0xF4 && byte(1) > 0x8F;
  return overlong || surrogate || too_large ? 0 : length;
}

void append_utf8(std::string& out, uint32_t code) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string hex_byte(char c) {
  constexpr char digits[] = "0123456789abcdef";
  const auto byte = static_cast<uint8_t>(c);
  return {digits[byte >> 4], digits[byte & 15]};
}

/// Describes the character at `at` for an error message.
std::string seen(std::string_view text, size_t at) {
  if (at >= text.size()) return "the end";
  const char c = text[at];
  return c >= 0x20 && c < 0x7F ? std::string("'") + c + "'" : "byte 0x" + hex_byte(c);
}

class Parser {
 public:
  Parser(std::string_view text, const std::string& where, const std::string& source)
      : text_(text), where_(where), source_(source) {}

  Value document() {
    Value result = value(0);
    if (peek_token() != end) expected("nothing after the value");
    return result;
  }

 private:
  static constexpr int end = -1;

  [[noreturn]] void reject(size_t at, const std::string& wanted, const std::string& got) const {
    fail<IoError>(where_, "expected ", wanted, ", got ", got, " at byte ", at, " of ", source_);
  }
  [[noreturn]] void expected(const std::string& wanted) const { reject(at_, wanted, seen(text_, at_)); }

  int peek() const { return at_ < text_.size() ? static_cast<uint8_t>(text_[at_]) : end; }

  int peek_token() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
    return peek();
  }

  bool take(char token) {
    if (peek_token() != static_cast<uint8_t>(token)) return false;
    ++at_;
    return true;
  }

  Value value(int depth) {
    const int token = peek_token();
    if (token == '{' || token == '[') {
      if (depth == kMaxDepth) expected("at most " + std::to_string(kMaxDepth) + " nested values");
      if (token == '{') return object(depth + 1);
      return array(depth + 1);
    }
    if (token == '"') return {string()};
    if (token == '-' || is_digit()) return number();
    if (take_word("true")) return {true};
    if (take_word("false")) return {false};
    if (take_word("null")) return {nullptr};
    expected("a JSON value");
  }

  Value object(int depth) {
    Object members;
    std::set<std::string> keys;
    ++at_;
    if (take('}')) return {std::move(members)};
    do {
      if (peek_token() != '"') expected("a key in quotes");
      const size_t start = at_;
      std::string key = string();
      if (!keys.insert(key).second) reject(start, "unique keys", shown(key) + " twice");
      if (!take(':')) expected("':'");
      members.emplace_back(std::move(key), value(depth));
    } while (take(','));
    if (!take('}')) expected("',' or '}'");
    return {std::move(members)};
  }

  Value array(int depth) {
    Array items;
    ++at_;
    if (take(']')) return {std::move(items)};
    do {
      items.push_back(value(depth));
    } while (take(','));
    if (!take(']')) expected("',' or ']'");
    return {std::move(items)};
  }

  std::string string() {
    std::string out;
    ++at_;
    while (peek() != '"') {
      if (peek() == end) expected("'\"'");
      if (peek() == '\\') {
        escape(out);
        continue;
      }
      if (peek() < 0x20) expected("control characters escaped");
      const size_t length = utf8_length(text_, at_);
      if (length == 0) expected("valid UTF-8");
      out.append(text_, at_, length);
      at_ += length;
    }
    ++at_;
    return out;
  }

  void escape(std::string& out) {
    constexpr std::string_view names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
    const size_t start = at_++;
    if (peek() == 'u') {
      ++at_;
      append_utf8(out, code_point(start));
      return;
    }
    const size_t which = peek() == end ? names.npos : names.find(text_[at_]);
    if (which == names.npos) expected("an escape");
    out += values[which];
    ++at_;
  }

  uint32_t code_point(size_t start) {
    const uint32_t high = hex4();
    if (high < 0xD800 || high > 0xDFFF) return high;
    if (high < 0xDC00 && text_.substr(at_, 2) == "\\u") {
      at_ += 2;
      const uint32_t low = hex4();
      if (low >= 0xDC00 && low <= 0xDFFF) return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    }
    reject(start, "a surrogate pair", "a lone surrogate");
  }

  uint32_t hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      constexpr std::string_view digits = "0123456789abcdef0123456789ABCDEF";
      const size_t digit = peek() == end ? digits.npos : digits.find(text_[at_]);
      if (digit == digits.npos) expected("four hexadecimal digits");
      code = code * 16 + static_cast<uint32_t>(digit % 16);
    }
    return code;
  }

  bool is_digit() const { return peek() >= '0' && peek() <= '9'; }

  void digits() {
    if (!is_digit()) expected("a digit");
    while (is_digit()) ++at_;
  }

  Value number() {
    const size_t start = at_;
    if (peek() == '-') ++at_;
    if (peek() == '0') {
      ++at_;
    } else {
      digits();
    }
    const size_t integer_end = at_;
    if (peek() == '.') {
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    const std::string_view text = text_.substr(start, at_ - start);
    if (at_ == integer_end) {
      const char *first = text.data(), *last = first + text.size();
      int64_t integer = 0;
      if (std::from_chars(first, last, integer).ec == std::errc()) return {integer};
      uint64_t large = 0;
      if (*first != '-' && std::from_chars(first, last, large).ec == std::errc()) return {large};
    }
    const double real = number_of(std::string(text));
    if (!std::isfinite(real)) reject(start, "a finite number", shown(text));
    return {real};
  }

  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  std::string_view text_;
  const std::string& where_;
  const std::string& source_;
  size_t at_ = 0;
};

}  // namespace

const Value* Value::find(std::string_view key) const {
  if (const Object* members = get<Object>()) {
    for (const auto& [name, member] : *members) {
      if (name == key) return &member;
    }
  }
  return nullptr;
}

Value parse(std::string_view text, const std::string& where, const std::string& source) {
  return Parser(text, where, source).document();
}

std::string quote(std::string_view text, const std::string& where, const std::string& source) {
  std::string out = "\"";
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    length = utf8_length(text, at);
    if (length == 0) {
      fail<IoError>(where, "expected valid UTF-8, got ", seen(text, at), " at byte ", at, " of ", source);
    }
    const char c = text[at];
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<uint8_t>(c) < 0x20) {
      out += "\\u00" + hex_byte(c);
    } else {
      out.append(text, at, length);
    }
  }
  return out + '"';
}

std::string shown(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, kMaxShown)) out += c >= 0x20 && c < 0x7F ? c : '?';
  return out + (text.size() > kMaxShown ? "...'" : "'");
}

}  // namespace evenflow::json
