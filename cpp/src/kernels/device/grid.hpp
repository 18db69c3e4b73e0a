#pragma once

#include "kernels/ops/math.hpp"

namespace evenflow::device {

/// Divides a product (m, k) x (k, n) among blocks: each computes tile_m x tile_n of the result over one split
/// of k.
template <int tile_m, int tile_n>
struct ProductGrid {
  int64_t m;
  int64_t n;
  int64_t k;
  int64_t chunk;  ///< k per split, a multiple of the depth of a step

  EVENFLOW_INLINE int64_t tiles_m() const { return (m + tile_m - 1) / tile_m; }
  EVENFLOW_INLINE int64_t tiles_n() const { return (n + tile_n - 1) / tile_n; }
  EVENFLOW_INLINE int64_t blocks() const { return (k + chunk - 1) / chunk * tiles_m() * tiles_n(); }

  // The split of a block, its range of k, and the first row and column of its tile. A launch has less than
  // 2^31 blocks, and a 32-bit division saves a GPU about eighty instructions.
  EVENFLOW_INLINE int64_t split(int64_t block) const { return quotient(block, tiles_m() * tiles_n()); }
  EVENFLOW_INLINE int64_t begin(int64_t block) const { return split(block) * chunk; }
  EVENFLOW_INLINE int64_t end(int64_t block) const { return ops::min_of(k, begin(block) + chunk); }
  template <int depth>
  EVENFLOW_INLINE int64_t steps(int64_t block) const {
    return (end(block) - begin(block) + depth - 1) / depth;
  }
  EVENFLOW_INLINE int64_t first_m(int64_t block) const {
    const int64_t row = quotient(block, tiles_n());
    return (row - quotient(row, tiles_m()) * tiles_m()) * tile_m;
  }
  EVENFLOW_INLINE int64_t first_n(int64_t block) const {
    return (block - quotient(block, tiles_n()) * tiles_n()) * tile_n;
  }

 private:
  EVENFLOW_INLINE static int64_t quotient(int64_t a, int64_t b) {
    return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  }
};

}  // namespace evenflow::device
