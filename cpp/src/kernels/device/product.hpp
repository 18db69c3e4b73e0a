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

  EVENFLOW_INLINE H at(int64_t row, int64_t column) const {
    return data[transposed ? column * stride + row : row * stride + column];
  }
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

/// The product where there is no cuBLASLt: a thread computes one number of d.
template <class H, class T>
struct PlainProduct {
  Product<H, T> of;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t column) const {
    T sum(0);
    for (int64_t k = 0; k < of.k; ++k) sum += value_of(of.a.at(row, k)) * value_of(of.b.at(k, column));
    T* to = of.d + row * of.stride + column;
    sum += (of.bias ? of.bias[column] : T(0)) + (of.add ? *to : T(0));
    *to = of.relu && sum < T(0) ? T(0) : sum;
  }
};

}  // namespace evenflow::device
