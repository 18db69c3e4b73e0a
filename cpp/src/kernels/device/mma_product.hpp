#pragma once

#include <type_traits>

#include "kernels/device/body.hpp"
#include "kernels/device/grid.hpp"
#include "kernels/device/mma_operands.hpp"
#include "kernels/net/kernels.hpp"

// Convolutions and dense layers on the matrix units of a device: one tiled product of bfloat16 numbers with
// float32 sums. A float32 number is split into three, x = a + b + c, with eight bits of the significand each.
// Six of the nine products of two such sums are computed; the other three amount to at most 2^-23 of the
// product. A split into two computes three of four products and loses at most 2^-15.

namespace evenflow::device {

/// Computes a (m, k) * b (k, n), one tile of 128 x tile_n per block.
///
///   for each step of k                      32 (bfloat16) or 16 (float32)
///     fetch                                 the next step: global memory to registers
///     multiply                              this step: shared memory to sums in registers, by warps
///     put                                   the next step: registers to shared memory, split into parts
///   for each half of the tile
///     lay_out, store_rows                   sums to shared memory, then eight columns of a row per thread
///
/// A thread calls store(split, m, n, sums of eight columns, store.columns(n), own) for rows and columns
/// inside the matrix. A store with column sums (Store::sums) accumulates them in own[sums][eight]. Those of a
/// tile go to store.partial (tiles_m, sums, n). Mma multiplies with 32 threads; EmulatedUnits in the tests
/// states what it must do.
template <class Mma, int tile_n, class A, class B, class Store>
struct MmaProduct : ProductGrid<128, tile_n> {
  using Grid = ProductGrid<128, tile_n>;
  using Number = typename A::Number;
  static_assert(std::is_same<Number, typename B::Number>::value, "operands are of one type");
  static constexpr int threads = kThreads;
  static constexpr int kParts = std::is_same<Number, Bf16>::value ? 1 : 3;  ///< at most
  static constexpr int kTileM = 128, kTileN = tile_n, kDepth = kParts == 1 ? 32 : 16, kStep = 16;
  static constexpr int kBuffers = kParts == 1 ? 2 : 1;  ///< copies of the operands in shared memory
  /// float32 keeps three sums: leading products over kTogether steps, all other products, and leading
  /// products of earlier steps. A matrix unit truncates after each addition, in proportion to its sum and
  /// always towards zero, so sums of leading products are kept short.
  static constexpr int kSets = kParts == 1 ? 1 : 3, kTogether = 8;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kWarpsN = tile_n >= 128 ? 4 : tile_n >= 32 ? 2 : 1, kWarpsM = kWarps / kWarpsN;
  static constexpr int kOwnM = kTileM / kWarpsM / 16, kOwnN = kTileN / kWarpsN / 8;
  static_assert(kOwnM * 16 * kWarpsM == kTileM && kOwnN * 8 * kWarpsN == kTileN && kOwnN % 2 == 0);

  /// Rows are padded by eight numbers, so that columns of a tile fall into different banks.
  template <class Operand, int size>
  struct SharedTile {
    static constexpr int rows = Operand::along_k ? size : kDepth;
    static constexpr int columns = Operand::along_k ? kDepth : size;
    static constexpr int stride = columns + kEight;
    static constexpr int eights = rows * columns / kEight;
    static constexpr int own = (eights + kThreads - 1) / kThreads;  ///< eights per thread
    static constexpr int size_of_part = rows * stride;
    Bf16 value[kParts * size_of_part];

    /// Position of the e-th eight: its index along m or n, and its k.
    EVENFLOW_INLINE static int index(int e) {
      return Operand::along_k ? e / (kDepth / kEight) : e % (size / kEight) * kEight;
    }
    EVENFLOW_INLINE static int depth(int e) {
      return Operand::along_k ? e % (kDepth / kEight) * kEight : e / (size / kEight);
    }
    EVENFLOW_INLINE static int place(int i, int k) {
      return Operand::along_k ? i * stride + k : k * stride + i;
    }
    EVENFLOW_INLINE void put(int e, const Eight<Bf16>& from, int) { put_part(e, 0, from); }
    EVENFLOW_INLINE void put(int e, const Eight<float>& from, int count) {
      float rest[kEight];
      for (int i = 0; i < kEight; ++i) rest[i] = from.get(i);
      for (int p = 0; p < kParts; ++p) {
        if (p == count) return;
        Eight<Bf16> part = zeros<Bf16>();
        for (int i = 0; i < kEight; ++i) {
          part.set(i, rest[i]);
          rest[i] -= part.get(i);
        }
        put_part(e, p, part);
      }
    }
    EVENFLOW_INLINE const Bf16* at(int i, int k, int part) const {
      return value + part * size_of_part + place(i, k);
    }

   private:
    EVENFLOW_INLINE void put_part(int e, int part, const Eight<Bf16>& from) {
      put_eight(from, value + part * size_of_part + place(index(e), depth(e)));
    }
  };
  using TileA = SharedTile<A, kTileM>;
  using TileB = SharedTile<B, kTileN>;

  static constexpr int kStoredRows = kTileM / 2;  ///< rows stored at a time
  static constexpr int kOut = kTileN + 4;
  static constexpr int kLanes = kThreads / (kTileN / kEight);  ///< threads that store the same eight columns
  static constexpr int kSums = Store::sums ? Store::sums : 1;

  struct Registers {
    float sum[kSets][kOwnM][kOwnN][4];
    typename A::Cursor at_a[TileA::own];
    typename B::Cursor at_b[TileB::own];
    Eight<Number> next_a[TileA::own];
    Eight<Number> next_b[TileB::own];
    float own[kSums][kEight];
  };
  struct Operands {
    TileA a;
    TileB b;
  };
  union alignas(16) Shared {
    Operands operands[kBuffers];
    float out[kStoredRows][kOut];
    float own[kSums][kLanes][kTileN];
  };

  A a;
  B b;
  Store store;
  int32_t parts;  ///< of a float32 number: two or three

  // Stages (body.hpp). While a step multiplies from one buffer, the numbers of the next step arrive. They go
  // to the other buffer or, if there is only one, to the same one after a barrier. Then each half of the tile
  // is laid out and stored, and finally the column sums.
  static constexpr int kInner = kBuffers == 2 ? 1 : 2, kEnds = 4 + (Store::sums ? 2 : 0);
  EVENFLOW_INLINE int steps(int64_t block) const {
    return static_cast<int>(Grid::template steps<kDepth>(block));
  }
  EVENFLOW_INLINE void begin(const Place& at, Registers& own, Shared& shared) const {
    start(at.thread, Grid::first_m(at.block), Grid::first_n(at.block), Grid::begin(at.block), own);
    fetch(at.thread, own);
    put(at.thread, own, shared.operands[0]);
  }
  template <int inner>
  EVENFLOW_INLINE void step(int number, int count, const Place& at, Registers& own, Shared& shared) const {
    const bool more = number + 1 < count;
    if constexpr (inner == 0) {
      if (more) fetch(at.thread, own);
      multiply(at.thread, shared.operands[number % kBuffers], own);
      if (kSets > 1 && (number + 1) % kTogether == 0) gather(own);
    }
    if (more && inner + 1 == kInner) put(at.thread, own, shared.operands[(number + 1) % kBuffers]);
  }
  template <int which>
  EVENFLOW_INLINE void end(const Place& at, Registers& own, Shared& shared) const {
    const int64_t m0 = Grid::first_m(at.block), n0 = Grid::first_n(at.block);
    if constexpr (which == 0) {
      for (int s = 0; s < kSums; ++s) {
        for (int e = 0; e < kEight; ++e) own.own[s][e] = 0;
      }
    }
    if constexpr (which < 4) {
      if constexpr (which % 2 == 0) {
        lay_out(at.thread, which / 2, own, shared);
      } else {
        store_rows(at.thread, which / 2, Grid::split(at.block), m0, n0, own, shared);
      }
    } else if constexpr (which == 4) {
      put_sums(at.thread, own, shared);
    } else {
      add_sums(at.thread, m0 / kTileM, n0, shared);
    }
  }

  EVENFLOW_INLINE int64_t phases(int64_t block) const { return staged_phases(*this, block); }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Registers& own, Shared& shared) const {
    run_staged(*this, phase, at, own, shared);
  }

 private:
  EVENFLOW_INLINE void start(int thread, int64_t m0, int64_t n0, int64_t k0, Registers& own) const {
    for (int set = 0; set < kSets; ++set) {
      for (int i = 0; i < kOwnM; ++i) {
        for (int j = 0; j < kOwnN; ++j) {
          for (int e = 0; e < 4; ++e) own.sum[set][i][j][e] = 0;
        }
      }
    }
    for (int i = 0; i < TileA::own; ++i) {
      const int e = thread + i * kThreads;
      own.at_a[i] = a.start(m0 + TileA::index(e), k0 + TileA::depth(e));
    }
    for (int i = 0; i < TileB::own; ++i) {
      const int e = thread + i * kThreads;
      own.at_b[i] = b.start(n0 + TileB::index(e), k0 + TileB::depth(e));
    }
  }
  EVENFLOW_INLINE void fetch(int thread, Registers& own) const {
    for (int i = 0; i < TileA::own; ++i) {
      if (thread + i * kThreads < TileA::eights) own.next_a[i] = a.template next<kDepth>(own.at_a[i]);
    }
    for (int i = 0; i < TileB::own; ++i) {
      if (thread + i * kThreads < TileB::eights) own.next_b[i] = b.template next<kDepth>(own.at_b[i]);
    }
  }
  EVENFLOW_INLINE void put(int thread, const Registers& own, Operands& to) const {
    for (int i = 0; i < TileA::own; ++i) {
      const int e = thread + i * kThreads;
      if (e < TileA::eights) to.a.put(e, own.next_a[i], parts);
    }
    for (int i = 0; i < TileB::own; ++i) {
      const int e = thread + i * kThreads;
      if (e < TileB::eights) to.b.put(e, own.next_b[i], parts);
    }
  }

  EVENFLOW_INLINE static int first_row(int thread) { return thread / 32 / kWarpsN * kOwnM * 16; }
  EVENFLOW_INLINE static int first_column(int thread) { return thread / 32 % kWarpsN * kOwnN * 8; }

  EVENFLOW_INLINE void multiply(int thread, const Operands& from, Registers& own) const {
    for (int d = 0; d < kDepth; d += kStep) {
      multiply_parts<0, 0>(thread, d, from, own.sum[0]);
      if constexpr (kParts == 3) {
        multiply_parts<0, 1>(thread, d, from, own.sum[1]);
        multiply_parts<1, 0>(thread, d, from, own.sum[1]);
        if (parts < kParts) continue;
        multiply_parts<1, 1>(thread, d, from, own.sum[1]);
        multiply_parts<0, 2>(thread, d, from, own.sum[1]);
        multiply_parts<2, 0>(thread, d, from, own.sum[1]);
      }
    }
  }
  template <int part_a, int part_b>
  EVENFLOW_INLINE static void multiply_parts(int thread, int d, const Operands& from,
                                             float (&sum)[kOwnM][kOwnN][4]) {
    Mma::template multiply<A::along_k, B::along_k>(thread % 32, from.a.at(first_row(thread), d, part_a),
                                                   TileA::stride, from.b.at(first_column(thread), d, part_b),
                                                   TileB::stride, sum);
  }
  EVENFLOW_INLINE static void gather(Registers& own) {
    for (int i = 0; i < kOwnM; ++i) {
      for (int j = 0; j < kOwnN; ++j) {
        for (int e = 0; e < 4; ++e) {
          own.sum[kSets - 1][i][j][e] += own.sum[0][i][j][e];
          own.sum[0][i][j][e] = 0;
        }
      }
    }
  }
  EVENFLOW_INLINE static float total(const Registers& own, int i, int j, int e) {
    float total = own.sum[kSets - 1][i][j][e];
    for (int set = 0; set + 1 < kSets; ++set) total += own.sum[set][i][j][e];
    return total;
  }
  EVENFLOW_INLINE static void lay_out(int thread, int tile_half, const Registers& own, Shared& shared) {
    const int row = first_row(thread) - tile_half * kStoredRows, column = first_column(thread);
    if (row < 0 || row >= kStoredRows) return;
    for (int i = 0; i < kOwnM; ++i) {
      for (int j = 0; j < kOwnN; ++j) {
        for (int e = 0; e < 4; ++e) {
          shared.out[row + 16 * i + Mma::row(thread % 32, e)][column + 8 * j + Mma::column(thread % 32, e)] =
              total(own, i, j, e);
        }
      }
    }
  }
  EVENFLOW_INLINE void store_rows(int thread, int tile_half, int64_t split, int64_t m0, int64_t n0,
                                  Registers& own, const Shared& shared) const {
    const int column = thread % (kTileN / kEight) * kEight;
    if (n0 + column >= Grid::n) return;
    const typename Store::Columns of = store.columns(n0 + column);
    for (int row = thread / (kTileN / kEight); row < kStoredRows; row += kLanes) {
      const int64_t to_m = m0 + tile_half * kStoredRows + row;
      if (to_m >= Grid::m) continue;
      float sums[kEight];
      for (int e = 0; e < kEight; e += 4) ops::put(ops::read<4>(&shared.out[row][column + e]), sums + e);
      store(split, to_m, n0 + column, sums, of, own.own);
    }
  }
  EVENFLOW_INLINE static void put_sums(int thread, const Registers& own, Shared& shared) {
    const int lane = thread / (kTileN / kEight), column = thread % (kTileN / kEight) * kEight;
    for (int s = 0; s < kSums; ++s) {
      for (int e = 0; e < kEight; ++e) shared.own[s][lane][column + e] = own.own[s][e];
    }
  }
  EVENFLOW_INLINE void add_sums(int thread, int64_t tile, int64_t n0, const Shared& shared) const {
    for (int i = thread; i < kSums * kTileN; i += kThreads) {
      const int s = i / kTileN, column = i % kTileN;
      if (n0 + column >= Grid::n) continue;
      double total = 0;
      for (int lane = 0; lane < kLanes; ++lane) total += static_cast<double>(shared.own[s][lane][column]);
      store.partial[(tile * kSums + s) * Grid::n + n0 + column] = total;
    }
  }
};

}  // namespace evenflow::device
