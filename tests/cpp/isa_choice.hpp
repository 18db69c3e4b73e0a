#pragma once

#include <cstdlib>
#include <string>

#include "system.hpp"

namespace evenflow::test {

/// Chooses an instruction set by EVENFLOW_ISA, which it gives its value back.
class IsaChoice {
 public:
  IsaChoice() : chosen_(std::getenv("EVENFLOW_ISA")), before_(chosen_ ? std::getenv("EVENFLOW_ISA") : "") {}
  explicit IsaChoice(const char* isa) : IsaChoice() { set(isa); }
  ~IsaChoice() {
    if (chosen_) {
      set(before_.c_str());
    } else {
      unsetenv("EVENFLOW_ISA");
    }
  }
  IsaChoice(const IsaChoice&) = delete;
  IsaChoice& operator=(const IsaChoice&) = delete;
  static void set(const char* isa) { setenv("EVENFLOW_ISA", isa, 1); }

 private:
  bool chosen_;
  std::string before_;
};

}  // namespace evenflow::test
