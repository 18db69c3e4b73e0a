#pragma once

#include <cstdint>

#include "kernels/bf16.hpp"

namespace evenflow::cuda {

/// bfloat16 products on tensor cores: mma.m16n8k16 by 32 threads, with operands loaded from shared memory by
/// ldmatrix. Needs compute capability 8.0; for the layouts see "Matrix fragments for mma.m16n8k16" in the PTX
/// ISA. The host compiler sees only the declarations.
struct TensorCores {
  /// Position of a thread's e-th sum, of four, in a 16 x 8 tile.
  __device__ static int row(int lane, int e) { return lane / 4 + e / 2 * 8; }
  __device__ static int column(int lane, int e) { return lane % 4 * 2 + e % 2; }

  /// sum (16 rows, 8 columns each) += a (16 rows, 16) b (16, 8 columns). a and b point to the first numbers.
  /// along_k: numbers adjacent in memory are adjacent in k, else in the other index.
  template <bool a_along_k, bool b_along_k, int rows, int columns>
  __device__ static void multiply(int lane, const Bf16* a, int a_stride, const Bf16* b, int b_stride,
                                  float (&sum)[rows][columns][4]) {
    static_assert(columns % 2 == 0, "b comes for two tiles at a time");
    // A load reads four 8 x 8 matrices. This thread addresses row `within` of matrix `which`.
    const int which = lane / 8, within = lane % 8;
    uint32_t left[rows][4];
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      if (a_along_k) {
        load<false>(a + (16 * i + within + which % 2 * 8) * a_stride + which / 2 * 8, left[i]);
      } else {
        load<true>(a + (within + which / 2 * 8) * a_stride + 16 * i + which % 2 * 8, left[i]);
      }
    }
#pragma unroll
    for (int j = 0; j < columns; j += 2) {
      uint32_t right[4];
      if (b_along_k) {
        load<false>(b + (8 * j + within + which / 2 * 8) * b_stride + which % 2 * 8, right);
      } else {
        load<true>(b + (within + which % 2 * 8) * b_stride + 8 * j + which / 2 * 8, right);
      }
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        add_product(left[i], right, sum[i][j]);
        add_product(left[i], right + 2, sum[i][j + 1]);
      }
    }
  }

 private:
  template <bool transposed>
  __device__ static void load(const Bf16* from, uint32_t (&to)[4]) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(from));
    if (transposed) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(at)
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                   : "r"(at)
                   : "memory");
    }
  }
  __device__ static void add_product(const uint32_t* a, const uint32_t* b, float (&sum)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

}  // namespace evenflow::cuda
