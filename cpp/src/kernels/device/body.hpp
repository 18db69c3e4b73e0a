#pragma once

#include <cstdint>

#include "kernels/ops/math.hpp"

// Kernels as plain structs, so that a compiler for the CPU sees them too. A body says
//   threads                   threads of a block
//   Registers, Shared         what a thread and a block keep between phases; not initialised
//   phases(block)             how many there are, the same for all threads of a block
//   run(phase, place, r, s)   one thread's work between two barriers
// A device runs the phases with a barrier after each; the tests' emulator runs all threads of a phase one
// after another, in several orders. Within a phase no thread may read what another one writes.
//
// Reductions have a fixed order that depends on sizes alone: a thread adds every so-many-th element of its
// block's chunk, a block's threads are added as a tree, and chunks in order.

namespace evenflow::device {

constexpr int kThreads = 256;

struct Place {
  int64_t block;
  int64_t blocks;
  int thread;
};

struct Nothing {};

/// f(row, column), grid-stride.
template <class F>
struct ForEach {
  static constexpr int threads = kThreads;
  using Registers = Nothing;
  using Shared = Nothing;
  int64_t rows;
  int64_t cols;
  F f;

  EVENFLOW_HD int64_t phases(int64_t) const { return 1; }
  EVENFLOW_HD void run(int64_t, const Place& at, Registers&, Shared&) const {
    const int64_t step = at.blocks * threads;
    for (int64_t i = at.block * threads + at.thread; i < rows * cols; i += step) f(i / cols, i % cols);
  }
};

/// An element of a map without sums.
template <class T, class F>
struct MapOne {
  F f;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    T in[F::inputs], out[F::outputs];
    f.load(row, c, in, 1);
    f.compute(in, out, static_cast<T*>(nullptr));
    f.store(row, c, out, 1);
  }
};

struct Add {
  EVENFLOW_HD static double join(double a, double b) { return a + b; }
};

struct Largest {
  EVENFLOW_HD static double join(double a, double b) { return ops::max_of(a, b); }
};

/// `count` numbers of every thread of a block, joined as a tree.
template <class Join, int count>
struct Tree {
  static constexpr int64_t levels = 8;  // 2^levels threads
  static_assert(1 << levels == kThreads, "a level halves the threads");
  struct Shared {
    double value[count][kThreads];
  };
  /// Level 1 ... levels, each a phase of its own; then value[k][0] is the result.
  EVENFLOW_HD static void join(int64_t level, int thread, Shared& shared) {
    const int half = kThreads >> level;
    if (thread >= half) return;
    for (int k = 0; k < count; ++k) {
      shared.value[k][thread] = Join::join(shared.value[k][thread], shared.value[k][thread + half]);
    }
  }
};

/// partial (blocks): f(row, column) over a chunk of elements a block, joined from 0.
template <class F, class Join>
struct Reduce {
  static constexpr int threads = kThreads;
  using Registers = Nothing;
  using Shared = typename Tree<Join, 1>::Shared;
  int64_t rows;
  int64_t cols;
  int64_t chunk;
  F f;
  double* partial;

  EVENFLOW_HD int64_t phases(int64_t) const { return Tree<Join, 1>::levels + 2; }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers&, Shared& shared) const {
    if (phase == 0) {
      double total = 0;
      const int64_t end = ops::min_of(rows * cols, (at.block + 1) * chunk);
      for (int64_t i = at.block * chunk + at.thread; i < end; i += threads) {
        total = Join::join(total, f(i / cols, i % cols));
      }
      shared.value[0][at.thread] = total;
    } else if (phase <= Tree<Join, 1>::levels) {
      Tree<Join, 1>::join(phase, at.thread, shared);
    } else if (at.thread == 0) {
      partial[at.block] = shared.value[0][0];
    }
  }
};

/// out[0] = the join of partial (count), in order; joined to what is there with `add`.
template <class Join>
struct JoinAll {
  const double* partial;
  int64_t count;
  bool add;
  double* out;
  EVENFLOW_HD void operator()(int64_t, int64_t) const {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total = Join::join(total, partial[i]);
    out[0] = add ? Join::join(out[0], total) : total;
  }
};

/// A chunk of a group's elements a block: loaded, computed, stored. partial (groups, chunks, F::sums).
template <class T, class F>
struct MapGroups {
  static constexpr int threads = kThreads;
  using Sums = Tree<Add, F::sums>;
  using Registers = Nothing;
  using Shared = typename Sums::Shared;
  int64_t rows;
  int64_t cols;
  int64_t chunk;
  int64_t chunks;
  F f;
  double* partial;

  EVENFLOW_HD int64_t phases(int64_t) const { return Sums::levels + 2; }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers&, Shared& shared) const {
    if (phase == 0) {
      chunk_sums(at, shared);
    } else if (phase <= Sums::levels) {
      Sums::join(phase, at.thread, shared);
    } else if (at.thread < F::sums) {
      partial[at.block * F::sums + at.thread] = shared.value[at.thread][0];
    }
  }

 private:
  EVENFLOW_HD void chunk_sums(const Place& at, Shared& shared) const {
    F map = f;
    map.prepare();
    double total[F::sums] = {};
    const int64_t first = at.block / chunks * rows, begin = at.block % chunks * chunk;
    const int64_t end = ops::min_of(rows * cols, begin + chunk);
    for (int64_t i = begin + at.thread; i < end; i += threads) {
      T in[F::inputs], out[F::outputs], part[F::sums];
      map.load(first + i / cols, i % cols, in, 1);
      map.compute(in, out, part);
      map.store(first + i / cols, i % cols, out, 1);
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
  EVENFLOW_HD void operator()(int64_t group, int64_t k) const {
    double total = 0;
    for (int64_t i = 0; i < chunks; ++i) total += partial[(group * chunks + i) * sums + k];
    out[group * sums + k] += total;
  }
};

/// A strip of columns of a chunk of rows a block. partial (chunks, F::sums, cols).
template <class T, class F>
struct SumColumns {
  static constexpr int threads = kThreads;
  static constexpr int kStrip = 32;  ///< columns: neighbouring threads read neighbouring numbers
  static constexpr int kLanes = kThreads / kStrip;  ///< rows at a time
  using Registers = Nothing;
  struct Shared {
    double value[F::sums][kLanes][kStrip];
  };
  int64_t rows;
  int64_t cols;
  int64_t chunk;
  F f;
  double* partial;

  EVENFLOW_HD int64_t strips() const { return (cols + kStrip - 1) / kStrip; }
  EVENFLOW_HD int64_t phases(int64_t) const { return 2; }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers&, Shared& shared) const {
    const int64_t part = at.block / strips(), column = at.block % strips() * kStrip + at.thread % kStrip;
    const int lane = at.thread / kStrip, place = at.thread % kStrip;
    if (column >= cols) return;
    if (phase == 0) {
      double total[F::sums] = {};
      const int64_t end = ops::min_of(rows, (part + 1) * chunk);
      for (int64_t r = part * chunk + lane; r < end; r += kLanes) {
        T one[F::sums] = {};
        f(r, column, one, 1);
        for (int k = 0; k < F::sums; ++k) total[k] += static_cast<double>(one[k]);
      }
      for (int k = 0; k < F::sums; ++k) shared.value[k][lane][place] = total[k];
    } else if (lane < F::sums) {
      double total = 0;
      for (int l = 0; l < kLanes; ++l) total += shared.value[lane][l][place];
      partial[(part * F::sums + lane) * cols + column] = total;
    }
  }
};

/// out (width) = partial (chunks, width), chunk after chunk.
struct ChunkTotals {
  int64_t chunks;
  int64_t width;
  const double* partial;
  double* out;
  EVENFLOW_HD void operator()(int64_t, int64_t k) const {
    double total = 0;
    for (int64_t i = 0; i < chunks; ++i) total += partial[i * width + k];
    out[k] = total;
  }
};

}  // namespace evenflow::device
