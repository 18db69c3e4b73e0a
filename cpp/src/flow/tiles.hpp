#pragma once

#include <algorithm>
#include <exception>
#include <mutex>
#include <numeric>
#include <optional>

#include "core/team.hpp"
#include "evenflow/context.hpp"
#include "evenflow/params.hpp"
#include "kernels/kernel_set.hpp"

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
  Conditions<T>& given = params.given;
  given.first_row += first;
  if (given.labels) given.labels += first;
  if (given.context) given.context += first * context;
  if (given.dcontext) given.dcontext += first * context;
  return params;
}

/// Gradients by parameters from tiles: each group has its own, and they are added in order. Without tiles
/// there is one, the total.
template <class T>
class GroupGradients {
 public:
  /// total (size): what the sum is added to. first_in_place: it holds nothing yet, and the first group's lie
  /// there.
  GroupGradients(WorkspaceScope& scope, const std::optional<Tiles>& tiles, int64_t size, T* total,
                 bool first_in_place = false)
      : groups_(tiles ? tiles->groups : 1),
        size_(size),
        padded_((size + 15) / 16 * 16),
        total_(total),
        in_place_(first_in_place || !tiles),
        others_(scope.take<T>((groups_ - in_place_) * padded_)) {}

  T* of(int64_t group) const {
    return in_place_ && group == 0 ? total_ : others_ + (group - in_place_) * padded_;
  }

  /// Adds all groups to the first. Returns the sum of squares.
  double add_up(Context& ctx, bool parallel) const {
    WorkspaceScope scope(ctx);
    const Tiles pieces(size_, kPiece);
    double* squares = scope.take<double>(pieces.count);
    by_pieces(ctx, pieces, parallel, [&](Context& local, int64_t i, int64_t first, const Shape& shape) {
      for (int64_t g = 1; g < groups_; ++g) {
        local.kernels<T>().move.add(local, View<const T>(of(g) + first, shape),
                                    View<T>(of(0) + first, shape));
      }
      local.kernels<T>().optim.sum_squares(local, shape.c, of(0) + first, squares + i);
    });
    return std::accumulate(squares, squares + pieces.count, 0.0);
  }

  /// Adds what add_up() left to the total.
  void add_to_total(Context& ctx, bool parallel) const {
    if (in_place_) return;
    by_pieces(ctx, Tiles(size_, kPiece), parallel,
              [&](Context& local, int64_t, int64_t first, const Shape& shape) {
                local.kernels<T>().move.add(local, View<const T>(others_ + first, shape),
                                            View<T>(total_ + first, shape));
              });
  }

 private:
  static constexpr int64_t kPiece = 4096;  ///< values of a gradient that a thread sums at a time

  /// Calls f(single-thread context, number, first value, shape) for every piece of the gradient.
  template <class F>
  static void by_pieces(Context& ctx, const Tiles& pieces, bool parallel, const F& f) {
    run_tiles(ctx, pieces, parallel, [&](Context& local, int64_t, int64_t i) {
      f(local, i, pieces.begin(i), Shape{1, 1, 1, pieces.begin(i + 1) - pieces.begin(i)});
    });
  }

  int64_t groups_, size_, padded_;
  T* total_;
  bool in_place_;
  T* others_;
};

}  // namespace evenflow
