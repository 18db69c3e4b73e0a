#pragma once

#include "core/device.hpp"
#include "evenflow/context.hpp"
#include "kernels/device/body.hpp"

namespace evenflow {

/// Loops and reductions on a device, with CpuExec's interface. Launcher runs a body:
///   launch(ctx, blocks, body), blocks >= 1;  max_blocks: grid-stride loops take no more.
template <class Launcher>
struct DeviceExec {
  static constexpr bool cheap_launches = false;

  template <class Body>
  static void launch(Context& ctx, int64_t blocks, const Body& body) {
    Launcher::launch(ctx, blocks, body);
  }

  static constexpr int block_rows = 8, block_cols = 32;  ///< threads of a block that runs alone

  template <class Body>
  static void block(Context& ctx, const Body& body) {
    launch(ctx, 1, body);
  }

  static int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

  template <class F>
  static void for_each(Context& ctx, int64_t rows, int64_t cols, const F& f, int64_t /*worth*/ = 1) {
    if (rows * cols == 0) return;
    const int64_t blocks = parts(rows * cols, device::kThreads);
    launch(ctx, ops::min_of<int64_t>(blocks, Launcher::max_blocks), device::ForEach<F>{rows, cols, f});
  }

  template <class T, class F>
  static void map(Context& ctx, int64_t rows, int64_t cols, const F& f) {
    for_each(ctx, rows, cols, device::MapOne<T, F>{f});
  }

  template <class T, class F>
  static void map_groups(Context& ctx, int64_t groups, int64_t rows, int64_t cols, const F& f, double* out) {
    if (groups * rows * cols == 0) return;
    constexpr int64_t kChunk = 2048;
    const int64_t chunks = parts(rows * cols, kChunk);
    WorkspaceScope scope(ctx.workspace());
    double* partial = scope.take<double>(groups * chunks * F::sums);
    launch(ctx, groups * chunks, device::MapGroups<T, F>{rows, cols, kChunk, chunks, f, partial});
    for_each(ctx, groups, F::sums, device::AddChunks{chunks, F::sums, partial, out});
  }

  template <class F>
  static void sum(Context& ctx, int64_t rows, int64_t cols, const F& f, bool add, double* out) {
    reduce<device::Add>(ctx, rows, cols, f, add, out);
  }

  template <class F>
  static void largest(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out) {
    reduce<device::Largest>(ctx, rows, cols, f, false, out);
  }

  template <class T, class F>
  static void sum_columns(Context& ctx, int64_t rows, int64_t cols, const F& f, double* out) {
    if (cols == 0) return;
    constexpr int64_t kChunk = 512;
    const int64_t chunks = parts(rows, kChunk), width = F::sums * cols;
    WorkspaceScope scope(ctx.workspace());
    double* partial = scope.take<double>(chunks * width);
    if (chunks) {
      const device::SumColumns<T, F> body{rows, cols, kChunk, f, partial};
      launch(ctx, chunks * body.strips(), body);
    }
    for_each(ctx, 1, width, device::ChunkTotals{chunks, width, partial, out});
  }

 private:
  template <class Join, class F>
  static void reduce(Context& ctx, int64_t rows, int64_t cols, const F& f, bool add, double* out) {
    constexpr int64_t kLeast = 4096, kMostBlocks = 1024;
    const int64_t chunk = ops::max_of(kLeast, parts(rows * cols, kMostBlocks));
    const int64_t blocks = parts(rows * cols, chunk);
    WorkspaceScope scope(ctx.workspace());
    double* partial = scope.take<double>(blocks);
    if (blocks) launch(ctx, blocks, device::Reduce<F, Join>{rows, cols, chunk, f, partial});
    for_each(ctx, 1, 1, device::JoinAll<Join>{partial, blocks, add, out});
  }
};

}  // namespace evenflow
