#pragma once

#include "kernels/bf16.hpp"
#include "kernels/device/body.hpp"
#include "kernels/kernel_set.hpp"

// Convolutions and dense layers of bfloat16 numbers by the matrix units of a device, as one tiled product
// with float32 sums. Operands are read sixteen bytes at a time, so channels are filled up with zeros to a
// multiple of eight; a 3x3 kernel's patches are gathered where they are read.

namespace evenflow::device {

/// Neighbouring numbers: one access.
struct alignas(16) Eight {
  Bf16 v[8];
};
static_assert(sizeof(Eight) == 16);
constexpr int kEight = 8;

EVENFLOW_HD constexpr int64_t up_to_eight(int64_t n) {
  return (n + kEight - 1) / kEight * kEight;
}
EVENFLOW_HD Eight zeros() {
  Eight e;
  for (int i = 0; i < kEight; ++i) e.v[i] = {0};
  return e;
}
EVENFLOW_HD const Eight& eight_at(const Bf16* x) {
  return *reinterpret_cast<const Eight*>(x);
}

/// How a convolution lies in a product. An index of patches is (tap, channel), channels filled up; behind
/// those come the taps of the edge's indicator, filled up.
struct PatchDims {
  int32_t height;
  int32_t width;
  int32_t kernel;
  int32_t channels;  ///< a multiple of eight
  bool edge;
  int32_t sign;  ///< 1: the pixel that the tap reads; -1: the pixel that reads this one through the tap

  EVENFLOW_HD int32_t taps() const { return kernel * kernel; }
  EVENFLOW_HD int64_t inner() const { return int64_t{taps()} * channels; }
  EVENFLOW_HD int64_t size() const { return inner() + (edge ? up_to_eight(taps()) : 0); }
};

/// Eight patch indices of one pixel: channels of a tap, or the indicators of eight taps (1 outside, 0
/// inside).
struct PatchPart {
  int32_t tap;
  int32_t channel;
  bool inside;  ///< else zeros
  bool indicator;
};

EVENFLOW_HD PatchPart patch_part(const PatchDims& dims, int64_t k) {
  if (k >= dims.size()) return {0, 0, false, false};
  if (k >= dims.inner()) return {static_cast<int32_t>(k - dims.inner()), 0, true, true};
  const int32_t at = static_cast<int32_t>(k);
  return {at / dims.channels, at % dims.channels, true, false};
}

/// row: of the pixel in its image, column alike.
EVENFLOW_HD Eight read_patch(const PatchDims& dims, const PatchPart& part, const Bf16* x, int64_t stride,
                             int64_t pixel, int32_t row, int32_t column) {
  if (!part.inside) return zeros();
  if (dims.kernel == 1) return eight_at(x + pixel * stride + part.channel);
  if (!part.indicator) {
    const int32_t dy = dims.sign * (part.tap / 3 - 1), dx = dims.sign * (part.tap % 3 - 1);
    const int32_t i = row + dy, j = column + dx;
    if (i < 0 || i >= dims.height || j < 0 || j >= dims.width) return zeros();
    return eight_at(x + (pixel + dy * dims.width + dx) * stride + part.channel);
  }
  Eight out = zeros();
  for (int e = 0; e < kEight; ++e) {
    const int32_t tap = part.tap + e, i = row + tap / 3 - 1, j = column + tap % 3 - 1;
    const bool outside = i < 0 || i >= dims.height || j < 0 || j >= dims.width;
    if (tap < dims.taps() && outside) out.v[e] = to_bf16(1.0f);
  }
  return out;
}

// An operand gives eights of a matrix, zeros outside: along k, or along the other index. A cursor holds what
// does not change from one step in k to the next.

/// (pixel, patch index).
struct PatchRows {
  static constexpr bool along_k = true;
  struct Cursor {
    int64_t pixel;  ///< negative: outside
    int32_t row;
    int32_t column;
  };
  PatchDims dims;
  const Bf16* x;
  int64_t stride;
  int64_t pixels;

  EVENFLOW_HD Cursor start(int64_t m) const {
    if (m >= pixels) return {-1, 0, 0};
    const int32_t at = static_cast<int32_t>(m % (int64_t{dims.height} * dims.width));
    return {m, at / dims.width, at % dims.width};
  }
  EVENFLOW_HD Eight operator()(const Cursor& at, int64_t k) const {
    if (at.pixel < 0) return zeros();
    return read_patch(dims, patch_part(dims, k), x, stride, at.pixel, at.row, at.column);
  }
};

/// (patch index, pixel).
struct PatchColumns {
  static constexpr bool along_k = false;
  using Cursor = PatchPart;
  PatchDims dims;
  const Bf16* x;
  int64_t stride;
  int64_t pixels;

  EVENFLOW_HD Cursor start(int64_t m) const { return patch_part(dims, m); }
  EVENFLOW_HD Eight operator()(const Cursor& part, int64_t pixel) const {
    if (pixel >= pixels) return zeros();
    const int32_t at = static_cast<int32_t>(pixel % (int64_t{dims.height} * dims.width));
    return read_patch(dims, part, x, stride, pixel, at / dims.width, at % dims.width);
  }
};

/// (k, n) of a matrix whose columns are filled up.
struct MatrixRows {
  static constexpr bool along_k = false;
  using Cursor = int64_t;
  const Bf16* x;
  int64_t stride;
  int64_t rows;
  int64_t columns;  ///< a multiple of eight

  EVENFLOW_HD Cursor start(int64_t n) const { return n < columns ? n : -1; }
  EVENFLOW_HD Eight operator()(Cursor n, int64_t k) const {
    return n < 0 || k >= rows ? zeros() : eight_at(x + k * stride + n);
  }
};

/// ((tap, output), input channel) of packed weights: what a gradient is multiplied with on its way down.
struct WeightColumns {
  static constexpr bool along_k = true;
  using Cursor = int64_t;
  const Bf16* w;  ///< PackWeights
  int32_t taps;
  int32_t channels;  ///< filled up, as outputs are
  int32_t outputs;

  EVENFLOW_HD Cursor start(int64_t n) const { return n < channels ? n : -1; }
  EVENFLOW_HD Eight operator()(Cursor n, int64_t k) const {
    if (n < 0 || k >= int64_t{taps} * outputs) return zeros();
    const int32_t at = static_cast<int32_t>(k), tap = at / outputs;
    return eight_at(w + (int64_t{tap} * channels + n) * outputs + at % outputs);
  }
};

/// Sums of a (m, k) * b (k, n), a tile of 128 x tile_n a block, handed to
///   store(split, m, n, sums of eight columns, own)  for rows and columns inside
/// Units multiplies, once for 32 threads; see EmulatedUnits in the tests for what it has to do. A store with
/// column sums (Store::sums) adds to own[sums][eight]; those of a tile go to store.partial
/// (tiles_m, sums, n).
template <class Units, int tile_n, class A, class B, class Store>
struct MatrixProduct {
  static constexpr int threads = kThreads;
  static constexpr int kTileM = 128, kTileN = tile_n, kDepth = 32, kStep = 16;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kWarpsN = tile_n >= 128 ? 4 : tile_n >= 32 ? 2 : 1, kWarpsM = kWarps / kWarpsN;
  static constexpr int kOwnM = kTileM / kWarpsM / 16, kOwnN = kTileN / kWarpsN / 8;
  static_assert(kOwnM * 16 * kWarpsM == kTileM && kOwnN * 8 * kWarpsN == kTileN && kOwnN % 2 == 0);

  /// Rows of eight numbers more than are used: columns of a tile lie in different banks.
  template <class Operand, int size>
  struct Tile {
    static constexpr int rows = Operand::along_k ? size : kDepth;
    static constexpr int columns = Operand::along_k ? kDepth : size;
    static constexpr int stride = columns + kEight;
    static constexpr int eights = rows * columns / kEight;
    static constexpr int own = (eights + kThreads - 1) / kThreads;  ///< eights of a thread
    Bf16 value[rows * stride];

    /// Where the e-th eight lies: index along m or n, and k.
    EVENFLOW_HD static int index(int e) {
      return Operand::along_k ? e / (kDepth / kEight) : e % (size / kEight) * kEight;
    }
    EVENFLOW_HD static int depth(int e) {
      return Operand::along_k ? e % (kDepth / kEight) * kEight : e / (size / kEight);
    }
    EVENFLOW_HD Bf16* at(int i, int k) {
      return value + (Operand::along_k ? i * stride + k : k * stride + i);
    }
    EVENFLOW_HD const Bf16* at(int i, int k) const {
      return value + (Operand::along_k ? i * stride + k : k * stride + i);
    }
  };
  using TileA = Tile<A, kTileM>;
  using TileB = Tile<B, kTileN>;

  static constexpr int kHalf = kTileM / 2;  ///< rows that are stored at a time
  static constexpr int kOut = kTileN + 4;
  static constexpr int kLanes = kThreads / (kTileN / kEight);  ///< threads with the same eight columns
  static constexpr int kSums = Store::sums ? Store::sums : 1;

  struct Registers {
    float sum[kOwnM][kOwnN][4];
    typename A::Cursor at_a[TileA::own];
    typename B::Cursor at_b[TileB::own];
    Eight next_a[TileA::own];
    Eight next_b[TileB::own];
    float own[kSums][kEight];
  };
  struct Operands {
    TileA a;
    TileB b;
  };
  union alignas(16) Shared {
    Operands operands[2];
    float out[kHalf][kOut];
    float own[kSums][kLanes][kTileN];
  };

  int64_t m;
  int64_t n;
  int64_t k;
  int64_t chunk;  ///< k of a split, a multiple of kDepth
  A a;
  B b;
  Store store;

  EVENFLOW_HD int64_t tiles_m() const { return (m + kTileM - 1) / kTileM; }
  EVENFLOW_HD int64_t tiles_n() const { return (n + kTileN - 1) / kTileN; }
  EVENFLOW_HD int64_t splits() const { return (k + chunk - 1) / chunk; }
  EVENFLOW_HD int64_t blocks() const { return splits() * tiles_m() * tiles_n(); }

  /// Step s multiplies one half of the operands' memory while the next step's numbers come, and puts those
  /// into the other half. Then twice half a tile is laid out and stored; then sums of columns.
  EVENFLOW_HD int64_t phases(int64_t block) const { return 1 + steps(block) + 4 + (Store::sums ? 2 : 0); }
  EVENFLOW_HD void run(int64_t phase, const Place& at, Registers& own, Shared& shared) const {
    const int64_t tile = at.block % (tiles_m() * tiles_n()), split = at.block / (tiles_m() * tiles_n());
    const int64_t m0 = tile / tiles_n() * kTileM, n0 = tile % tiles_n() * kTileN, k0 = split * chunk;
    const int64_t count = steps(at.block), after = phase - 1 - count;
    if (phase == 0) {
      start(at.thread, m0, n0, own);
      fetch(at.thread, k0, own);
      put(at.thread, own, shared.operands[0]);
    } else if (after < 0) {
      const bool more = phase < count;
      if (more) fetch(at.thread, k0 + phase * kDepth, own);
      multiply(at.thread, shared.operands[(phase - 1) % 2], own);
      if (more) put(at.thread, own, shared.operands[phase % 2]);
    } else if (after < 4) {
      const int half = static_cast<int>(after / 2);
      if (after % 2 == 0) {
        lay_out(at.thread, half, own, shared);
      } else {
        store_half(at.thread, half, split, m0, n0, own, shared);
      }
    } else if constexpr (Store::sums > 0) {
      if (after == 4) {
        put_sums(at.thread, own, shared);
      } else {
        add_sums(at.thread, tile / tiles_n(), n0, shared);
      }
    }
  }

 private:
  EVENFLOW_HD int64_t steps(int64_t block) const {
    const int64_t begin = block / (tiles_m() * tiles_n()) * chunk;
    return (ops::min_of(k, begin + chunk) - begin + kDepth - 1) / kDepth;
  }
  EVENFLOW_HD void start(int thread, int64_t m0, int64_t n0, Registers& own) const {
    for (int i = 0; i < kOwnM; ++i) {
      for (int j = 0; j < kOwnN; ++j) {
        for (int e = 0; e < 4; ++e) own.sum[i][j][e] = 0;
      }
    }
    for (int s = 0; s < kSums; ++s) {
      for (int e = 0; e < kEight; ++e) own.own[s][e] = 0;
    }
    for (int i = 0; i < TileA::own; ++i) own.at_a[i] = a.start(m0 + TileA::index(thread + i * kThreads));
    for (int i = 0; i < TileB::own; ++i) own.at_b[i] = b.start(n0 + TileB::index(thread + i * kThreads));
  }
  EVENFLOW_HD void fetch(int thread, int64_t k0, Registers& own) const {
    for (int i = 0; i < TileA::own; ++i) {
      const int e = thread + i * kThreads;
      if (e < TileA::eights) own.next_a[i] = a(own.at_a[i], k0 + TileA::depth(e));
    }
    for (int i = 0; i < TileB::own; ++i) {
      const int e = thread + i * kThreads;
      if (e < TileB::eights) own.next_b[i] = b(own.at_b[i], k0 + TileB::depth(e));
    }
  }
  EVENFLOW_HD static void put(int thread, const Registers& own, Operands& to) {
    for (int i = 0; i < TileA::own; ++i) {
      const int e = thread + i * kThreads;
      if (e < TileA::eights) put_eight(own.next_a[i], to.a.at(TileA::index(e), TileA::depth(e)));
    }
    for (int i = 0; i < TileB::own; ++i) {
      const int e = thread + i * kThreads;
      if (e < TileB::eights) put_eight(own.next_b[i], to.b.at(TileB::index(e), TileB::depth(e)));
    }
  }
  EVENFLOW_HD static void put_eight(const Eight& from, Bf16* to) { *reinterpret_cast<Eight*>(to) = from; }

  EVENFLOW_HD static int first_row(int thread) { return thread / 32 / kWarpsN * kOwnM * 16; }
  EVENFLOW_HD static int first_column(int thread) { return thread / 32 % kWarpsN * kOwnN * 8; }

  EVENFLOW_HD static void multiply(int thread, const Operands& from, Registers& own) {
    for (int d = 0; d < kDepth; d += kStep) {
      Units::template multiply<A::along_k, B::along_k>(thread % 32, from.a.at(first_row(thread), d),
                                                       TileA::stride, from.b.at(first_column(thread), d),
                                                       TileB::stride, own.sum);
    }
  }
  EVENFLOW_HD static void lay_out(int thread, int half, const Registers& own, Shared& shared) {
    const int row = first_row(thread) - half * kHalf, column = first_column(thread);
    if (row < 0 || row >= kHalf) return;
    for (int i = 0; i < kOwnM; ++i) {
      for (int j = 0; j < kOwnN; ++j) {
        for (int e = 0; e < 4; ++e) {
          shared.out[row + 16 * i + Units::row(thread % 32, e)]
                    [column + 8 * j + Units::column(thread % 32, e)] = own.sum[i][j][e];
        }
      }
    }
  }
  EVENFLOW_HD void store_half(int thread, int half, int64_t split, int64_t m0, int64_t n0, Registers& own,
                              const Shared& shared) const {
    const int column = thread % (kTileN / kEight) * kEight;
    if (n0 + column >= n) return;
    for (int row = thread / (kTileN / kEight); row < kHalf; row += kLanes) {
      const int64_t to_m = m0 + half * kHalf + row;
      if (to_m < m) store(split, to_m, n0 + column, &shared.out[row][column], own.own);
    }
  }
  EVENFLOW_HD static void put_sums(int thread, const Registers& own, Shared& shared) {
    const int lane = thread / (kTileN / kEight), column = thread % (kTileN / kEight) * kEight;
    for (int s = 0; s < kSums; ++s) {
      for (int e = 0; e < kEight; ++e) shared.own[s][lane][column + e] = own.own[s][e];
    }
  }
  EVENFLOW_HD void add_sums(int thread, int64_t tile, int64_t n0, const Shared& shared) const {
    for (int i = thread; i < kSums * kTileN; i += kThreads) {
      const int s = i / kTileN, column = i % kTileN;
      if (n0 + column >= n) continue;
      double total = 0;
      for (int lane = 0; lane < kLanes; ++lane) total += static_cast<double>(shared.own[s][lane][column]);
      store.partial[(tile * kSums + s) * n + n0 + column] = total;
    }
  }
};

// What becomes of sums. n counts columns without those that fill up; eights are stored whole, with zeros.

/// y = act((sum + bias) * scale).
struct StoreHidden {
  static constexpr int sums = 0;
  Bf16* y;
  int64_t stride;
  int64_t n;
  const float* bias;
  const float* scale;
  bool relu;
  EVENFLOW_HD void operator()(int64_t, int64_t row, int64_t column, const float* sum,
                              float (*)[kEight]) const {
    Eight out;
    for (int e = 0; e < kEight; ++e) {
      float v = 0;
      if (column + e < n) {
        v = sum[e];
        if (bias) v += bias[column + e];
        if (scale) v *= scale[column + e];
        if (relu && v < 0) v = 0;
      }
      out.v[e] = to_bf16(v);
    }
    *reinterpret_cast<Eight*>(y + row * stride + column) = out;
  }
};

/// The gradient of a hidden unit's bare convolution from that of its output y, as ops::HiddenBackward.
struct StoreHiddenGradient {
  static constexpr int sums = 2;  ///< of the gradients of bias and log scale
  const Bf16* y;
  int64_t y_stride;
  Bf16* da;
  int64_t da_stride;
  int64_t n;
  const float* scale;
  bool relu;
  double* partial;
  EVENFLOW_HD void operator()(int64_t, int64_t row, int64_t column, const float* sum,
                              float (*own)[kEight]) const {
    const Eight out = eight_at(y + row * y_stride + column);
    Eight through;
    for (int e = 0; e < kEight; ++e) {
      float g = 0, v = 0;
      if (column + e < n) {
        const float at = to_float(out.v[e]);
        g = relu && !(at > 0) ? 0 : sum[e];
        v = scale ? g * scale[column + e] : g;
        own[0][e] += v;
        own[1][e] += g * at;
      }
      through.v[e] = to_bf16(v);
    }
    *reinterpret_cast<Eight*>(da + row * da_stride + column) = through;
  }
};

/// partial (splits, m, width).
struct StoreParts {
  static constexpr int sums = 0;
  float* partial;
  int64_t m;
  int64_t width;  ///< a multiple of eight
  EVENFLOW_HD void operator()(int64_t split, int64_t row, int64_t column, const float* sum,
                              float (*)[kEight]) const {
    float* to = partial + (split * m + row) * width + column;
    for (int e = 0; e < kEight; ++e) to[e] = sum[e];
  }
};

/// Parts of all splits, one after another.
struct Parts {
  int64_t splits;
  int64_t m;
  int64_t width;
  const float* partial;
  EVENFLOW_HD float total(int64_t row, int64_t column) const {
    float total = 0;
    for (int64_t s = 0; s < splits; ++s) total += partial[(s * m + row) * width + column];
    return total;
  }
};

/// y = act((sum + bias) * scale), or y += sum.
struct FinishRows {
  Parts parts;
  const float* bias;
  const float* scale;
  bool relu;
  bool add;
  float* y;
  int64_t stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    float v = parts.total(row, c);
    if (bias) v += bias[c];
    if (scale) v *= scale[c];
    if (relu && v < 0) v = 0;
    float* to = y + row * stride + c;
    *to = add ? *to + v : v;
  }
};

/// dw (taps, rows, cout) += sums by patch index.
struct FinishWeights {
  Parts parts;
  PatchDims dims;
  int64_t cin;
  int64_t cout;
  float* dw;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const int64_t rows = cin + (dims.edge ? 1 : 0), tap = row / rows, channel = row % rows;
    const int64_t at = channel == cin ? dims.inner() + tap : tap * dims.channels + channel;
    dw[row * cout + c] += parts.total(at, c);
  }
};

/// Numbers as bfloat16, rows filled up with zeros to `width`.
struct PackRows {
  const float* x;
  int64_t x_stride;
  int64_t columns;
  int64_t width;
  Bf16* out;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    out[row * width + c] = to_bf16(c < columns ? x[row * x_stride + c] : 0);
  }
};

/// Weights (taps, cin + edge, cout) by patch index, (dims.size(), width).
struct PackWeights {
  const float* w;
  PatchDims dims;
  int64_t cin;
  int64_t cout;
  int64_t width;
  Bf16* out;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const bool edge = row >= dims.inner();
    const int64_t tap = edge ? row - dims.inner() : row / dims.channels;
    const int64_t channel = edge ? cin : row % dims.channels;
    const bool inside = tap < dims.taps() && (edge || channel < cin) && c < cout;
    const int64_t rows = cin + (dims.edge ? 1 : 0);
    out[row * width + c] = to_bf16(inside ? w[(tap * rows + channel) * cout + c] : 0);
  }
};

}  // namespace evenflow::device
