#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow::gemm {

/// Whether the CPU can prefetch a line for writing. Without that, a line that other cores have read, such as
/// an operand of a gradient, arrives shared, and the write waits until they give it up.
#if defined(__x86_64__) && !defined(__PRFCHW__)
constexpr bool kPrefetchesForWrite = false;
#else
constexpr bool kPrefetchesForWrite = true;
#endif

/// Rows of memory to prefetch, up to three cache lines each. `at` is the first line of the first row;
/// `second` and `third` are the offsets of the other lines, repeated where a row has fewer.
struct PrefetchRows {
  const char* at = nullptr;
  int64_t stride = 0;  ///< bytes
  int second = 0, third = 0;
  int64_t rows = 0;
  bool written = false;  ///< whether the rows will be written

  /// Rows as wide as a register tile, the first of which starts at *first; see Strided.
  template <class C>
  EVENFLOW_INLINE static PrefetchRows of(const C* first, int64_t row_stride, int64_t rows,
                                         int64_t block_gap = 0) {
    constexpr int64_t size = sizeof(C), line = 64 / size;
    // A tile's row of bfloat16 numbers fits one line.
    const int second = size > 2 ? static_cast<int>(64 + block_gap * size) : 0;
    return {reinterpret_cast<const char*>(first), row_stride * size, second,
            row_stride % line != 0 ? second + 64 : second, rows};
  }
  /// Rows that will be written.
  template <class C>
  EVENFLOW_INLINE static PrefetchRows to_write(const C* first, int64_t row_stride, int64_t rows,
                                               int64_t block_gap = 0) {
    PrefetchRows lines = of(first, row_stride, rows, block_gap);
    lines.written = true;
    return lines;
  }
  /// A contiguous run of `count` elements.
  template <class C>
  EVENFLOW_INLINE static PrefetchRows of_run(const C* first, int64_t count) {
    constexpr int64_t row = 3 * 64;
    return {reinterpret_cast<const char*>(first), row, 64, 128,
            (count * static_cast<int64_t>(sizeof(C)) + row - 1) / row};
  }
  /// Splits off the next `count` rows, or all that are left.
  EVENFLOW_INLINE PrefetchRows take(int64_t count) {
    PrefetchRows occupied = *this;
    occupied.rows = count < rows ? count : rows;
    at += occupied.rows * stride;
    rows -= occupied.rows;
    return occupied;
  }
  /// Prefetches the next row.
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
  /// Prefetches all rows, for reading into the cache of that level, and no line twice.
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

/// Prefetches that a microkernel issues while it computes. A few rows at a time: issued together they would
/// wait for each other.
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

/// Prefetches at once, for a few rows.
struct PrefetchNow {
  EVENFLOW_INLINE static void add(PrefetchRows lines) { lines.prefetch_all<1>(); }
};

}  // namespace evenflow::gemm
