#pragma once

#include "evenflow/context.hpp"
#include "kernels/cpu/exec.hpp"
#include "kernels/cpu/isa.hpp"

// C (m, n) = A (m, k) B (k, n), blocked for the caches, with operands gathered while they are packed.
//
// B is packed once a call into panels of tile_cols columns, A block by block into panels of tile_rows rows;
// a register tile of C is computed from one panel of each. Every element of C adds its products in the same
// order whatever the blocking of m and n, so results depend neither on threads nor on the batch size.

namespace evenflow::gemm {

template <class Isa, class T>
struct Tile {
  static constexpr int rows = Isa::rows;
  static constexpr int lanes = Isa::vector_bytes / static_cast<int>(sizeof(T));
  static constexpr int cols = 2 * lanes;
  static constexpr int64_t k_block = 384;
  static constexpr int64_t m_block = 16 * rows;
};

/// c (rows, cols) = a (k, rows)^T b (k, cols), or += with accumulate.
template <class Isa, class T>
inline __attribute__((always_inline)) void microkernel(int64_t k, const T* a, const T* b, T* c, int64_t ldc,
                                                       bool accumulate) {
  using S = Tile<Isa, T>;
  typedef T Vector __attribute__((vector_size(Isa::vector_bytes), aligned(sizeof(T)), may_alias));
  Vector sum[S::rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < S::rows; ++i) sum[i][0] = sum[i][1] = Vector{};
  for (int64_t p = 0; p < k; ++p) {
    const Vector b0 = *reinterpret_cast<const Vector*>(b);
    const Vector b1 = *reinterpret_cast<const Vector*>(b + S::lanes);
#pragma GCC unroll 16
    for (int i = 0; i < S::rows; ++i) {
      sum[i][0] += a[i] * b0;
      sum[i][1] += a[i] * b1;
    }
    a += S::rows;
    b += S::cols;
  }
#pragma GCC unroll 16
  for (int i = 0; i < S::rows; ++i) {
    Vector* out = reinterpret_cast<Vector*>(c + i * ldc);
    if (accumulate) {
      out[0] += sum[i][0];
      out[1] += sum[i][1];
    } else {
      out[0] = sum[i][0];
      out[1] = sum[i][1];
    }
  }
}

/// Leaves C as the products are.
struct NoFinish {
  template <class T>
  void operator()(T*, int64_t, int64_t, int64_t, int64_t, int64_t) const {}
};

/// pack_a(dst, m0, rows, k0, k): dst[p * tile_rows + i] = A[m0 + i, k0 + p], zero for i >= rows.
/// pack_b(dst, k0, k, n0, cols): dst[p * tile_cols + j] = B[k0 + p, n0 + j], zero for j >= cols.
/// finish(c, ldc, m0, rows, n0, cols) runs once on each finished tile while it is in the first-level cache.
template <class Isa, class T, class PackA, class PackB, class Finish>
void multiply(Context& ctx, int64_t m, int64_t n, int64_t k, const PackA& pack_a, const PackB& pack_b, T* c,
              int64_t ldc, bool accumulate, const Finish& finish) {
  using S = Tile<Isa, T>;
  const int64_t panels = (n + S::cols - 1) / S::cols;
  const int64_t k_blocks = (k + S::k_block - 1) / S::k_block;
  int threads = m * n * k < (int64_t{1} << 22) ? 1 : ctx.threads();

  // Blocks of rows, as equal as the tile allows; where there are too few, columns are divided too.
  const int64_t tiles = (m + S::rows - 1) / S::rows;
  int64_t row_jobs = (m + S::m_block - 1) / S::m_block;
  if (tiles >= threads) row_jobs = (row_jobs + threads - 1) / threads * threads;
  const int64_t block = (tiles + row_jobs - 1) / row_jobs * S::rows;
  const int64_t col_jobs = row_jobs >= threads ? 1 : ops::min_of<int64_t>(panels, threads);
  const int64_t jobs = row_jobs * col_jobs;
  threads = static_cast<int>(ops::min_of<int64_t>(threads, ops::max_of(jobs, panels)));

  WorkspaceScope scope(ctx);
  const int64_t k_pack = ops::min_of<int64_t>(k, S::k_block);
  T* packed_b = scope.take<T>(panels * S::cols * k);
  const int64_t a_size = (block * k_pack + S::rows * S::cols + 15) / 16 * 16;
  T* packed_a = scope.take<T>(a_size * jobs);

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
#pragma omp for
    for (int64_t job = 0; job < panels * k_blocks; ++job) {
      const int64_t k0 = job / panels * S::k_block, n0 = job % panels * S::cols;
      const int64_t kc = ops::min_of<int64_t>(S::k_block, k - k0);
      pack_b(packed_b + k0 * panels * S::cols + job % panels * S::cols * kc, k0, kc, n0,
             ops::min_of<int64_t>(S::cols, n - n0));
    }
#pragma omp for
    for (int64_t job = 0; job < jobs; ++job) {
      T* block_a = packed_a + job * a_size;
      T* edge = block_a + block * k_pack;  // (tile_rows, tile_cols)
      const int64_t m_begin = job / col_jobs * block, m_end = ops::min_of(m, m_begin + block);
      const int64_t p_begin = job % col_jobs * panels / col_jobs,
                    p_end = (job % col_jobs + 1) * panels / col_jobs;
      for (int64_t k0 = 0; k0 < k; k0 += S::k_block) {
        const int64_t kc = ops::min_of<int64_t>(S::k_block, k - k0);
        const bool add = accumulate || k0 > 0;
        const bool last = k0 + kc == k;
        for (int64_t m0 = m_begin; m0 < m_end; m0 += S::rows) {
          pack_a(block_a + (m0 - m_begin) * kc, m0, ops::min_of<int64_t>(S::rows, m - m0), k0, kc);
        }
        for (int64_t panel = p_begin; panel < p_end; ++panel) {
          const T* b = packed_b + k0 * panels * S::cols + panel * S::cols * kc;
          const int64_t n0 = panel * S::cols, cols = ops::min_of<int64_t>(S::cols, n - n0);
          for (int64_t m0 = m_begin; m0 < m_end; m0 += S::rows) {
            const int64_t rows = ops::min_of<int64_t>(S::rows, m - m0);
            const T* a = block_a + (m0 - m_begin) * kc;
            T* tile = c + m0 * ldc + n0;
            if (rows == S::rows && cols == S::cols) {
              microkernel<Isa, T>(kc, a, b, tile, ldc, add);
            } else {
              microkernel<Isa, T>(kc, a, b, edge, S::cols, false);
              for (int64_t i = 0; i < rows; ++i) {
                for (int64_t j = 0; j < cols; ++j) {
                  tile[i * ldc + j] = add ? tile[i * ldc + j] + edge[i * S::cols + j] : edge[i * S::cols + j];
                }
              }
            }
            if (last) finish(tile, ldc, m0, rows, n0, cols);
          }
        }
      }
    }
  }
}

}  // namespace evenflow::gemm
