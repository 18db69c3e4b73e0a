#pragma once

#include <algorithm>
#include <exception>
#include <mutex>

#include "core/team.hpp"
#include "evenflow/context.hpp"
#include "evenflow/params.hpp"

namespace evenflow {

/// The second schedule: slices (tiles) of a batch go through the whole chain, each on one core. Tiles and
/// their groups depend only on the model and the batch, not on the number of threads, so gradients do not
/// either.
struct Tiles {
  static constexpr int64_t kUsualRows = 140;  ///< ten register tiles
  static constexpr int64_t kMostRows = 280;
  static constexpr int64_t kScored = 128;    ///< largest tile without gradients: whole vectors of samples
  static constexpr int64_t kLeastRows = 14;  ///< one register tile
  static constexpr int64_t kGroups = 16;

  int64_t n, count, groups;
  /// rows: most in a tile. shared: several threads pay, so their number is even.
  Tiles(int64_t n_, int64_t rows, bool shared = false, int64_t most_groups = kGroups)
      : n(n_), count((n_ + rows - 1) / rows) {
    if (shared && n >= 2 * kLeastRows) count = (count + 1) / 2 * 2;
    groups = std::min(count, most_groups);
  }

  int64_t begin(int64_t tile) const { return n * tile / count; }
  int64_t first_of(int64_t group) const { return count * group / groups; }
};

/// Calls f(single-thread context, group, tile) for every tile. One thread processes the tiles of a group, in
/// order.
template <class F>
void run_tiles(Context& ctx, const Tiles& tiles, bool parallel, const F& f) {
  const int threads = parallel ? static_cast<int>(std::min<int64_t>(ctx.threads(), tiles.groups)) : 1;
  ctx.prepare_children(threads);
  std::exception_ptr error;  // from the lowest rank that failed
  int failed = threads;
  std::mutex mutex;
  run_team<Tiles>(threads, [&](const Team& team) {
    try {
      for (int64_t group = team.begin(tiles.groups); group < team.end(tiles.groups); ++group) {
        for (int64_t tile = tiles.first_of(group); tile < tiles.first_of(group + 1); ++tile) {
          f(ctx.child(team.rank), group, tile);
        }
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (team.rank < failed) {
        failed = team.rank;
        error = std::current_exception();
      }
    }
  });
  if (error) std::rethrow_exception(error);
}

/// Rows [first, end) of a batch.
template <class T>
View<T> rows_of(View<T> x, int64_t first, int64_t end) {
  return View<T>(x.data + first * x.shape.pixels_per_sample() * x.stride, x.shape.with_batch(end - first),
                 x.stride);
}

/// A call's parameters for its rows from `first` on. context: context values per sample.
template <class T>
Params<T> rows_of(Params<T> params, int64_t first, int64_t context) {
  params.first_row += first;
  if (params.labels) params.labels += first;
  if (params.context) params.context += first * context;
  if (params.dcontext) params.dcontext += first * context;
  return params;
}

}  // namespace evenflow
