#include "evenflow/error.hpp"

#include "core/numbers.hpp"

namespace evenflow {

std::string text_of_parts(const TextPart* parts, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    const TextPart& part = parts[i];
    switch (part.kind_) {
      case TextPart::kText:
        text += part.text_;
        break;
      case TextPart::kLetter:
        text += part.letter_;
        break;
      case TextPart::kWhole:
        text += std::to_string(part.whole_);
        break;
      case TextPart::kNatural:
        text += std::to_string(part.natural_);
        break;
      case TextPart::kReal:
        text += rounded_text(part.real_);
        break;
    }
  }
  return text;
}

}  // namespace evenflow
