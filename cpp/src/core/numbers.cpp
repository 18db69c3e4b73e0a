#include "core/numbers.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace evenflow {
namespace {

// Some systems that we support lack std::to_chars and std::from_chars for floating point. Streams would be a
// tenth of a program that links them statically.

void replace(std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at != text.npos) text.replace(at, from.size(), to);
}

/// The locale's decimal point, from a printed 0.5. localeconv() is not safe to call from several threads.
std::string decimal_point() {
  std::array<char, 16> text;
  const int size = std::snprintf(text.data(), text.size(), "%.1f", 0.5);
  return std::string(text.data() + 1, static_cast<size_t>(size - 2));
}

std::string printed(const char* format, int precision, double value) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), format, precision, value);
  std::string found = text.data();
  replace(found, decimal_point(), ".");
  return found;
}

template <class T>
std::string exact(T value) {
  if (!std::isfinite(value)) return rounded_text(value);
  int digits = 1;
  while (digits < std::numeric_limits<T>::max_digits10 &&
         static_cast<T>(number_of(printed("%.*e", digits - 1, value))) != value) {
    ++digits;
  }
  const std::string scientific = printed("%.*e", digits - 1, value);
  const char* const at = scientific.data() + scientific.find('e') + 1;
  int exponent = 0;
  std::from_chars(at + (*at == '+'), scientific.data() + scientific.size(), exponent);
  if (exponent < -4 || exponent >= 16) return scientific;
  return printed("%.*f", std::max(0, digits - 1 - exponent), value);
}

}  // namespace

std::string rounded_text(double value) {
  return std::isnan(value) ? "nan" : printed("%.*g", 6, value);  // never -nan
}
std::string exact_text(float value) {
  return exact(value);
}
std::string exact_text(double value) {
  return exact(value);
}

double number_of(std::string text) {
  replace(text, ".", decimal_point());
  return std::strtod(text.c_str(), nullptr);
}

}  // namespace evenflow
