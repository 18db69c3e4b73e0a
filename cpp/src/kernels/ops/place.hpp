#pragma once

#include <cstdint>

// The indices that a thread of a kernel body gets; see device/body.hpp.

namespace evenflow::ops {

struct Place {
  int64_t block;
  int64_t blocks;
  int thread;
};

struct Nothing {};

}  // namespace evenflow::ops
