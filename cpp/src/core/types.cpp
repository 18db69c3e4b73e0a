#include "evenflow/types.hpp"

namespace evenflow {

std::string to_string(const Shape& s) {
  return "(" + std::to_string(s.n) + ", " + std::to_string(s.h) + ", " + std::to_string(s.w) + ", " +
         std::to_string(s.c) + ")";
}

}  // namespace evenflow
