#pragma once

// What layers, nets and kernels agree on.

namespace evenflow {

constexpr double kLogScale = 3.0;       ///< Glow's logscale_factor: log scale = 3 * logs
constexpr double kBatchNormEps = 1e-4;  ///< added to variances

}  // namespace evenflow
