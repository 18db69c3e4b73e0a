#pragma once

#include "kernels/ops/math.hpp"

namespace evenflow::ops::laws {

/// Base of laws whose numbers are constants of a layer: nobody wants gradients by them, and no setting names
/// such a law.
struct FixedLaw {
  static constexpr int shared = 0;
};

}  // namespace evenflow::ops::laws
