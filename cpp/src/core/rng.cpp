#include "evenflow/rng.hpp"

#include <cmath>

#include "kernels/ops/philox.hpp"

namespace evenflow {

Rng::Rng(uint64_t seed, Stream stream) : seed_(seed), stream_(static_cast<uint32_t>(stream)) {}

uint32_t Rng::next() {
  if (used_ == 4) {
    const ops::Words words = ops::philox(seed_, stream_, block_++, 0);
    for (int k = 0; k < 4; ++k) words_[k] = words.w[k];
    used_ = 0;
  }
  return words_[used_++];
}

double Rng::uniform() {
  return (next() + 0.5) * 0x1p-32;
}

double Rng::normal() {
  const double radius = std::sqrt(-2.0 * std::log(uniform()));
  return radius * std::cos(6.283185307179586 * uniform());
}

int64_t Rng::below(int64_t n) {
  const uint64_t high = next();
  const uint64_t low = next();
  return static_cast<int64_t>(((high << 32) | low) % static_cast<uint64_t>(n));
}

}  // namespace evenflow
