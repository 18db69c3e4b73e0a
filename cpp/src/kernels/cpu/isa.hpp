#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/ops/inline.hpp"

namespace evenflow {

bool is_intel();  ///< whether the processor is Intel's

/// Keeps the compiler from vectorising a loop over `index`. With strided or few elements, vectors take ten
/// times the code and no less time.
EVENFLOW_INLINE void keep_scalar(int64_t& index) {
  __asm__("" : "+r"(index));
}

/// p + n, or `otherwise` if p is null. The compiler must not see which: it would duplicate the code that
/// follows, and one copy might round a multiply-add once and the other twice.
template <class T>
EVENFLOW_INLINE const T* offset_or(const T* p, int64_t n, const T* otherwise) {
  const T* q = p ? p + n : otherwise;
  __asm__("" : "+r"(q));
  return q;
}

/// Copies without access beyond the ends; may copy some elements twice.
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

// Tags that keep the template instances of the instruction sets apart.
//
//   rows              height of the register tile, which is 2 vectors wide. The tile fills the register
//                     file, except for two vectors of B and a broadcast.
//   pair_dot          the CPU adds products of bfloat16 pairs to float32 sums; see PairDot
//   matrix            the CPU has registers for small matrices of such pairs; see MatrixUnit
//   parts             bfloat16 parts of a float32 operand; see split
//   copies(bytes)     whether to copy strips of a weight gradient whose rows are so far apart. Copies pay
//                     where a tile takes few cycles for a row.
//   blocked           whether float32 activations of large batches are channel-blocked (gemm::Strided).
//                     Weight gradients then have a tile of gradient_rows x gradient_vectors, whose rows
//                     divide a channel block.

/// Defaults.
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
  static constexpr int rows = 8;  // 16 sums keep four units with a latency of four cycles busy
#else
  static constexpr const char* name = "baseline";
  static constexpr int rows = 6;
#endif
};

struct Avx2 : AnyIsa {
  static constexpr const char* name = "avx2";
  static constexpr int vector_bytes = 32;
  static constexpr int rows = 6;
};

struct Avx512 : AnyIsa {
  static constexpr const char* name = "avx512";
  static constexpr int vector_bytes = 64;
  static constexpr int rows = 14;
  static constexpr bool blocked = true;
  static constexpr int gradient_rows = 8, gradient_vectors = 3;
  /// Intel's processors issue two 64-byte multiply-adds per cycle.
  static bool copies(int64_t row_bytes) { return row_bytes >= 1024 && is_intel(); }
};

/// AVX-512 with VDPBF16PS.
struct Avx512Bf16 : AnyIsa {
  static constexpr const char* name = "avx512_bf16";
  static constexpr int vector_bytes = 64;
  static constexpr int rows = 14;
  static constexpr bool pair_dot = true;
};

/// AVX-512 with VDPBF16PS and TDPBF16PS. `rows` by two vectors fill four matrix registers.
struct Amx : AnyIsa {
  static constexpr const char* name = "amx";
  static constexpr int vector_bytes = 64;
  static constexpr int rows = 32;
  static constexpr bool pair_dot = true;
  static constexpr bool matrix = true;
};

/// The same for float32: each number is the sum of three bfloat16 numbers.
struct AmxSplit : Amx {
  static constexpr int parts = 3;
};

}  // namespace evenflow
