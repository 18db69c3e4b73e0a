#include "evenflow/error.hpp"

#include "core/numbers.hpp"

namespace evenflow {
namespace {

std::string text(std::string_view part) {
  return std::string(part);
}
std::string text(char part) {
  return std::string(1, part);
}
std::string text(double part) {
  return rounded_text(part);
}
template <class Integer>
std::string text(Integer part) {
  return std::to_string(part);
}

}  // namespace

std::string text_of_parts(const TextPart* parts, size_t count) {
  std::string all;
  for (size_t i = 0; i < count; ++i) {
    all += std::visit([](const auto& part) { return text(part); }, parts[i]);
  }
  return all;
}

}  // namespace evenflow
