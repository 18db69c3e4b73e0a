#pragma once

#include "kernels/device/exec.hpp"
#include "kernels/device/mma_operands.hpp"

// Packs a net's weights and inputs for MmaProduct in a single launch, because each takes less time than a
// launch.

namespace evenflow::device {

template <class S, int n>
EVENFLOW_INLINE void write_as(const ops::Pack<float, n>& from, S* to) {
  ops::Pack<S, n> pack;
  for (int e = 0; e < n; ++e) store_value(from.v[e], &pack.v[e]);
  ops::write(pack, to);
}

/// Converts rows to S, zero-padded to `width`.
template <class S>
struct PackRows {
  using Number = float;
  static constexpr bool half_packs = true;
  const float* x;
  int64_t x_stride;
  int64_t columns;
  int64_t width;
  S* out;
  EVENFLOW_INLINE bool packs(int n) const { return ops::fits(n, x, x_stride) && columns % n == 0; }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    ops::Pack<float, n> from = {};
    if (c < columns) from = ops::read<n>(x + row * x_stride + c);
    write_as(from, out + row * width + c);
  }
};

/// Packs weights (taps, cin + edge, cout) by patch index to (dims.size(), width), zero-padded.
template <class S>
struct PackWeights {
  using Number = float;
  static constexpr bool half_packs = true;
  const float* w;
  PatchDims dims;
  int64_t cin;
  int64_t cout;
  int64_t width;
  S* out;
  EVENFLOW_INLINE bool packs(int n) const { return ops::fits(n, w, cout); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const PatchPart part = patch_part(dims, row);
    const int64_t channel = part.indicator ? cin : part.channel;
    const bool inside = part.tap < dims.taps() && (part.indicator || channel < cin) && c < cout;
    ops::Pack<float, n> from = {};
    if (inside) from = ops::read<n>(w + (part.tap * (cin + (dims.edge ? 1 : 0)) + channel) * cout + c);
    write_as(from, out + row * width + c);
  }
};

/// Packs the weights of all taps side by side to (k, (tap, c)), zero-padded.
template <class S>
struct PackTaps {
  const float* w;
  int64_t tap_step;  ///< stride in w from one tap to the next; k_step and c_step likewise
  int64_t k_step;
  int64_t c_step;
  int64_t k;
  Divisor channels;
  int64_t width;
  S* out;
  EVENFLOW_INLINE void operator()(int64_t row, int64_t column) const {
    const int32_t at = static_cast<int32_t>(column), tap = channels.quotient(at), c = at - tap * channels.by;
    const bool inside = row < k && tap < 9;
    store_value(inside ? w[tap * tap_step + row * k_step + c * c_step] : 0.0f, out + row * width + column);
  }
};

/// Runs f(row, column) on some blocks of a launch, for as many columns at a time as f takes.
template <class F>
struct Loop {
  int64_t blocks = 0;
  int64_t rows = 0;
  PackWalk walk = {};  ///< stride: the threads of these blocks
  int pack = 1;
  F f = {};

  EVENFLOW_INLINE void run(int64_t block, int thread) const {
    const int64_t first = block * kThreads + thread;
    if (pack == 4) {
      go<4>(first);
    } else if (pack == 2) {
      go<2>(first);
    } else {
      go<1>(first);
    }
  }

 private:
  template <int n>
  EVENFLOW_INLINE void go(int64_t first) const {
    if constexpr (n <= most_packed<F>) {
      for (PackIndex spot = walk.start(first); spot.row < rows; walk.step(spot)) {
        if constexpr (most_packed<F> == 1) {
          f(spot.row, spot.column);
        } else {
          f.template operator()<n>(spot.row, spot.column * n);
        }
      }
    }
  }
};

/// All packing of one launch. A loop without blocks does nothing.
template <class S>
struct PackTogether {
  static constexpr int threads = kThreads;
  static constexpr int kRows = 2, kWeights = 8, kTaps = 1;
  using Registers = Nothing;
  using Shared = Nothing;
  Loop<PackRows<S>> rows[kRows];
  Loop<PackWeights<S>> weights[kWeights];
  Loop<PackTaps<S>> taps[kTaps];

  EVENFLOW_INLINE int64_t phases(int64_t) const { return 1; }
  EVENFLOW_INLINE void run(int64_t, const Place& at, Registers&, Shared&) const {
    int64_t block = at.block;
    if (run_one(rows, block, at.thread) || run_one(weights, block, at.thread)) return;
    run_one(taps, block, at.thread);
  }

 private:
  /// Returns whether the block belongs to these loops. If not, subtracts their blocks from `block`.
  template <class F, int most>
  EVENFLOW_INLINE static bool run_one(const Loop<F> (&loops)[most], int64_t& block, int thread) {
    int i = 0;
    while (i < most && block >= loops[i].blocks) block -= loops[i++].blocks;
    if (i == most) return false;
    loops[i].run(block, thread);
    return true;
  }
};

/// Collects packing jobs until launch().
template <class Launcher, class S>
class Packing {
 public:
  explicit Packing(Context& ctx) : ctx_(ctx) {}

  void add(int64_t rows, int64_t cols, const PackRows<S>& f) { put(body_.rows, rows_, rows, cols, f); }
  void add(int64_t rows, int64_t cols, const PackWeights<S>& f) {
    put(body_.weights, weights_, rows, cols, f);
  }
  void add(int64_t rows, int64_t cols, const PackTaps<S>& f) { put(body_.taps, taps_, rows, cols, f); }
  void launch() {
    if (blocks_ > 0) Launcher::launch(ctx_, blocks_, body_);
    body_ = {};
    blocks_ = rows_ = weights_ = taps_ = 0;
  }

 private:
  using Exec = DeviceExec<Launcher>;
  using Body = PackTogether<S>;

  template <class F, int most>
  void put(Loop<F> (&to)[most], int64_t& count, int64_t rows, int64_t cols, const F& f) {
    if (rows * cols == 0) return;
    if (count == most) launch();
    Exec::in_packs(cols, f, [&](auto n) {
      const int64_t packs = cols / decltype(n)::value;
      const int64_t blocks =
          ops::min_of<int64_t>(Exec::ceil_div(rows * packs, kThreads), Launcher::max_blocks);
      to[count++] = {blocks, rows, PackWalk::by(blocks * kThreads, packs), decltype(n)::value, f};
      blocks_ += blocks;
    });
  }

  Context& ctx_;
  Body body_ = {};
  int64_t blocks_ = 0, rows_ = 0, weights_ = 0, taps_ = 0;
};

}  // namespace evenflow::device
