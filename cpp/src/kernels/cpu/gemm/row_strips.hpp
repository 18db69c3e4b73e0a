#pragma once

#include "kernels/cpu/gemm/register_tile.hpp"

namespace evenflow::gemm {

/// How m rows are divided into tiles: tall ones, and at the end as many low ones as leave none partly empty.
/// 128 rows are eight tiles of 14 and two of 8. Any even m that is large enough comes out.
class RowStrips {
 public:
  template <class Isa, class T>
  static RowStrips of(int64_t m) {
    using S = RegisterTile<Isa, T>;
    return RowStrips(m, S::rows, Isa::matrix ? S::rows : S::low_rows);
  }

  int64_t count() const { return count_; }
  /// The first row of a tile; m for the one after the last.
  int64_t row(int64_t strip) const;
  /// The tile that starts at a row of the tall ones, or the one after the last.
  int64_t at(int64_t row) const { return row == m_ ? count_ : row / height_; }

 private:
  // Neither this nor row() is inlined: it would have the loops of every product split and unrolled.
  RowStrips(int64_t m, int height, int low_height);

  int64_t m_;
  int height_, low_height_;
  int64_t tall_, count_;
};

}  // namespace evenflow::gemm
