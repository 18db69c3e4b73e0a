#include "core/linalg.hpp"

#include <cmath>
#include <numeric>

namespace evenflow::linalg {

Matrix multiply(const Matrix& a, const Matrix& b, int64_t n) {
  Matrix c(a.size(), 0.0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < n; ++k) {
      const double v = a[i * n + k];
      if (v == 0) continue;
      for (int64_t j = 0; j < n; ++j) c[i * n + j] += v * b[k * n + j];
    }
  }
  return c;
}

Matrix transpose(const Matrix& a, int64_t n) {
  Matrix t(a.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) t[j * n + i] = a[i * n + j];
  }
  return t;
}

Matrix random_orthogonal(int64_t n, Rng& rng) {
  Matrix q(static_cast<size_t>(n * n));
  for (double& v : q) v = rng.normal();
  // Gram-Schmidt on rows, twice: the result is then orthogonal up to rounding.
  for (int64_t i = 0; i < n; ++i) {
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t k = 0; k < i; ++k) {
        double dot = 0;
        for (int64_t j = 0; j < n; ++j) dot += q[i * n + j] * q[k * n + j];
        for (int64_t j = 0; j < n; ++j) q[i * n + j] -= dot * q[k * n + j];
      }
    }
    double square = 0;
    for (int64_t j = 0; j < n; ++j) square += q[i * n + j] * q[i * n + j];
    for (int64_t j = 0; j < n; ++j) q[i * n + j] /= std::sqrt(square);
  }
  return q;
}

Lu lu(const Matrix& a, int64_t n) {
  Matrix m = a;
  std::vector<int64_t> row(static_cast<size_t>(n));  // row[i]: the row of A that is now row i
  std::iota(row.begin(), row.end(), 0);
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i) {
      if (std::abs(m[i * n + k]) > std::abs(m[pivot * n + k])) pivot = i;
    }
    if (pivot != k) {
      std::swap(row[k], row[pivot]);
      for (int64_t j = 0; j < n; ++j) std::swap(m[k * n + j], m[pivot * n + j]);
    }
    if (m[k * n + k] == 0) continue;
    for (int64_t i = k + 1; i < n; ++i) {
      const double factor = m[i * n + k] /= m[k * n + k];
      for (int64_t j = k + 1; j < n; ++j) m[i * n + j] -= factor * m[k * n + j];
    }
  }
  Lu out{Matrix(a.size(), 0.0), Matrix(a.size(), 0.0), std::vector<int>(static_cast<size_t>(n))};
  for (int64_t i = 0; i < n; ++i) {
    out.permutation[row[i]] = static_cast<int>(i);
    for (int64_t j = 0; j < n; ++j) (j < i ? out.lower : out.upper)[i * n + j] = m[i * n + j];
    out.lower[i * n + i] = 1;
  }
  return out;
}

Matrix invert_lower(const Matrix& a, int64_t n) {
  Matrix inv(a.size(), 0.0);
  for (int64_t i = 0; i < n; ++i) {
    inv[i * n + i] = 1;
    for (int64_t k = 0; k < i; ++k) {
      for (int64_t j = 0; j <= k; ++j) inv[i * n + j] -= a[i * n + k] * inv[k * n + j];
    }
    for (int64_t j = 0; j <= i; ++j) inv[i * n + j] /= a[i * n + i];
  }
  return inv;
}

Matrix invert_upper(const Matrix& a, int64_t n) {
  return transpose(invert_lower(transpose(a, n), n), n);
}

Matrix cholesky(const Matrix& a, int64_t n) {
  Matrix l(a.size(), 0.0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double v = a[i * n + j];
      for (int64_t k = 0; k < j; ++k) v -= l[i * n + k] * l[j * n + k];
      if (i == j) {
        // A pivot that is nothing but rounding errors means a singular matrix.
        if (!(v > 1e-12 * a[i * n + i])) return {};
        l[i * n + i] = std::sqrt(v);
      } else {
        l[i * n + j] = v / l[j * n + j];
      }
    }
  }
  return l;
}

}  // namespace evenflow::linalg
