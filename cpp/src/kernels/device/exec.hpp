#pragma once

#include "core/device.hpp"
#include "evenflow/context.hpp"
#include "kernels/device/body.hpp"
#include "kernels/ops/checkerboard.hpp"
#include "kernels/ops/sums.hpp"

namespace evenflow {

/// Loops and reductions on a device, with the interface of CpuExec. Launcher provides
///   launch(ctx, blocks, body)   for blocks >= 1
///   max_blocks                  most blocks of a grid-stride loop
template <class Launcher>
struct DeviceExec {
  static constexpr bool cheap_launches = false;
  static constexpr bool shares_rows = true;

  template <class Body>
  static void launch(Context& ctx, int64_t blocks, const Body& body) {
    Launcher::launch(ctx, blocks, body);
  }

  static constexpr int block_rows = 8, block_cols = 32;  ///< threads of a block() body

  template <class Body>
  static void block(Context& ctx, const Body& body) {
    launch(ctx, 1, body);
  }

  static int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

  template <class F>
  static void for_each(Context& ctx, int64_t rows, int64_t cols, const F& f, int64_t /*cost*/ = 1) {
    if (rows * cols == 0) return;
    const int64_t blocks =
        ops::min_of<int64_t>(ceil_div(rows * cols, device::kThreads), Launcher::max_blocks);
    launch(ctx, blocks, device::ForEach<F>{rows, device::Walk::by(blocks * device::kThreads, cols), f});
  }

  template <class T, class F>
  static void map(Context& ctx, int64_t rows, int64_t cols, const F& f) {
    for_each(ctx, rows, cols, device::MapOne<T, F>{f});
  }

  /// out may be null if the sums are not needed.
  template <class T, class F>
  static void map_groups(Context& ctx, int64_t groups, int64_t rows, int64_t cols, const F& f, double* out) {
    if (groups * rows * cols == 0) return;
    constexpr int64_t kChunk = 2048;
    const int64_t chunks = ceil_div(rows * cols, kChunk);
    WorkspaceScope scope(ctx.workspace());
    double* partial = chunks == 1 || !out ? out : scope.take<double>(groups * chunks * F::sums);
    const auto walk = device::Walk::by(device::kThreads, cols);
    launch(ctx, groups * chunks,
           device::MapGroups<T, F>{rows, kChunk, chunks, walk, f, chunks == 1, partial});
    if (chunks > 1 && out) for_each(ctx, groups, F::sums, device::AddChunks{chunks, F::sums, partial, out});
  }

  template <class F>
  static void sum(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out) {
    reduce<device::Add>(ctx, rows, cols, f, out);
  }

  static void sum_values(Context& ctx, int64_t n, const double* x, double* out) {
    reduce<device::Add>(ctx, 1, n, device::Values{x}, out);
  }

  template <class F>
  static void largest(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out) {
    reduce<device::Largest>(ctx, rows, cols, f, out);
  }

  template <class T, class F>
  static void sum_columns(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out,
                          bool /*flat*/ = false) {
    if (cols == 0) return;
    const int64_t chunk = chunk_of(rows, cols), chunks = ceil_div(rows, chunk), width = F::sums * cols;
    if (chunks <= 1) return sum_chunks<T>(ctx, rows, cols, chunk, f, out);
    WorkspaceScope scope(ctx.workspace());
    double* partial = scope.take<double>(chunks * width);
    sum_chunks<T>(ctx, rows, cols, chunk, f, partial);
    sum_rows(ctx, chunks, width, partial, ops::StoreSum{out});
  }

  /// Calls finish(column, its sums, their distance) instead of writing an array.
  template <class T, class F, class G>
  static void sum_columns_to(Context& ctx, int64_t rows, int64_t cols, const F& f, const G& finish,
                             bool /*flat*/ = false) {
    if (cols == 0) return;
    const int64_t chunk = chunk_of(rows, cols), chunks = ops::max_of<int64_t>(ceil_div(rows, chunk), 1);
    WorkspaceScope scope(ctx.workspace());
    double* partial = scope.take<double>(chunks * F::sums * cols);
    sum_chunks<T>(ctx, rows, cols, chunk, f, partial);
    sum_rows(ctx, chunks, cols, partial, finish);
  }

  /// The same from partial sums (rows, G::sums, cols).
  template <class G>
  static void sum_rows(Context& ctx, int64_t rows, int64_t cols, const double* partial, const G& finish) {
    constexpr int64_t kMost = 64;  // that a thread adds
    const int64_t width = G::sums * cols, chunk = ceil_div(rows, kMost);
    WorkspaceScope scope(ctx.workspace());
    if (rows > kMost) {
      double* fewer = scope.take<double>(ceil_div(rows, chunk) * width);
      sum_chunks<double>(ctx, rows, width, chunk, ops::ColumnSum<double>{ops::PixelMask(), partial, width},
                         fewer);
      partial = fewer;
      rows = ceil_div(rows, chunk);
    }
    for_each(ctx, 1, cols, device::FinishSums<G>{rows, cols, partial, finish});
  }

 private:
  /// Rows per block in sums over columns.
  static int64_t chunk_of(int64_t rows, int64_t cols) {
    constexpr int64_t kChunk = 4096, kWidest = 32, kMostChunks = 512;
    return ops::max_of(ceil_div(kChunk, ops::min_of(cols, kWidest)), ceil_div(rows, kMostChunks));
  }

  template <class Join, class F>
  static void reduce(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out) {
    constexpr int64_t kLeast = 4096, kMostBlocks = 1024;
    const int64_t chunk = ops::max_of(kLeast, ceil_div(rows * cols, kMostBlocks)),
                  blocks = ceil_div(rows * cols, chunk);
    if (blocks <= 1) return reduce_chunks<Join>(ctx, rows, cols, chunk, f, out);
    WorkspaceScope scope(ctx.workspace());
    double* partial = scope.take<double>(blocks);
    reduce_chunks<Join>(ctx, rows, cols, chunk, f, partial);
    reduce_chunks<Join>(ctx, 1, blocks, blocks, device::Values{partial}, out);
  }

  /// Writes one number per chunk of elements, and at least one.
  template <class Join, class F>
  static void reduce_chunks(Context& ctx, int64_t rows, int64_t cols, int64_t chunk, const F& f,
                            double* out) {
    launch(ctx, ops::max_of<int64_t>(ceil_div(rows * cols, chunk), 1),
           device::Reduce<F, Join>{rows * cols, chunk, device::Walk::by(device::kThreads, cols), f, out});
  }

  /// Sums chunks of rows, at least one: out (chunks, F::sums, cols).
  template <class T, class F>
  static void sum_chunks(Context& ctx, int64_t rows, int64_t cols, int64_t chunk, const F& f, double* out) {
    using Body = device::SumColumns<T, F>;
    const int64_t groups = ceil_div(cols, Body::kGroup);
    const int width = static_cast<int>(ceil_div(cols, groups));
    launch(ctx, groups * ops::max_of<int64_t>(ceil_div(rows, chunk), 1),
           Body{rows, cols, chunk, width, device::kThreads / width, f, out});
  }
};

}  // namespace evenflow
