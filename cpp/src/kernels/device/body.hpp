#pragma once

#include <cstdint>

#include "kernels/ops/functor.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/place.hpp"

// Kernels as plain structs, so that a compiler for the CPU can compile them too. A body has
//   threads                   threads of a block
//   Shared                    state of a block that lasts between phases; not initialised
//   phases(block)             number of phases, the same for all threads of a block
//   run(phase, place, s)      the work of one thread between two barriers
// A device runs the phases with a barrier after each. The tests' emulator runs all threads of a phase one
// after another, in several orders. Within a phase no thread may read what another thread writes.
//
// Reductions add in a fixed order that depends only on the sizes of views. A thread adds every so-many-th
// element of its block's chunk, the threads of a block are added as a tree, and then the chunks in the same
// way.

namespace evenflow::device {

constexpr int kThreads = 256;

using ops::Nothing;
using ops::Place;

/// A place in rows of columns.
struct Spot {
  int64_t row;
  int64_t column;
};

/// Strided walk over rows of `cols` columns. A thread divides only once, in 32 bits if they suffice.
struct Walk {
  int64_t cols;
  int64_t rows_on;  ///< per step
  int64_t cols_on;

  static Walk by(int64_t step, int64_t cols) {
    const int64_t of = ops::max_of<int64_t>(cols, 1);
    return {of, step / of, step % of};
  }
  EVENFLOW_INLINE Spot start(int64_t i) const {
    if ((i | cols) >> 32 == 0) {
      const uint32_t at = static_cast<uint32_t>(i), in = static_cast<uint32_t>(cols);
      return {at / in, at % in};
    }
    return {i / cols, i % cols};
  }
  EVENFLOW_INLINE void step(Spot& at) const {
    at.row += rows_on;
    at.column += cols_on;
    if (at.column < cols) return;
    at.column -= cols;
    ++at.row;
  }
};

/// f(row, column) in a grid-stride loop.
template <class F>
struct ForEach {
  static constexpr int threads = kThreads;
  using Shared = Nothing;
  int64_t rows;
  Walk walk;  ///< stride: all threads of the grid
  F f;

  EVENFLOW_INLINE int64_t phases(int64_t) const { return 1; }
  EVENFLOW_INLINE void run(int64_t, const Place& at, Shared&) const {
    for (Spot spot = walk.start(at.block * threads + at.thread); spot.row < rows; walk.step(spot)) {
      f(spot.row, spot.column);
    }
  }
};

/// One element of a map without sums.
template <class T, class F>
struct MapOne {
  F f;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    f.element(row, c, static_cast<T*>(nullptr));
  }
};

struct Add {
  EVENFLOW_INLINE static double join(double a, double b) { return a + b; }
};

struct Largest {
  EVENFLOW_INLINE static double join(double a, double b) { return ops::max_of(a, b); }
};

/// Joins `count` numbers of every thread of a block as a tree.
template <class Join, int count>
struct Tree {
  static constexpr int64_t levels = 8;  // 2^levels threads
  static_assert(1 << levels == kThreads, "a level halves the threads");
  struct Shared {
    double value[count][kThreads];
  };
  /// Levels 1 to `levels`, each in its own phase. Then value[k][0] holds the result.
  EVENFLOW_INLINE static void join(int64_t level, int thread, Shared& shared) {
    const int half = kThreads >> level;
    if (thread >= half) return;
    for (int k = 0; k < count; ++k) {
      shared.value[k][thread] = Join::join(shared.value[k][thread], shared.value[k][thread + half]);
    }
  }
};

/// out (blocks): joins f(row, column) over one chunk of elements per block, starting from 0.
template <class F, class Join>
struct Reduce {
  static constexpr int threads = kThreads;
  using Shared = typename Tree<Join, 1>::Shared;
  int64_t count;
  int64_t chunk;
  Walk walk;  ///< stride: the threads of a block
  F f;
  double* out;

  EVENFLOW_INLINE int64_t phases(int64_t) const { return Tree<Join, 1>::levels + 2; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Shared& shared) const {
    if (phase == 0) {
      double total = 0;
      const int64_t end = ops::min_of(count, (at.block + 1) * chunk);
      int64_t i = at.block * chunk + at.thread;
      for (Spot spot = walk.start(i); i < end; i += threads, walk.step(spot)) {
        total = Join::join(total, f(spot.row, spot.column));
      }
      shared.value[0][at.thread] = total;
    } else if (phase <= Tree<Join, 1>::levels) {
      Tree<Join, 1>::join(phase, at.thread, shared);
    } else if (at.thread == 0) {
      out[at.block] = shared.value[0][0];
    }
  }
};

/// An array of numbers, for a second Reduce.
struct Values {
  const double* x;
  EVENFLOW_INLINE double operator()(int64_t, int64_t i) const { return x[i]; }
};

/// Loads, computes and stores one chunk of a group's elements per block. Stores the sums in out (groups,
/// chunks, F::sums), or adds them with `add`. A null out means no sums.
template <class T, class F>
struct MapGroups {
  static constexpr int threads = kThreads;
  static constexpr int kSums = F::sums ? F::sums : 1;
  using Sums = Tree<Add, kSums>;
  using Shared = typename Sums::Shared;
  int64_t rows;
  int64_t chunk;
  int64_t chunks;
  Walk walk;  ///< stride: the threads of a block
  F f;
  bool add;
  double* out;

  EVENFLOW_INLINE int64_t phases(int64_t) const { return out ? Sums::levels + 2 : 1; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Shared& shared) const {
    if (phase == 0) {
      chunk_sums(at, shared);
    } else if (phase <= Sums::levels) {
      Sums::join(phase, at.thread, shared);
    } else if (at.thread < F::sums) {
      double& to = out[at.block * F::sums + at.thread];
      to = (add ? to : 0.0) + shared.value[at.thread][0];
    }
  }

 private:
  EVENFLOW_INLINE void chunk_sums(const Place& at, Shared& shared) const {
    F map = f;
    map.prepare();
    double total[kSums] = {};
    const int64_t first = at.block / chunks * rows, begin = at.block % chunks * chunk;
    const int64_t end = ops::min_of(rows * walk.cols, begin + chunk);
    int64_t i = begin + at.thread;
    for (Spot spot = walk.start(i); i < end; i += threads, walk.step(spot)) {
      T part[kSums];
      map.element(first + spot.row, spot.column, part);
      for (int k = 0; k < F::sums; ++k) total[k] += static_cast<double>(part[k]);
    }
    for (int k = 0; k < F::sums; ++k) shared.value[k][at.thread] = total[k];
  }
};

/// out (groups, sums) += partial (groups, chunks, sums), chunk after chunk.
struct AddChunks {
  int64_t chunks;
  int64_t sums;
  const double* partial;
  double* out;
  EVENFLOW_INLINE void operator()(int64_t group, int64_t k) const {
    double total = 0;
    for (int64_t i = 0; i < chunks; ++i) total += partial[(group * chunks + i) * sums + k];
    out[group * sums + k] += total;
  }
};

/// Calls finish(column, its sums, 1) with the totals of partial (rows, G::sums, cols), row after row.
template <class G>
struct FinishSums {
  int64_t rows;
  int64_t cols;
  const double* partial;
  G finish;
  EVENFLOW_INLINE void operator()(int64_t, int64_t column) const {
    double total[G::sums] = {};
    for (int64_t r = 0; r < rows; ++r) {
      for (int s = 0; s < G::sums; ++s) total[s] += partial[(r * G::sums + s) * cols + column];
    }
    finish(column, total, 1);
  }
};

/// out (chunks, F::sums, cols): each block sums a group of columns over a chunk of rows. Threads cover the
/// columns first and then lanes of rows. The lanes are added in order.
template <class T, class F>
struct SumColumns {
  static constexpr int threads = kThreads;
  static constexpr int kGroup = 32;  ///< most columns in a group
  struct Shared {
    double value[F::sums][kThreads];
  };
  int64_t rows;
  int64_t cols;
  int64_t chunk;
  int width;  ///< columns in a group
  int lanes;  ///< rows at a time
  F f;
  double* out;

  EVENFLOW_INLINE int64_t groups() const { return (cols + width - 1) / width; }
  EVENFLOW_INLINE int64_t phases(int64_t) const { return 2; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Shared& shared) const {
    const int64_t part = at.block / groups(), first = at.block % groups() * width;
    if (phase == 0) {
      const int lane = at.thread / width, place = at.thread % width;
      if (lane < lanes && first + place < cols) add_rows(part, lane, first + place, at, shared);
    } else {
      for (int i = at.thread; i < F::sums * width; i += threads) {
        const int sum = i / width, column = i % width;
        if (first + column < cols) {
          out[(part * F::sums + sum) * cols + first + column] = total(sum, column, shared);
        }
      }
    }
  }

 private:
  EVENFLOW_INLINE void add_rows(int64_t part, int lane, int64_t column, const Place& at,
                                Shared& shared) const {
    double total[F::sums] = {};
    const int64_t end = ops::min_of(rows, (part + 1) * chunk);
    for (int64_t r = part * chunk + lane; r < end; r += lanes) {
      T one[F::sums] = {};
      f(r, column, one, 1);
      for (int k = 0; k < F::sums; ++k) total[k] += static_cast<double>(one[k]);
    }
    for (int k = 0; k < F::sums; ++k) shared.value[k][at.thread] = total[k];
  }
  EVENFLOW_INLINE double total(int sum, int column, const Shared& shared) const {
    double total = 0;
    for (int lane = 0; lane < lanes; ++lane) total += shared.value[sum][lane * width + column];
    return total;
  }
};

}  // namespace evenflow::device
