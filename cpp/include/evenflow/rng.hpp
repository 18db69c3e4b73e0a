#pragma once

#include <cstdint>

#include "evenflow/export.h"

namespace evenflow {

/// Streams of one seed, so that unrelated draws never share numbers.
/// dropout: and the numbers after it, one for each place in a flow where values are dropped.
enum class Stream : uint32_t { init = 0, dequantize = 1, prior = 2, test = 3, dropout = 16 };

/// Sequential draws from the counter-based generator (Philox 4x32-10, Salmon et al. 2011), for
/// initialisation and tests. Draws inside models are made by PriorKernels from (seed, stream, i, j).
class EVENFLOW_API Rng {
 public:
  explicit Rng(uint64_t seed, Stream stream = Stream::init);

  /// Uniform on (0, 1), never 0 or 1.
  double uniform();
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  double normal();
  /// Uniform on {0, ..., n - 1}.
  int64_t below(int64_t n);

 private:
  uint32_t next();

  uint64_t seed_;
  uint32_t stream_;
  uint64_t block_ = 0;
  int used_ = 4;
  uint32_t words_[4] = {};
};

}  // namespace evenflow
