#pragma once

#include "kernels/cpu/gemm/register_tile.hpp"

namespace evenflow::gemm {

/// Divides m rows into strips: tall ones, then as many low ones as it takes to leave none partly empty. 128
/// rows give eight strips of 14 and two of 8. Every sufficiently large even m divides without a remainder.
class RowStrips {
 public:
  template <class Isa, class T>
  static RowStrips of(int64_t m) {
    using S = RegisterTile<Isa, T>;
    return RowStrips(m, S::rows, Isa::matrix ? S::rows : S::low_rows);
  }

  int64_t count() const { return count_; }
  /// First row of a strip. The strip after the last starts at m.
  int64_t row(int64_t strip) const;
  /// Index of the strip that starts at `row`, which is a row of the tall strips or m.
  int64_t at(int64_t row) const { return row == m_ ? count_ : row / height_; }

 private:
  // The constructor and row() are not inlined, or GCC would split and unroll the loops of every product.
  RowStrips(int64_t m, int height, int low_height);

  int64_t m_;
  int height_, low_height_;
  int64_t tall_, count_;
};

}  // namespace evenflow::gemm
