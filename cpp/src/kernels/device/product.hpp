#pragma once

#include <cstdint>

#include "kernels/bf16.hpp"

namespace evenflow::device {

/// Rows of numbers, `stride` apart, or the transpose of the matrix that they make.
template <class H>
struct Matrix {
  const H* data;
  int64_t stride;
  bool transposed = false;
};

/// d (m, n) = act(a b + bias), or d += a b. H is the type of the operands, T that of sums and results.
template <class H, class T>
struct Product {
  int64_t m;
  int64_t n;
  int64_t k;
  Matrix<H> a;
  Matrix<H> b;
  T* d;
  int64_t stride;  ///< of d
  bool add = false;
  const T* bias = nullptr;  ///< (n), or null
  bool relu = false;
};

}  // namespace evenflow::device
