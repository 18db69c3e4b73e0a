#pragma once

#include <cstdint>
#include <vector>

#include "evenflow/rng.hpp"

// Small dense matrices in float64, row-major n x n: the factors of 1x1 convolutions and whitening.

namespace evenflow::linalg {

using Matrix = std::vector<double>;

struct Lu {
  Matrix lower;                  ///< unit lower triangle, strictly lower part and ones
  Matrix upper;                  ///< upper triangle
  std::vector<int> permutation;  ///< A[i, :] = (lower upper)[permutation[i], :]
};

Matrix multiply(const Matrix& a, const Matrix& b, int64_t n);
Matrix transpose(const Matrix& a, int64_t n);

/// A random orthogonal matrix: Q of the QR decomposition of a Gaussian one.
Matrix random_orthogonal(int64_t n, Rng& rng);

/// LU with partial pivoting. A zero pivot stays in `upper` for the caller to check.
Lu lu(const Matrix& a, int64_t n);

/// Inverse of a lower (upper) triangular matrix with non-zero diagonal.
Matrix invert_lower(const Matrix& a, int64_t n);
Matrix invert_upper(const Matrix& a, int64_t n);

/// L with A = L L^T; an empty matrix if A is not positive definite beyond rounding.
Matrix cholesky(const Matrix& a, int64_t n);

}  // namespace evenflow::linalg
