#pragma once

#include <cmath>

namespace evenflow::test {

/// The larger of two errors. NaN is infinity: std::max would drop it, or the next error replace it.
inline double larger(double worst, double error) {
  if (std::isnan(worst) || std::isnan(error)) return HUGE_VAL;
  return error > worst ? error : worst;
}

}  // namespace evenflow::test
