#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/ops/inline.hpp"

namespace evenflow {

bool is_intel();  ///< the processor

/// Keeps a loop over `index` as it is: of numbers any distance apart, or of few, vectors take ten times the
/// code and no less time.
EVENFLOW_INLINE void keep_scalar(int64_t& index) {
  __asm__("" : "+r"(index));
}

/// p + n, or `otherwise` where p is null. A compiler that sees which would make two copies of what follows,
/// of which one may round a multiply-add once and the other twice.
template <class T>
EVENFLOW_INLINE const T* offset_or(const T* p, int64_t n, const T* otherwise) {
  const T* q = p ? p + n : otherwise;
  __asm__("" : "+r"(q));
  return q;
}

/// Copies without reading or writing past the end; some twice.
template <class T>
EVENFLOW_INLINE void copy_run(T* dst, const T* src, int64_t count) {
  const auto ends = [&](auto size) __attribute__((always_inline)) {
    constexpr int64_t n = decltype(size)::value;
    memcpy(dst, src, n * sizeof(T));
    memcpy(dst + count - n, src + count - n, n * sizeof(T));
  };
  if (count >= 16) {
    for (int64_t i = 0; i + 16 < count; i += 16) memcpy(dst + i, src + i, 16 * sizeof(T));
    memcpy(dst + count - 16, src + count - 16, 16 * sizeof(T));
  } else if (count >= 8) {
    ends(std::integral_constant<int, 8>());
  } else if (count >= 4) {
    ends(std::integral_constant<int, 4>());
  } else if (count >= 2) {
    ends(std::integral_constant<int, 2>());
  } else if (count == 1) {
    *dst = *src;
  }
}

// Tags that keep the instruction sets' template instances apart. `rows` x 2 vectors is the register tile of
// the matrix microkernel: it fills the register file but for two vectors of B and a broadcast. `pair_dot`:
// has an instruction that adds products of pairs of bfloat16 numbers to float32 sums; see PairDot. `matrix`:
// has registers that hold small matrices of such pairs; see MatrixUnit. `parts`: bfloat16 numbers that a
// float32 operand is taken apart into, see split. `copies`: whether operands whose rows are so far apart are
// copied to where they lie one after the other; it pays where a tile takes a row of both in few cycles.
// `panels`: whether long batches' hidden float32 activations lie in panels (see gemm::Matrix); gradients of
// weights then have a tile of `gradient_rows` x `gradient_vectors`, which divides their columns.

/// What holds where an instruction set does not say otherwise.
struct AnyIsa {
  static constexpr bool blocked = false, pair_dot = false, matrix = false;
  static constexpr int gradient_rows = 0, gradient_vectors = 0;
  static constexpr int parts = 1;
  static constexpr bool copies(int64_t) { return false; }
};

struct Baseline : AnyIsa {
  static constexpr int vector_bytes = 16;
#if defined(__aarch64__)
  static constexpr const char* name = "neon";
  static constexpr int rows = 8;  // 16 sums: what four units of four cycles each have at work
#else
  static constexpr const char* name = "baseline";
  static constexpr int rows = 6;
#endif
};

struct Avx2 : AnyIsa {
  static constexpr const char* name = "avx2";
  static constexpr int vector_bytes = 32;
  static constexpr int rows = 6;
  static constexpr bool copies(int64_t) { return true; }
};

struct Avx512 : AnyIsa {
  static constexpr const char* name = "avx512";
  static constexpr int vector_bytes = 64;
  static constexpr int rows = 14;
  static constexpr bool blocked = true;
  static constexpr int gradient_rows = 8, gradient_vectors = 3;
  /// Intel's do two multiply-adds of 64 bytes at once.
  static bool copies(int64_t row_bytes) { return row_bytes >= 1024 && is_intel(); }
};

/// AVX-512 with VDPBF16PS.
struct Avx512Bf16 : AnyIsa {
  static constexpr const char* name = "avx512_bf16";
  static constexpr int vector_bytes = 64;
  static constexpr int rows = 14;
  static constexpr bool pair_dot = true;
};

/// AVX-512 with VDPBF16PS and TDPBF16PS. `rows` and two vectors are what four of its registers hold.
struct Amx : AnyIsa {
  static constexpr const char* name = "amx";
  static constexpr int vector_bytes = 64;
  static constexpr int rows = 32;
  static constexpr bool pair_dot = true;
  static constexpr bool matrix = true;
};

/// The same for float32: each number as the sum of three bfloat16 ones.
struct AmxSplit : Amx {
  static constexpr int parts = 3;
};

}  // namespace evenflow
