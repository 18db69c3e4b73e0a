#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "evenflow/error.hpp"
#include "evenflow/flow.hpp"
#include "flow/tiles.hpp"

namespace evenflow {

/// A layer in its chain.
template <class T>
struct Node {
  std::string name;
  std::unique_ptr<Layer<T>> layer;
  int64_t keep = 0;  ///< channels that continue to the next layer, the others are latents; 0: all

  Shape input(int64_t n) const { return layer->input_shape().with_batch(n); }
  Shape output(int64_t n) const { return layer->output_shape().with_batch(n); }
  /// The part of an output that continues, and the part that becomes latents.
  template <class U>
  View<U> kept(View<U> out) const {
    return keep ? out.channels(0, keep) : out;
  }
  template <class U>
  View<U> factored_out(View<U> out) const {
    return out.channels(keep, out.shape.c - keep);
  }
};

/// The definition of a flow: its layers in the order data -> latent, its latents' levels, and its parameters'
/// layout.
template <class T>
struct Chain {
  Chain(Shape sample, Base base_, const ParamLimit& limit)
      : sample_shape(sample.with_batch(0)),
        current(sample_shape),
        base(base_),
        declared_(std::make_shared<ParamLayout>(limit)) {
    if (dims() < 1) fail<ShapeError>("flow", "expected positive sizes, got ", to_string(sample_shape));
  }

  int64_t dims() const { return sample_shape.per_sample(); }

  /// Declares the layer's tensors at once, so that a model beyond the limit is not made whole first.
  void add(const std::string& name, std::unique_ptr<Layer<T>> layer) {
    if (layer->input_shape() != current) {
      fail<ShapeError>(name, "expected a layer for ", to_string(current), ", got ",
                       to_string(layer->input_shape()));
    }
    current = layer->output_shape();
    const std::vector<ParamLayout::Entry>& entries = declared_->entries();
    const size_t first = entries.size();
    layer->declare(root() / name);
    for (size_t e = first; e < entries.size(); ++e) {
      if (entries[e].group != Group::stats) continue;
      const int64_t pixels = current.pixels_per_sample();
      moments_of = moments_of ? std::min(moments_of, pixels) : pixels;
    }
    nodes.emplace_back();
    nodes.back().name = name;
    nodes.back().layer = std::move(layer);
    if (nodes.back().layer->standardizes()) standardised = nodes.size();
  }

  void factor_out(int64_t keep) {
    if (nodes.empty() || keep < 1 || keep >= current.c) {
      fail<ShapeError>("factor_out", "expected 1 <= channels kept < ", current.c, ", got ", keep);
    }
    nodes.back().keep = keep;
    add_level(current.with_channels(current.c - keep));
    current.c = keep;
  }

  void finalize() {
    if (head && context) fail<ConfigError>("flow", "a class head and a context exclude each other");
    if (head && nodes.empty()) fail<ConfigError>("flow", "expected a layer beside a class head, got none");
    add_level(current);
    for (const Node<T>& node : nodes) {
      if (node.layer->context() && node.layer->context() != context) {
        fail<ShapeError>(node.name, "expected a net for a context of ", context, ", got one for ",
                         node.layer->context());
      }
    }
    if (head) head->declare(root() / "class_head");
    if (context) {
      context_mean = root().add("context.mean", {context}, Group::fixed);
      context_std = root().add("context.std", {context}, Group::fixed);
    }
    initialized = root().add("initialized", {1}, Group::fixed);
    declared_->finalize();
    layout = declared_;
    kept_values = 3 * dims() + 2 * context;
    for (const Node<T>& node : nodes) kept_values += node.layer->kept_size(1);
    tile_rows = rows_of_a_tile();
    for (const ParamLayout::Entry& entry : layout->entries()) {
      if (entry.offset < layout->trainable_size()) largest_weight = std::max(largest_weight, entry.size);
    }
  }

  /// Whether n samples are worth several threads. At the bound a gradient takes about 0.1 ms on one thread,
  /// and a pass without a gradient a third of that. An activation takes the time of kProductsPerValue
  /// products.
  bool worth_threads(int64_t n) const {
    constexpr int64_t kProducts = int64_t{1} << 21, kProductsPerValue = 50;
    return n * (layout->trainable_size() + kProductsPerValue * kept_values) >= kProducts;
  }

  /// The tiles of a gradient. None if layer by layer is faster: for weights that leave the last cache, and
  /// where tiles of few rows would read weights that exceed a core's, or a single matrix does.
  std::optional<Tiles> gradient_tiles(int64_t n) const {
    constexpr int64_t kBytes = 1 << 25, kNearBytes = 1 << 21, kFewRowsBytes = 1 << 23, kFewRows = 64,
                      kMatrixBytes = 1 << 19, kGroupsBytes = 1 << 27;
    const int64_t bytes = layout->trainable_size() * static_cast<int64_t>(sizeof(T));
    if (!tile_rows || bytes > kBytes) return {};
    // Longer tiles read weights less often. A large batch leaves enough of them for many threads.
    const int64_t rows = std::clamp(n / Tiles::kGroups, Tiles::kUsualRows, Tiles::kMostRows),
                  groups = bytes <= kNearBytes ? Tiles::kGroups
                                               : std::min(Tiles::kGroups / 2, kGroupsBytes / bytes / 2 * 2);
    const Tiles tiles(n, std::min(tile_rows, rows), worth_threads(n), groups);
    const bool wide = largest_weight * static_cast<int64_t>(sizeof(T)) > kMatrixBytes;
    if (bytes > kFewRowsBytes && (wide || n / tiles.count < kFewRows)) return {};
    return tiles;
  }

  /// The tiles of a pass without gradients; its results are those of the whole batch. None if that is faster:
  /// for too few rows to occupy the threads, and where a matrix of weights exceeds a core's cache.
  std::optional<Tiles> scored_tiles(int64_t n, int threads) const {
    constexpr int64_t kFewRowsBytes = 1 << 22, kBytes = 1 << 24, kMatrixBytes = 1 << 19;
    const int64_t rows = std::min(tile_rows, Tiles::kScored), value = static_cast<int64_t>(sizeof(T));
    const int64_t most = n >= threads * rows ? kBytes : kFewRowsBytes;
    if (!rows || layout->trainable_size() * value > most || largest_weight * value > kMatrixBytes) return {};
    const Tiles tiles(n, rows, threads > 1 && worth_threads(n));
    if (tiles.count == 1) return {};  // also for a tile, which one thread processes
    return tiles;
  }

  Shape sample_shape;
  Shape current;  ///< output of the last layer so far
  Base base;
  int64_t classes = 0;
  int64_t context = 0;
  std::vector<Node<T>> nodes;
  std::vector<Level> levels;  ///< in the order in which latents leave the chain
  std::unique_ptr<ClassHead<T>> head;
  size_t head_at = 0;       ///< the head reads the input of this node
  int64_t moments_of = 0;   ///< fewest pixels per sample in a batch norm's moments; 0: no batch norm
  size_t standardised = 0;  ///< number of nodes up to a layer that standardizes(); 0: none
  std::shared_ptr<const ParamLayout> layout;
  ParamId initialized = 0;
  ParamId context_mean = -1;
  ParamId context_std = -1;
  /// Most samples in a tile. 0: no tiles, because rows depend on each other or a sample is large.
  int64_t tile_rows = 0;
  int64_t kept_values = 0;     ///< values that a gradient keeps of a sample, in whole cache lines
  int64_t largest_weight = 0;  ///< values in the largest trained parameter

 private:
  void add_level(Shape shape) {
    const int64_t offset = levels.empty() ? 0 : levels.back().offset + levels.back().shape.per_sample();
    levels.push_back({shape, offset});
  }

  Scope root() { return Scope(*declared_, ""); }

  /// Sized so that a tile's activations stay in a cache: they are read once after they are written.
  int64_t rows_of_a_tile() const {
    constexpr int64_t kTileBytes = 1 << 24;
    if (layout->stats_size() || head) return 0;
    const int64_t rows = kTileBytes / (kept_values * static_cast<int64_t>(sizeof(T)));
    return rows < Tiles::kLeastRows ? 0 : std::min(Tiles::kMostRows, rows);
  }

  std::shared_ptr<ParamLayout> declared_;  ///< the layout as it grows
};

}  // namespace evenflow
