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

constexpr int64_t kParallelProducts = int64_t{1} << 22;  ///< below, waking a thread costs more than it brings
constexpr int64_t kSharedBytes = int64_t{3} << 19;       ///< a packed B up to this size is shared

template <class Isa, class T>
struct Tile {
  static constexpr int rows = Isa::rows;
  static constexpr int lanes = Isa::vector_bytes / static_cast<int>(sizeof(T));
  static constexpr int cols = 2 * lanes;
  static constexpr int64_t k_block = 256;  ///< a panel of B this deep stays in a 48 kB first-level cache
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

/// Where the product of one job goes: rows [m_begin, m_end), panels [p_begin, p_end) of B.
struct Job {
  int64_t m_begin, m_end, p_begin, p_end;
};

/// Multiplies a packed block of A by a packed panel of B into C, tile by tile.
template <class Isa, class T, class Finish>
void multiply_panel(const T* block_a, int64_t m_begin, int64_t m_end, const T* b, int64_t n0, int64_t cols,
                    int64_t kc, T* c, int64_t ldc, bool add, T* edge, const Finish* finish) {
  using S = Tile<Isa, T>;
  for (int64_t m0 = m_begin; m0 < m_end; m0 += S::rows) {
    const int64_t rows = ops::min_of<int64_t>(S::rows, m_end - m0);
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
    if (finish) (*finish)(tile, ldc, m0, rows, n0, cols);
  }
}

/// pack_a(dst, m0, rows, k0, k): dst[p * tile_rows + i] = A[m0 + i, k0 + p], zero for i >= rows.
/// pack_b(dst, k0, k, n0, cols): dst[p * tile_cols + j] = B[k0 + p, n0 + j], zero for j >= cols.
/// finish(c, ldc, m0, rows, n0, cols) runs once on each finished tile while it is in the first-level cache.
///
/// A B that fits the second-level cache (weights) is packed once and shared, and jobs divide the rows. A
/// larger one (a batch, in gradients of weights) is packed by each job for its own columns, block by block.
template <class Isa, class T, class PackA, class PackB, class Finish>
void multiply(Context& ctx, int64_t m, int64_t n, int64_t k, const PackA& pack_a, const PackB& pack_b, T* c,
              int64_t ldc, bool accumulate, const Finish& finish) {
  using S = Tile<Isa, T>;
  const int64_t panels = (n + S::cols - 1) / S::cols, tiles = (m + S::rows - 1) / S::rows;
  const int64_t k_pack = ops::min_of<int64_t>(k, S::k_block);
  const int threads = m * n * k < kParallelProducts ? 1 : ctx.threads();
  const bool shared_b = panels * S::cols * k * static_cast<int64_t>(sizeof(T)) <= kSharedBytes;

  int64_t col_jobs = 1, row_jobs = 1;
  if (shared_b) {
    row_jobs = (m + S::m_block - 1) / S::m_block;
    if (tiles >= threads) row_jobs = (row_jobs + threads - 1) / threads * threads;
    if (row_jobs < threads) col_jobs = ops::min_of<int64_t>(panels, threads);
  } else {
    // The side that is divided is packed once, the other by every job.
    if (m > n) row_jobs = ops::min_of<int64_t>(tiles, threads);
    if (row_jobs < threads) col_jobs = ops::min_of<int64_t>(panels, (threads + row_jobs - 1) / row_jobs);
  }
  const int64_t job_rows = (tiles + row_jobs - 1) / row_jobs * S::rows, jobs = row_jobs * col_jobs;
  const int64_t block = ops::min_of<int64_t>(job_rows, S::m_block);
  const int64_t job_panels = (panels + col_jobs - 1) / col_jobs;

  WorkspaceScope scope(ctx);
  const int64_t a_size = (block * k_pack + S::rows * S::cols + 15) / 16 * 16,
                b_size = job_panels * S::cols * k_pack;
  T* packed_a = scope.take<T>(a_size * jobs);
  T* packed_b = scope.take<T>(shared_b ? panels * S::cols * k : b_size * jobs);

#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    if (shared_b) {
#pragma omp for
      for (int64_t i = 0; i < panels * ((k + S::k_block - 1) / S::k_block); ++i) {
        const int64_t k0 = i / panels * S::k_block, panel = i % panels;
        const int64_t kc = ops::min_of<int64_t>(S::k_block, k - k0);
        pack_b(packed_b + (k0 * panels + panel * kc) * S::cols, k0, kc, panel * S::cols,
               ops::min_of<int64_t>(S::cols, n - panel * S::cols));
      }
    }
#pragma omp for
    for (int64_t i = 0; i < jobs; ++i) {
      const int64_t m_begin = i / col_jobs * job_rows, p_begin = i % col_jobs * panels / col_jobs;
      const Job job{m_begin, ops::min_of(m, m_begin + job_rows), p_begin,
                    (i % col_jobs + 1) * panels / col_jobs};
      T* a = packed_a + i * a_size;
      for (int64_t k0 = 0; k0 < k; k0 += S::k_block) {
        const int64_t kc = ops::min_of<int64_t>(S::k_block, k - k0);
        T* b = shared_b ? packed_b + (k0 * panels + job.p_begin * kc) * S::cols : packed_b + i * b_size;
        for (int64_t p = job.p_begin; !shared_b && p < job.p_end; ++p) {
          pack_b(b + (p - job.p_begin) * S::cols * kc, k0, kc, p * S::cols,
                 ops::min_of<int64_t>(S::cols, n - p * S::cols));
        }
        for (int64_t first = job.m_begin; first < job.m_end; first += block) {
          const int64_t end = ops::min_of(job.m_end, first + block);
          for (int64_t m0 = first; m0 < end; m0 += S::rows) {
            pack_a(a + (m0 - first) * kc, m0, ops::min_of<int64_t>(S::rows, end - m0), k0, kc);
          }
          for (int64_t p = job.p_begin; p < job.p_end; ++p) {
            multiply_panel<Isa, T>(a, first, end, b + (p - job.p_begin) * S::cols * kc, p * S::cols,
                                   ops::min_of<int64_t>(S::cols, n - p * S::cols), kc, c, ldc,
                                   accumulate || k0 > 0, a + block * k_pack,
                                   k0 + kc == k ? &finish : nullptr);
          }
        }
      }
    }
  }
}

}  // namespace evenflow::gemm
