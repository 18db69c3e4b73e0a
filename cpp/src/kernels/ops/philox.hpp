#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow::ops {

struct Words {
  uint32_t w[4];
};

/// Philox 4x32-10 (Salmon et al., SC 2011): key = seed, counter = (block, sample's low word, its high word,
/// stream).
EVENFLOW_INLINE Words philox(uint64_t seed, uint32_t stream, uint64_t sample, uint32_t block) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = block, c1 = static_cast<uint32_t>(sample), c2 = static_cast<uint32_t>(sample >> 32),
           c3 = stream;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace evenflow::ops
