#pragma once

#include <cstdint>

// What a body with blocks and threads is run with; see device/body.hpp.

namespace evenflow::ops {

struct Place {
  int64_t block;
  int64_t blocks;
  int thread;
};

struct Nothing {};

}  // namespace evenflow::ops
