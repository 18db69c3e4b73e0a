#pragma once

#include "core/team.hpp"
#include "evenflow/context.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/lanes.hpp"
#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/functor.hpp"
#include "kernels/ops/math.hpp"
#include "kernels/ops/place.hpp"
#include "kernels/ops/sums.hpp"

// Loops over rows and columns, on a team of threads. Chunk sizes do not depend on the number of threads, and
// partial sums are added in chunk order, so results do not depend on it either.

namespace evenflow {

/// Isa is a template argument of everything here. Otherwise the linker would merge bodies that were compiled
/// for different instruction sets.
template <class Isa>
struct CpuExec {
  static constexpr int64_t kParallelWork = 1 << 16;  ///< fewer elements are not worth waking a thread

  static constexpr bool cheap_launches = true;
  static constexpr bool shares_rows = false;  ///< whether a reduction may divide a row

  static int threads_for(Context& ctx, int64_t work) { return work < kParallelWork ? 1 : ctx.threads(); }

  static constexpr int block_rows = 1, block_cols = 1;  ///< threads of a block() body

  /// Runs a body of one block.
  template <class Body>
  static void block(Context&, const Body& body) {
    typename Body::Shared shared;
    for (int64_t phase = 0; phase < body.phases(0); ++phase) {
      body.run(phase, ops::Place{0, 1, 0}, shared);
    }
  }

  /// Calls f(first element, its place, rows, columns) for the rows of a run whose elements are `step` apart.
  /// If all elements are equally spaced, it is one call with one row, and `step` becomes their distance.
  template <class F>
  EVENFLOW_INLINE static void by_rows(const ops::Run& run, int64_t stride, int64_t& step, const F& f) {
    const int64_t at = run.row * stride + run.col * step;
    if (run.cols == 1) step = stride;
    if (run.cols == 1 || stride == run.cols * step) return f(0, at, 1, run.count);
    const int64_t head = run.col == 0 ? 0 : ops::min_of(run.count, run.cols - run.col);
    const int64_t rows = (run.count - head) / run.cols, tail = (run.count - head) % run.cols;
    int64_t row = run.row * stride;
    if (head > 0) f(0, at, 1, head), row += stride;
    if (rows > 0) f(head, row, rows, run.cols);
    if (tail > 0) f(run.count - tail, row + rows * stride, 1, tail);
  }

  /// Copies rows of at most `most` numbers. Each count is a template argument, so the compiler picks the
  /// moves.
  template <int most, class T>
  EVENFLOW_INLINE static void copy_short_rows(const T* from, int64_t from_stride, T* to, int64_t to_stride,
                                              int64_t rows, int64_t cols) {
    if constexpr (most > 0) {
      if (cols < most) return copy_short_rows<most - 1>(from, from_stride, to, to_stride, rows, cols);
      for (; rows > 0; --rows, from += from_stride, to += to_stride) memcpy(to, from, most * sizeof(T));
    }
  }
  template <class T>
  __attribute__((noinline)) static void copy_rows(const T* from, int64_t from_stride, T* to,
                                                  int64_t to_stride, int64_t rows, int64_t cols) {
    if (cols <= 8) return copy_short_rows<8>(from, from_stride, to, to_stride, rows, cols);
    for (; rows > 0; --rows, from += from_stride, to += to_stride) copy_run(to, from, cols);
  }

  /// to[e] = element e of a run; see ops/functor.hpp.
  struct Gather {
    template <class From, class To>
    __attribute__((noinline)) void operator()(const ops::Run& run, const From* from, int64_t stride,
                                              int64_t step, To* to) const {
      by_rows(run, stride, step,
              [&](int64_t first, int64_t at, int64_t rows, int64_t cols)
                  __attribute__((always_inline)) { move(from + at, stride, step, to + first, rows, cols); });
    }

   private:
    template <class From, class To>
    __attribute__((noinline)) static void move(const From* from, int64_t stride, int64_t step, To* to,
                                               int64_t rows, int64_t cols) {
      if constexpr (std::is_same<From, To>::value) {
        if (step == 1) return copy_rows(from, stride, to, cols, rows, cols);
      }
      for (const To* end = to + rows * cols; rows > 0; --rows, from += stride, to += cols) {
        if (step == 0) {
          const To all = static_cast<To>(*from);
          int64_t e = 0;
          constexpr int64_t kMany = 16;  // the next rows overwrite the excess
          for (; e < cols && end - (to + e) >= kMany; e += kMany) {
            for (int64_t i = 0; i < kMany; ++i) to[e + i] = all;
          }
          for (; e < cols; ++e) {
            to[e] = all;
            keep_scalar(e);
          }
        } else if (step == 2) {  // as vectors
          for (int64_t e = 0; e < cols; ++e) to[e] = static_cast<To>(from[2 * e]);
        } else {
          for (int64_t e = 0; e < cols; ++e) {
            to[e] = static_cast<To>(from[e * step]);
            keep_scalar(e);
          }
        }
      }
    }
  };
  /// The reverse of Gather.
  struct Scatter {
    template <class T>
    __attribute__((noinline)) void operator()(const ops::Run& run, const T* from, T* to, int64_t stride,
                                              int64_t step) const {
      by_rows(run, stride, step,
              [&](int64_t first, int64_t at, int64_t rows, int64_t cols)
                  __attribute__((always_inline)) { move(from + first, to + at, stride, step, rows, cols); });
    }

   private:
    template <class T>
    __attribute__((noinline)) static void move(const T* from, T* to, int64_t stride, int64_t step,
                                               int64_t rows, int64_t cols) {
      if (step == 1) return copy_rows(from, cols, to, stride, rows, cols);
      for (; rows > 0; --rows, from += cols, to += stride) {
        for (int64_t e = 0; e < cols; ++e) {
          to[e * step] = from[e];
          keep_scalar(e);
        }
      }
    }
  };

  /// Consecutive elements of a map: inputs are gathered into arrays, computed in vectors, and scattered. The
  /// code that computes them is behind a pointer, so loops over runs are compiled once for all maps.
  template <class T>
  struct MapRun {
    using Compute = void (*)(MapRun&, const void* f, int64_t cols, int64_t limit);
    /// How to compute a map.
    struct Plan {
      const void* f;
      Compute compute;
      int inputs, outputs, sums;

      int64_t most() const {
        return ops::min_of<int64_t>(ops::Run::kMost, kNumbers / (inputs + outputs + sums) / kLanes * kLanes);
      }
    };
    static constexpr int kLanes = Isa::vector_bytes / 4;
    static constexpr int64_t kNumbers = 8192;

    const Plan& plan;
    const int64_t most;  ///< most elements of a run
    int64_t row = 0, col = 0;
    int64_t count = 0;  ///< elements of the last run
    alignas(64) T numbers[kNumbers];

    explicit MapRun(const Plan& plan_) : plan(plan_), most(plan_.most()) {}
    T* in(int i) { return numbers + i * most; }
    T* out(int i) { return in(plan.inputs + i); }
    T* sums(int i) { return out(plan.outputs + i); }
    void seek(int64_t to_row) {
      row = to_row;
      col = 0;
    }
    /// Computes the next elements, at most `limit`.
    void advance(int64_t cols, int64_t limit) {
      plan.compute(*this, plan.f, cols, limit);
      col += count;
      row += col / cols;
      col %= cols;
    }
    /// Zero-pads the inputs to whole vectors and returns the padded count.
    EVENFLOW_INLINE int64_t fill_up() {
      const int64_t whole = (count + kLanes - 1) / kLanes * kLanes;
      for (int i = 0; i < plan.inputs; ++i) {
        for (int64_t e = count; e < whole; ++e) in(i)[e] = T(0);
      }
      return whole;
    }
  };

  /// Computes a run of elements, `lanes` at a time.
  template <int lanes, class T, class F>
  __attribute__((noinline)) static void run_map(MapRun<T>& run, const void* functor, int64_t cols,
                                                int64_t limit) {
    apply_map<lanes>(run, *static_cast<const F*>(functor), cols, limit);
  }
  /// The same in little code. float64 is the reference: it may take its time, and it uses the C library's
  /// functions.
  template <class T, class F>
  __attribute__((noinline, cold)) static void run_small_map(MapRun<T>& run, const void* functor, int64_t cols,
                                                            int64_t limit) {
    apply_map<1>(run, *static_cast<const F*>(functor), cols, limit);
  }
  template <int lanes, class T, class F>
  EVENFLOW_INLINE static void apply_map(MapRun<T>& run, const F& f, int64_t cols, int64_t limit) {
    using V = std::conditional_t<lanes == 1, T, ops::Lanes<T, lanes>>;
    run.count = ops::min_of(run.most, limit);
    const ops::Run place{run.row, run.col, cols, run.count};
    f.load_run(place, run.in(0), run.most, Gather());
    const int64_t whole = run.fill_up();
    T *in = run.in(0), *out = run.out(0), *sums = run.sums(0);
#pragma GCC ivdep
    for (int64_t e = 0; e < whole; e += lanes) f.template compute<V>(in + e, out + e, sums + e, run.most);
    f.store_run(place, run.out(0), run.most, Scatter());
  }

  /// A sum in double: eight interleaved sums, plus the elements after the last eight. noinline avoids a copy
  /// in every map_groups.
  struct Sum {
    double lanes[8] = {}, rest = 0;
    template <class T>
    __attribute__((noinline)) void add(const T* x, int64_t count) {
      for (; count >= 8; count -= 8, x += 8) {
#pragma GCC unroll 8
        for (int l = 0; l < 8; ++l) lanes[l] += x[l];
      }
      for (int64_t i = 0; i < count; ++i) rest += x[i];
    }
    __attribute__((noinline)) double total() const {
      const double* t = lanes;
      return ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7])) + rest;
    }
  };

  /// f(row, column), where one call costs as much as `cost` plain ones.
  template <class F>
  static void for_each(Context& ctx, int64_t rows, int64_t cols, const F& f, int64_t cost = 1) {
    run_team<Isa>(threads_for(ctx, rows * cols * cost), [&](const Team& team) {
      const bool by_rows = rows >= team.size;
      const int64_t r_end = by_rows ? team.end(rows) : rows, c_end = by_rows ? cols : team.end(cols);
      for (int64_t r = by_rows ? team.begin(rows) : 0; r < r_end; ++r) {
#pragma GCC ivdep
        for (int64_t c = by_rows ? 0 : team.begin(cols); c < c_end; ++c) f(r, c);
      }
    });
  }

  /// A map without sums whose computations are in T = double, like noise.
  template <class T, class F>
  static void map(Context& ctx, int64_t rows, int64_t cols, const F& f) {
    if (rows * cols == 0) return;
    constexpr int64_t kJob = 1024;
    const int64_t share = ops::max_of<int64_t>(1, kJob / cols), jobs = (rows + share - 1) / share;
    const typename MapRun<T>::Plan plan{&f, &run_map<1, T, F>, f.inputs(), f.outputs(), 0};
    run_team<Isa>(threads_for(ctx, rows * cols), [&](const Team& team) {
      MapRun<T> run(plan);
      for (int64_t job = team.begin(jobs); job < team.end(jobs); ++job) {
        const int64_t end = ops::min_of(rows, (job + 1) * share);
        run.seek(job * share);
        for (int64_t left = (end - job * share) * cols; left > 0; left -= run.count) run.advance(cols, left);
      }
    });
  }

  static constexpr int kMostSums = 2;

  /// A map of `groups` of `rows` rows. Adds the sums over each group to out (groups, sums), unless that is
  /// null.
  template <class T, class F>
  static void map_groups(Context& ctx, int64_t groups, int64_t rows, int64_t cols, F f, double* out) {
    static_assert(F::sums <= kMostSums, "run_groups has room for them");
    f.prepare();
    const typename MapRun<T>::Plan plan{
        &f, std::is_same<T, float>::value ? &run_map<MapRun<T>::kLanes, T, F> : &run_small_map<T, F>,
        f.inputs(), f.outputs(), F::sums};
    run_groups<T>(ctx, groups, rows, cols, plan, out);
  }
  template <class T>
  __attribute__((noinline)) static void run_groups(Context& ctx, int64_t groups, int64_t rows, int64_t cols,
                                                   const typename MapRun<T>::Plan& plan, double* out) {
    const int sums = plan.sums;
    constexpr int64_t kCost = 8;  // cost of an element, in plain ones
    constexpr int64_t kJob = 4096;
    const int threads = threads_for(ctx, groups * rows * cols * kCost);
    const int64_t size = rows * cols, together = plan.most() / size;
    if (together > 0) {  // several whole groups per run
      const int64_t share = ops::max_of<int64_t>(1, kJob / size), jobs = (groups + share - 1) / share;
      run_team<Isa>(threads, [&](const Team& team) {
        MapRun<T> run(plan);
        for (int64_t job = team.begin(jobs); job < team.end(jobs); ++job) {
          const int64_t end = ops::min_of(groups, (job + 1) * share);
          run.seek(job * share * rows);
          for (int64_t group = job * share, next; group < end; group = next) {
            next = ops::min_of(end, group + together);
            run.advance(cols, (next - group) * size);
            for (int i = 0; out && i < sums; ++i) {
              const T* values = run.sums(i);
              if (size == 1) {
                for (int64_t g = group; g < next; ++g) out[g * sums + i] += values[g - group];
                continue;
              }
              for (int64_t g = group; g < next; ++g, values += size) {
                if (size < 8) {  // gives the same bits as Sum
                  double sum = 0;
                  for (int64_t e = 0; e < size; ++e) sum += values[e];
                  out[g * sums + i] += sum;
                  continue;
                }
                Sum sum;
                sum.add(values, size);
                out[g * sums + i] += sum.total();
              }
            }
          }
        }
      });
      return;
    }
    const int64_t chunk = ops::max_of<int64_t>(1, kJob / cols), chunks = (rows + chunk - 1) / chunk;
    WorkspaceScope scope(ctx);
    double* partial = scope.take<double>(groups * chunks * sums);
    run_team<Isa>(threads, [&](const Team& team) {
      MapRun<T> run(plan);
      for (int64_t job = team.begin(groups * chunks); job < team.end(groups * chunks); ++job) {
        const int64_t group = job / chunks, first = group * rows + job % chunks * chunk;
        int64_t left = (ops::min_of((group + 1) * rows, first + chunk) - first) * cols;
        Sum total[kMostSums] = {};
        for (run.seek(first); left > 0; left -= run.count) {
          run.advance(cols, left);
          for (int i = 0; out && i < sums; ++i) total[i].add(run.sums(i), run.count);
        }
        for (int i = 0; i < sums; ++i) partial[job * sums + i] = total[i].total();
      }
    });
    for (int64_t job = 0; out && job < groups * chunks; ++job) {
      for (int i = 0; i < sums; ++i) out[job / chunks * sums + i] += partial[job * sums + i];
    }
  }

  /// Folds join(a, b) over 0 and all f(row, column): first kLanes columns side by side, then the lanes, then
  /// pieces of rows.
  template <class F, class Join>
  static double joined(Context& ctx, int64_t rows, int64_t cols, const F& f, const Join& join) {
    constexpr int64_t kPiece = 4096;
    constexpr int kLanes = Isa::vector_bytes / 2;  // four vectors
    const int64_t pieces = (cols + kPiece - 1) / kPiece, count = rows * pieces;
    WorkspaceScope scope(ctx);
    double* partial = scope.take<double>(count);
    run_team<Isa>(threads_for(ctx, rows * cols), [&](const Team& team) {
      for (int64_t i = team.begin(count), last = team.end(count); i < last; ++i) {
        const int64_t r = i / pieces, end = ops::min_of(cols, (i % pieces + 1) * kPiece);
        int64_t c = i % pieces * kPiece;
        double total = 0;
        if (c + kLanes <= end) {
          double lanes[kLanes] = {};
          for (; c + kLanes <= end; c += kLanes) {
#pragma GCC ivdep
            for (int l = 0; l < kLanes; ++l) lanes[l] = join(lanes[l], f(r, c + l));
          }
          for (int half = kLanes / 2; half > 0; half /= 2) {
            for (int l = 0; l < half; ++l) lanes[l] = join(lanes[l], lanes[l + half]);
          }
          total = lanes[0];
        }
        for (; c < end; ++c) total = join(total, f(r, c));
        partial[i] = total;
      }
    });
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total = join(total, partial[i]);
    return total;
  }

  /// out[0] = sum of f(row, column) over all elements.
  template <class F>
  static void sum(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out) {
    out[0] = joined(ctx, rows, cols, f, [](double a, double b) { return a + b; });
  }

  /// out[0] = x[0] + x[1] + ..., for as many as there are samples or channels.
  static void sum_values(Context&, int64_t n, const double* x, double* out) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += x[i];
    out[0] = total;
  }

  /// out[0] = largest f(row, column), or 0.
  template <class F>
  static void largest(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out) {
    out[0] = joined(ctx, rows, cols, f, [](double a, double b) { return ops::max_of(a, b); });
  }

  /// out (F::sums, cols) = sums over rows. f(row, column, sum, next) adds to sum[0] and sum[next]. flat: the
  /// rows of f's arrays follow each other without gaps, and f treats all columns alike.
  template <class T, class F>
  static void sum_columns(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out,
                          bool flat = false) {
    constexpr int64_t kCols = 64;
    if (!flat || cols > kCols / 2) return sum_long_rows<T>(ctx, {0, rows, 1}, cols, f, out);
    // Several short rows are one: column c of a row is column c - cols of the next.
    WorkspaceScope scope(ctx);
    double* sums = scope.take<double>(F::sums * kCols);
    for (int64_t k = 0; k < F::sums * cols; ++k) out[k] = 0;
    for (int64_t row = 0; row < rows;) {  // at most twice
      const int64_t left = rows - row, together = ops::min_of(left, kCols / cols), count = left / together;
      sum_long_rows<T>(ctx, {row, count, together}, together * cols, f, sums);
      const double* sum = sums;
      for (int i = 0; i < F::sums; ++i) {
        for (int64_t r = 0; r < together; ++r, sum += cols) {
          for (int64_t c = 0; c < cols; ++c) out[i * cols + c] += sum[c];
        }
      }
      row += count * together;
    }
  }

  /// Calls finish(column, its sums, their distance) instead of writing an array.
  template <class T, class F, class G>
  static void sum_columns_to(Context& ctx, int64_t rows, int64_t cols, const F& f, const G& finish,
                             bool flat = false) {
    WorkspaceScope scope(ctx);
    double* sums = scope.take<double>(F::sums * cols);
    sum_columns<T>(ctx, rows, cols, f, sums, flat);
    for_each(ctx, 1, cols, ops::FromSums<G>{sums, cols, finish});
  }

  /// The same from partial sums (rows, G::sums, cols).
  template <class G>
  static void sum_rows(Context& ctx, int64_t rows, int64_t cols, const double* partial, const G& finish) {
    const int64_t width = G::sums * cols;
    WorkspaceScope scope(ctx);
    double* sums = scope.take<double>(width);
    sum_columns<double>(ctx, rows, width, ops::ColumnSum<double>{ops::PixelMask(), partial, width}, sums);
    for_each(ctx, 1, cols, ops::FromSums<G>{sums, cols, finish});
  }

 private:
  /// `count` rows, from `first` on, of which every step-th is summed.
  struct EveryRow {
    int64_t first, count, step;
  };

  /// sum_columns for long rows: short runs are added in T, which vectorises, and then in double.
  template <class T, class F>
  __attribute__((noinline)) static void sum_long_rows(Context& ctx, const EveryRow& every, int64_t cols,
                                                      const F& f, double* out) {
    constexpr int64_t kRun = 32;
    const int64_t rows = every.count;
    const int64_t width = F::sums * cols;
    const int64_t chunk = ops::max_of<int64_t>(kRun, 8192 / ops::max_of<int64_t>(cols, 1) / kRun * kRun);
    const int64_t chunks = (rows + chunk - 1) / chunk;
    WorkspaceScope scope(ctx);
    double* partial = scope.take<double>(chunks * width);
    T* runs = scope.take<T>(chunks * width);
    constexpr int64_t kCost = 4;
    run_team<Isa>(threads_for(ctx, rows * cols * kCost), [&](const Team& team) {
      for (int64_t job = team.begin(chunks); job < team.end(chunks); ++job) {
        double* total = partial + job * width;
        T* run = runs + job * width;
        for (int64_t k = 0; k < width; ++k) total[k] = 0;
        const int64_t end = ops::min_of(rows, (job + 1) * chunk);
        for (int64_t begin = job * chunk; begin < end; begin += kRun) {
          for (int64_t k = 0; k < width; ++k) run[k] = T(0);
          for (int64_t r = begin; r < ops::min_of(end, begin + kRun); ++r) {
#pragma GCC ivdep
            for (int64_t c = 0; c < cols; ++c) f(every.first + r * every.step, c, run + c, cols);
          }
          for (int64_t k = 0; k < width; ++k) total[k] += run[k];
        }
      }
    });
    for (int64_t k = 0; k < width; ++k) out[k] = 0;
    for (int64_t job = 0; job < chunks; ++job) {
      for (int64_t k = 0; k < width; ++k) out[k] += partial[job * width + k];
    }
  }
};

}  // namespace evenflow
