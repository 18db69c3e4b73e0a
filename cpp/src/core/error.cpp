#include "evenflow/error.hpp"

#include <locale>
#include <sstream>

namespace evenflow {

std::string text_of_parts(const TextPart* parts, size_t count) {
  std::ostringstream text;
  text.imbue(std::locale::classic());  // the program's locale may write 1100 as 1.100
  for (size_t i = 0; i < count; ++i) {
    const TextPart& part = parts[i];
    switch (part.kind_) {
      case TextPart::kText:
        text << part.text_;
        break;
      case TextPart::kLetter:
        text << part.letter_;
        break;
      case TextPart::kWhole:
        text << part.whole_;
        break;
      case TextPart::kNatural:
        text << part.natural_;
        break;
      case TextPart::kReal:
        if (part.real_ != part.real_) {
          text << "nan";  // never -nan
        } else {
          text << part.real_;
        }
        break;
    }
  }
  return text.str();
}

}  // namespace evenflow
