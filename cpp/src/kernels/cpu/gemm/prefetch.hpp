#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow::gemm {

/// Whether there is an instruction that asks for a line to write. Else a line that other cores have read, as
/// they do operands of gradients, is asked for to read, and the write waits until they have given it up.
#if defined(__x86_64__) && !defined(__PRFCHW__)
constexpr bool kPrefetchesForWrite = false;
#else
constexpr bool kPrefetchesForWrite = true;
#endif

/// Rows of memory that will be needed, up to three cache lines of each: the first one's first, and how far
/// the others of a row lie behind it (the same one again where there are fewer).
struct PrefetchRows {
  const char* at = nullptr;
  int64_t stride = 0;  ///< bytes
  int second = 0, third = 0;
  int64_t rows = 0;
  bool written = false;  ///< they will be

  /// Of a tile's width of rows whose first element is *first; see Matrix.
  template <class C>
  EVENFLOW_INLINE static PrefetchRows of(const C* first, int64_t row_stride, int64_t rows,
                                         int64_t block_gap = 0) {
    constexpr int64_t size = sizeof(C), line = 64 / size;
    const int whole =
        size > 2 ? static_cast<int>(64 + block_gap * size) : 0;  // a tile's bfloat16 numbers fit one line
    return {reinterpret_cast<const char*>(first), row_stride * size, whole,
            row_stride % line != 0 ? whole + 64 : whole, rows};
  }
  /// Of results.
  template <class C>
  EVENFLOW_INLINE static PrefetchRows to_write(const C* first, int64_t row_stride, int64_t rows,
                                               int64_t block_gap = 0) {
    PrefetchRows lines = of(first, row_stride, rows, block_gap);
    lines.written = true;
    return lines;
  }
  /// Of `count` elements, one after the other.
  template <class C>
  EVENFLOW_INLINE static PrefetchRows of_run(const C* first, int64_t count) {
    constexpr int64_t row = 3 * 64;
    return {reinterpret_cast<const char*>(first), row, 64, 128,
            (count * static_cast<int64_t>(sizeof(C)) + row - 1) / row};
  }
  /// The next `count` rows, or what is left.
  EVENFLOW_INLINE PrefetchRows take(int64_t count) {
    PrefetchRows occupied = *this;
    occupied.rows = count < rows ? count : rows;
    at += occupied.rows * stride;
    rows -= occupied.rows;
    return occupied;
  }
  /// Asks for the next row.
  EVENFLOW_INLINE void prefetch() {
    if (kPrefetchesForWrite && written) {
      __builtin_prefetch(at, 1);
      __builtin_prefetch(at + second, 1);
      __builtin_prefetch(at + third, 1);
    } else {
      __builtin_prefetch(at);
      __builtin_prefetch(at + second);
      __builtin_prefetch(at + third);
    }
    at += stride;
    --rows;
  }
  /// Asks for all rows, to a cache of that level if they are read, and for no line twice.
  template <int level>
  EVENFLOW_INLINE void prefetch_all() {
    const auto line = [&](int64_t behind) __attribute__((always_inline)) {
      if (kPrefetchesForWrite && written) {
        __builtin_prefetch(at + behind, 1);
      } else {
        __builtin_prefetch(at + behind, 0, 4 - level);
      }
    };
    for (; rows > 0; --rows, at += stride) {
      line(0);
      if (second != 0) line(second);
      if (third != second) line(third);
    }
  }
};

/// What a tile should ask for while it is computed, a few rows at a time: all at once they would wait for
/// each other.
struct PrefetchQueue {
  PrefetchRows list[3];
  int count = 0;
  EVENFLOW_INLINE void add(const PrefetchRows& lines) {
    if (lines.rows > 0) list[count++] = lines;
  }
  EVENFLOW_INLINE int64_t rows() const {
    int64_t sum = 0;
#pragma GCC unroll 1
    for (int i = 0; i < count; ++i) sum += list[i].rows;
    return sum;
  }
};

/// The same of rows that are few enough.
struct PrefetchNow {
  EVENFLOW_INLINE static void add(PrefetchRows lines) { lines.prefetch_all<1>(); }
};

}  // namespace evenflow::gemm
