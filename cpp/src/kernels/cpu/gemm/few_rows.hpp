#pragma once

#include "core/team.hpp"
#include "kernels/cpu/gemm/pack.hpp"

// Products of a few rows with large weights, which take as long as reading the weights from memory.
//
//   for each run of columns                 n: its sums (rows, run) stay in L1; threads divide the columns
//     for each 8 rows of B                  k: read once, by whole rows, which memory delivers fastest
//       for each vector of the run          n: one sum in a register per row of A
//   finish                                  bias, scale, ReLU

namespace evenflow::gemm {

constexpr int64_t kFarWeights = 1 << 17;  ///< so many weights are not in a core's cache

/// a: a strip of R rows, of which `rows` are not padding.
template <class Isa, class T, int R, class Finish>
class FewRows {
 public:
  FewRows(int64_t rows, Operand<T> a, const WeightsB<Isa, T, false>& b, const Finish& finish)
      : rows_(rows), a_(a), k_(b.depth()), width_(b.width()), b_(b.data), ldb_(b.outputs), finish_(finish) {}

  /// Elements of scratch memory per thread.
  static constexpr int64_t scratch_size() { return R * kRun; }

  void run(const Team& team, T* sums) const {
    const int64_t vectors = (width_ + kLanes - 1) / kLanes, end = team.end(vectors);
    for (int64_t v = team.begin(vectors), next; v < end; v = next) {
      next = ops::min_of(v + kRun / kLanes, end);
      for (int64_t i = 0; i < R * kRun; ++i) sums[i] = T(0);
      int64_t p = 0;
      for (; p + kDepth <= k_; p += kDepth) add<kDepth>(p, v, next, sums);
      for (; p < k_; ++p) add<1>(p, v, next, sums);
      finish(v, next, sums);
    }
  }

 private:
  using S = RegisterTile<Isa, T>;
  using Vector = typename S::Vector;
  static constexpr int64_t kLanes = S::lanes, kDepth = 8, kRun = (16384 / sizeof(T) / R) / kLanes * kLanes;

  /// First column of a vector. The last one overlaps the one before it, but has sums of its own.
  int64_t column(int64_t vector) const { return ops::min_of(vector * kLanes, width_ - kLanes); }

  template <int depth>
  void add(int64_t p, int64_t v, int64_t end, T* sums) const {
    const T* a = a_.data + p;
    const T* b = b_ + p * ldb_;
    for (; v < end; ++v, sums += kLanes) {
      Vector sum[R];
      const T* from = b + column(v);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) sum[i] = *reinterpret_cast<const Vector*>(sums + i * kRun);
#pragma GCC unroll 8
      for (int q = 0; q < depth; ++q) {
        const Vector weights = *reinterpret_cast<const Vector*>(from + q * ldb_);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) sum[i] += a[i * a_.stride + q] * weights;
      }
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) *reinterpret_cast<Vector*>(sums + i * kRun) = sum[i];
    }
  }

  void finish(int64_t v, int64_t end, T* sums) const {
    using Value = typename S::Value;
    for (; v < end && (v + 1) * kLanes <= width_; ++v, sums += kLanes) {
      finish_.template columns<Isa, 0, Value>(static_cast<int>(rows_), 0, v * kLanes, [&](int i) -> Value {
        return *reinterpret_cast<const Vector*>(sums + i * kRun);
      });
    }
    if (v == end) return;
    const int64_t skipped = v * kLanes - column(v), cols = width_ - v * kLanes;
    T last[R * kLanes];
    for (int64_t i = 0; i < rows_; ++i) copy_run(last + i * kLanes, sums + i * kRun + skipped, cols);
    finish_partial_tile<Isa, T, 1>(last, 0, rows_, v * kLanes, cols, finish_);
  }

  int64_t rows_;
  Operand<T> a_;
  int64_t k_, width_;
  const T* b_;
  int64_t ldb_;
  const Finish& finish_;
};

}  // namespace evenflow::gemm
