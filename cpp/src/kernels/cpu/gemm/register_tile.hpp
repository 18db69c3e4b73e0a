#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/bf16.hpp"
#include "kernels/cpu/gemm/prefetch.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/ops/math.hpp"

// The register tile of all matrix products and the microkernel that computes it.
//
//   for each step p of the depth             k: inputs of a layer, or pixels in a weight gradient
//     load B[p, 0 .. V)                      V vectors of outputs, from the panel (L1 or L2)
//     for each row i                         R pixels, or R inputs in a weight gradient
//       broadcast A[i, p]                    from the strip (L1 or L2)
//       sum[i][0 .. V) += A[i, p] * B[p, .]  R x V vectors of sums, in registers
//
// Words used in this folder: a register tile is R x V vectors of C. A strip is the R rows of A that it needs,
// a panel its V vectors of columns of B. A cache block is a few strips that stay in cache while panels stream
// past.

namespace evenflow::gemm {

template <class Isa, class T>
struct RegisterTile {
  static constexpr int rows = Isa::rows;
  /// Height of the second tile, for remaining rows: 64 and 512 rows divide into tiles of 14 and one of 8.
  static constexpr int low_rows = Isa::matrix ? Isa::rows / 2 : Isa::rows / 2 + 1;
  static constexpr int lanes = Isa::vector_bytes / static_cast<int>(sizeof(T));
  static constexpr int cols = 2 * lanes;
  typedef T Value __attribute__((vector_size(Isa::vector_bytes)));
  typedef T Vector __attribute__((vector_size(Isa::vector_bytes), aligned(sizeof(T)), may_alias));

  /// Tile of weight gradients. Their operands may be channel-blocked, but only in float32.
  static constexpr bool blocked = Isa::blocked && std::is_same<T, float>::value;
  static constexpr int gradient_rows = blocked ? Isa::gradient_rows : rows,
                       gradient_vectors = blocked ? Isa::gradient_vectors : 2,
                       gradient_cols = gradient_vectors * lanes;

  /// Whether all strips have `rows` rows or one. float64 is the reference, so its products may be slow, but
  /// their code must be small.
  static constexpr bool few_heights = std::is_same<T, double>::value;
  /// Height of the tile that serves `count` <= rows rows.
  static constexpr int height_for(int64_t count) {
    return count > (few_heights ? 1 : low_rows) ? rows : count > 1 || Isa::matrix ? low_rows : 1;
  }
  /// The same for weight gradients, where A is transposed. Layers with two outputs are common there.
  static constexpr int height_for_columns(int64_t count) {
    return count == 2 && !Isa::matrix && !few_heights ? 2 : height_for(count);
  }
};

/// Integer vectors: 32-bit words in `bytes`, and 16-bit numbers in half of that.
template <int bytes>
struct IntegerLanes {
  typedef uint32_t Words __attribute__((vector_size(bytes)));
  typedef uint16_t Bf16Bits __attribute__((vector_size(bytes / 2)));
};

/// Rounds to the nearest bfloat16. Specialised where the CPU has an instruction.
template <class Isa>
struct Rounding {
  template <class X>
  EVENFLOW_INLINE static typename IntegerLanes<sizeof(X)>::Bf16Bits to_bits(X value) {
    using Words = typename IntegerLanes<sizeof(X)>::Words;
    const Words w = (Words)value;
    const Words nan = (Words)(value != value);
    const Words rounded = (nan & ((w >> 16) | 0x40u)) | (~nan & ((w + 0x7fffu + ((w >> 16) & 1u)) >> 16));
    return __builtin_convertvector(rounded, typename IntegerLanes<sizeof(X)>::Bf16Bits);
  }
  EVENFLOW_INLINE static Bf16 bf16(float value) { return to_bf16(value); }
  /// Widens 16-bit numbers to words, into their lower halves.
  template <class Words, class Bf16Bits>
  EVENFLOW_INLINE static Words words(Bf16Bits bits) {
    return __builtin_convertvector(bits, Words);
  }
};

/// Loads and stores a vector X, or a single number, and converts between float32 and bfloat16.
template <class Isa, class X>
struct LoadStore {
  template <class T>
  EVENFLOW_INLINE static X load(const T* p) {
    X value;
    memcpy(&value, p, sizeof value);
    return value;
  }
  template <class T>
  EVENFLOW_INLINE static void store(X value, T* p) {
    memcpy(p, &value, sizeof value);
  }
  EVENFLOW_INLINE static X load(const Bf16* p) { return (X)(words(p) << 16); }
  EVENFLOW_INLINE static void store(X value, Bf16* p) {
    const Bf16Bits bits = Rounding<Isa>::to_bits(value);
    memcpy(p, &bits, sizeof bits);
  }
  /// Rounds to the nearest bfloat16 and stays in float32.
  EVENFLOW_INLINE static X round(X value) { return (X)(words(value) << 16); }
  /// Packs two bfloat16 vectors into one vector of words: `low` in the lower halves, `high` in the upper
  /// halves.
  template <class S>
  EVENFLOW_INLINE static X pair(const S* low, const S* high) {
    return (X)(words(operand(low)) | words(operand(high)) << 16);
  }
  /// Packs the upper halves of low and high in the same way and leaves the remainders in low and high.
  EVENFLOW_INLINE static X take_pair(X& low, X& high) {
    const Words l = (Words)low, h = (Words)high & kUpper;
    low -= (X)(l & kUpper);
    high -= (X)h;
    return (X)(l >> 16 | h);
  }
  /// Subtracts the upper half, as take_pair does, from one vector.
  EVENFLOW_INLINE static void take(X& x) { x -= (X)((Words)x & kUpper); }

 private:
  static constexpr uint32_t kUpper = 0xffff0000u;
  using Words = typename IntegerLanes<sizeof(X)>::Words;
  using Bf16Bits = typename IntegerLanes<sizeof(X)>::Bf16Bits;

  EVENFLOW_INLINE static Words words(X value) {
    return Rounding<Isa>::template words<Words>(Rounding<Isa>::to_bits(value));
  }
  EVENFLOW_INLINE static Words words(const Bf16* p) {
    Bf16Bits bits;
    memcpy(&bits, p, sizeof bits);
    return Rounding<Isa>::template words<Words>(bits);
  }
  EVENFLOW_INLINE static const Bf16* operand(const Bf16* p) { return p; }
  EVENFLOW_INLINE static X operand(const float* p) { return load(p); }
};

template <class Isa>
struct LoadStore<Isa, float> {
  EVENFLOW_INLINE static float load(const float* p) { return *p; }
  EVENFLOW_INLINE static float load(const Bf16* p) { return to_float(*p); }
  EVENFLOW_INLINE static void store(float value, float* p) { *p = value; }
  EVENFLOW_INLINE static void store(float value, Bf16* p) { *p = Rounding<Isa>::bf16(value); }
  EVENFLOW_INLINE static float round(float value) { return to_float(Rounding<Isa>::bf16(value)); }
  template <class S>
  EVENFLOW_INLINE static float pair(const S* low, const S* high) {
    const uint32_t bits = Rounding<Isa>::bf16(load(low)).bits;
    return ops::bits_to_float(
        static_cast<int32_t>(bits | static_cast<uint32_t>(Rounding<Isa>::bf16(load(high)).bits) << 16));
  }
  EVENFLOW_INLINE static void take(float& x) { x -= number(bits(x) & 0xffff0000u); }
  EVENFLOW_INLINE static float take_pair(float& low, float& high) {
    const uint32_t l = bits(low), h = bits(high) & 0xffff0000u;
    low -= number(l & 0xffff0000u);
    high -= number(h);
    return number(l >> 16 | h);
  }

 private:
  EVENFLOW_INLINE static uint32_t bits(float x) { return static_cast<uint32_t>(ops::float_to_bits(x)); }
  EVENFLOW_INLINE static float number(uint32_t bits) {
    return ops::bits_to_float(static_cast<int32_t>(bits));
  }
};

template <class Isa>
struct LoadStore<Isa, double> {
  EVENFLOW_INLINE static double load(const double* p) { return *p; }
  EVENFLOW_INLINE static void store(double value, double* p) { *p = value; }
};

/// Whether a bfloat16 product takes two steps of k at once. Its operands are then 32-bit words held as T.
/// Each word contains two numbers that are adjacent along k.
template <class Isa, bool bf16>
constexpr bool by_pairs = bf16 && Isa::pair_dot;

/// Whether float32 operands are split into bfloat16 parts: x = a + b + c, with eight bits of the significand
/// each. Of the nine products of two such sums, b c, c b and c c are left out. They amount to 2^-24 of the
/// product on average and to at most 2^-21. A split strip or panel stores its parts stride / parts elements
/// apart.
template <class Isa>
constexpr bool split = (Isa::parts > 1);

/// sum + left . right, for words of two bfloat16 numbers. Specialised where the CPU has an instruction.
template <class Isa>
struct PairDot;

/// Rounds a number of steps up to a multiple of what one instruction adds up. Operands are zero-padded.
template <class Isa>
constexpr int64_t whole_steps(int64_t steps) {
  constexpr int64_t once = Isa::matrix ? RegisterTile<Isa, float>::lanes : 1;
  return (steps + once - 1) / once * once;
}

/// A matrix unit, which multiplies small matrices of bfloat16 pairs. Specialisations provide Session, which a
/// thread holds during its products, and multiply(steps, a, b, tall, wide, sums). The latter computes sums
/// (rows, 2 lanes) = A B over `steps` words of each part, only half of the rows unless `tall`, and only one
/// vector of columns unless `wide`.
template <class Isa>
struct MatrixUnit {
  struct Session {};
};

/// A row-major or channel-blocked matrix. Element (m, n) is at data + m * stride + n + n / line * block_gap,
/// where `line` elements fill a cache line.
///
///   row-major (block_gap = 0):   row 0: n = 0 1 2 3 ...   row 1: n = 0 1 2 3 ...
///   channel-blocked:             line 0 of row 0, row 1, ...; then line 1 of row 0, row 1, ...
///
/// In a channel-blocked matrix `stride` equals `line`. What a tile writes, and what a weight gradient reads,
/// is then contiguous and needs no copy.
template <class C>
struct Strided {
  C* data = nullptr;
  int64_t stride = 0, block_gap = 0;
  static constexpr int64_t line = 64 / sizeof(C);

  EVENFLOW_INLINE operator Strided<const C>() const {
    static_assert(!std::is_const<C>::value, "already const");
    return {data, stride, block_gap};
  }
  /// The matrix that starts at row m. A negative m serves a matrix whose first rows are not stored.
  EVENFLOW_INLINE Strided from_row(int64_t m) const { return {data + m * stride, stride, block_gap}; }
  template <class Isa>
  EVENFLOW_INLINE C* at(int64_t m, int64_t n) const {
    C* const row = data + m * stride + n;
    return Isa::blocked ? row + static_cast<int64_t>(static_cast<uint64_t>(n) / line) * block_gap : row;
  }
};

/// Input of a microkernel.
template <class T>
using Operand = Strided<const T>;

/// sum[i][j] = sum over p < k of A[i, p] B[p, j], or of A[p, i] B[p, j] if `columns`. The caller owns sum;
/// this function clears it first. Channel-blocked operands start at the first column of a block.
template <class Isa, class T, int R, int V, bool columns, bool pairs>
inline __attribute__((always_inline)) void accumulate(int64_t k, Operand<T> operand_a, Operand<T> operand_b,
                                                      PrefetchQueue& queue,
                                                      typename RegisterTile<Isa, T>::Vector (&sum)[R][V]) {
  using S = RegisterTile<Isa, T>;
  using Vector = typename S::Vector;
  constexpr int64_t kAhead = 16;                                              // rows of B
  constexpr int kLine = Isa::vector_bytes < 64 ? 64 / Isa::vector_bytes : 1;  // vectors per cache line
  // A channel-blocked A has a gap after each line. Short vectors take longer runs, to spend less time between
  // runs.
  constexpr int64_t kRun = Isa::vector_bytes < 64 ? 64 : S::lanes;
  const T *a = operand_a.data, *b = operand_b.data;
  const int64_t lda = operand_a.stride, ldb = operand_b.stride;
  // Distance between two vectors of B, and the gap at the end of a run of A.
  const int64_t next = S::lanes + (S::blocked && columns ? operand_b.block_gap : 0);
  const int64_t block_gap = S::blocked && !columns ? operand_a.block_gap : 0;
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) sum[i][j] = Vector{};
  }
  // Three pointers cover the rows of A, because an address can hold a base plus 1, 2 or 4 times lda.
  const T* a5 = a + 5 * lda;
  const T* a10 = a + 10 * lda;
  const T* a_ahead = a + 2 * (S::lanes + block_gap);
  // Prefetches are issued between runs of steps: a CPU that issues four instructions a cycle has no slot for
  // them within a run.
  constexpr bool tall = R > S::low_rows, wide = V > 2;
  const int64_t run = R > 1 || block_gap != 0 ? kRun : k;
  PrefetchRows *next_rows = queue.list, *last = next_rows + queue.count;
  int at_once = 1;
  for (const int64_t rows = queue.rows(); at_once * k < rows * run;) at_once *= 2;
  for (int64_t p = 0; p < k;) {
#pragma GCC unroll 1
    for (int i = at_once; next_rows < last;) {
      next_rows->prefetch();
      if (next_rows->rows == 0) ++next_rows;
      if (--i == 0) break;
    }
    for (const int64_t end = ops::min_of(p + run, k); p < end; ++p) {
      // Prefetch rows of A two cache lines ahead. A short tile has no time for it.
      if (tall && !columns) {
        __builtin_prefetch(a_ahead);
        a_ahead += lda;
      }
      if (R > 1 && columns) {
        __builtin_prefetch(a + 8 * lda);
        if (V > 1 && !wide) __builtin_prefetch(a + 8 * lda + R - 1);
      }
      if (tall || wide || (R > 1 && !columns)) {
#pragma GCC unroll 8
        for (int j = 0; j < V; j += kLine) __builtin_prefetch(b + kAhead * ldb + j * next);
      }
      alignas(Isa::vector_bytes) Vector right[V];
#pragma GCC unroll 8
      for (int j = 0; j < V; ++j) right[j] = *reinterpret_cast<const Vector*>(b + j * next);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        const T left = columns ? a[i] : i < 5 ? a[i * lda] : i < 10 ? a5[(i - 5) * lda] : a10[(i - 10) * lda];
#pragma GCC unroll 8
        for (int j = 0; j < V; ++j) {
          if constexpr (pairs) {
            sum[i][j] = PairDot<Isa>::add(sum[i][j], left, right[j]);
          } else {
            sum[i][j] += left * right[j];
          }
        }
      }
      a += columns ? lda : 1;
      ++a5;
      ++a10;
      b += ldb;
    }
    a += block_gap;
    a5 += block_gap;
    a10 += block_gap;
    a_ahead += run + block_gap - run * lda;
  }
}

/// One register tile: rows [m0, m0 + rows) and columns [n0, n0 + cols) of C, summed over k. output_far: the
/// output is not in cache, so prefetch it. ahead: other memory to prefetch meanwhile.
template <class T>
struct MicrokernelArgs {
  int64_t k = 0;
  Operand<T> a, b;
  int64_t m0 = 0, rows = 0, n0 = 0, cols = 0;
  bool output_far = false;
  PrefetchRows ahead = {};
};

/// Hands a partly filled tile to `finish`. sums (rows, V * lanes). Remaining columns go in halves and
/// quarters of a vector, then one by one. noinline avoids a copy in every microkernel.
template <class Isa, class T, int V, class Finish>
__attribute__((noinline)) void finish_partial_tile(const T* sums, int64_t m0, int64_t rows, int64_t n0,
                                                   int64_t cols, const Finish& finish) {
  using S = RegisterTile<Isa, T>;
  int64_t j = 0;
  const auto by = [&](auto zero) {
    using X = decltype(zero);
    constexpr int64_t count = sizeof(X) / sizeof(T);
    for (; j + count <= cols; j += count) {
      finish.template columns<Isa, 0, X>(static_cast<int>(rows), m0, n0 + j, [&](int i) -> X {
        return LoadStore<Isa, X>::load(sums + i * V * S::lanes + j);
      });
    }
  };
  by(typename S::Value());
  if constexpr (Isa::vector_bytes == 64 && !Isa::pair_dot) {
    typedef T HalfVector __attribute__((vector_size(Isa::vector_bytes / 2)));
    typedef T QuarterVector __attribute__((vector_size(Isa::vector_bytes / 4)));
    by(HalfVector());
    by(QuarterVector());
  }
  by(T());
}

/// Computes one register tile of R >= rows and V * lanes >= cols and hands it to `finish` vector by vector,
/// while the sums are in registers.
template <class Isa, class T, int R, int V, bool columns, bool pairs, class Finish>
void microkernel(const MicrokernelArgs<T>& args, const Finish& finish) {
  using S = RegisterTile<Isa, T>;
  alignas(Isa::vector_bytes) typename S::Vector sum[R][V];
  PrefetchQueue queue;
  if (args.output_far) finish.template queue_prefetch<Isa>(args.m0, args.n0, args.rows, queue);
  queue.add(args.ahead);
  accumulate<Isa, T, R, V, columns, pairs>(args.k, args.a, args.b, queue, sum);
  if (args.rows == R && args.cols == V * S::lanes) {
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j) {
      finish.template columns<Isa, R, typename S::Value>(R, args.m0, args.n0 + j * S::lanes,
                                                         [&](int i) __attribute__((always_inline)) ->
                                                         typename S::Value { return sum[i][j]; });
    }
    return;
  }
  // Copy the sums, so that the array `sum` itself can stay in registers.
  alignas(Isa::vector_bytes) T spilled[R * V * S::lanes];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < V; ++j)
      *reinterpret_cast<typename S::Vector*>(spilled + (i * V + j) * S::lanes) = sum[i][j];
  }
  finish_partial_tile<Isa, T, V>(spilled, args.m0, args.rows, args.n0, args.cols, finish);
}

/// Chooses the height and width of the tile and runs the microkernel.
template <class Isa, class T, bool columns, bool pairs, class Finish>
void run_microkernel(const MicrokernelArgs<T>& args, const Finish& finish) {
  using S = RegisterTile<Isa, T>;
  const int height = columns ? S::height_for_columns(args.rows) : S::height_for(args.rows);
  const auto run = [&](auto vectors) {
    constexpr int V = decltype(vectors)::value;
    constexpr int low = S::few_heights ? S::rows : S::low_rows, two = columns && !S::few_heights ? 2 : 1;
    if (height == S::rows)
      microkernel<Isa, T, S::rows, V, columns, pairs>(args, finish);
    else if (height > 2)
      microkernel<Isa, T, low, V, columns, pairs>(args, finish);
    else if (height == 2)
      microkernel<Isa, T, two, V, columns, pairs>(args, finish);
    else
      microkernel<Isa, T, 1, V, columns, pairs>(args, finish);
  };
  if constexpr (columns && S::gradient_vectors > 2) {
    if (args.cols > S::cols) {
      return microkernel<Isa, T, S::gradient_rows, S::gradient_vectors, columns, pairs>(args, finish);
    }
  }
  if (args.cols > S::lanes)
    run(std::integral_constant<int, 2>());
  else
    run(std::integral_constant<int, 1>());
}

/// Computes the tiles of a product one after another.
template <class Isa, class T, bool columns, bool pairs, class Finish, bool matrix = Isa::matrix>
struct TileMultiplier {
  EVENFLOW_INLINE void multiply(const MicrokernelArgs<T>& args, const Finish& finish) {
    run_microkernel<Isa, T, columns, pairs>(args, finish);
  }
  EVENFLOW_INLINE void end() {}
};

/// Computes the tiles on a matrix unit. `finish` for a tile runs piece by piece during the next tile, so that
/// the vector units work while the matrix unit does; end() finishes the last tile.
template <class Isa, class T, bool columns, bool pairs, class Finish>
class TileMultiplier<Isa, T, columns, pairs, Finish, true> {
 public:
  static_assert(pairs && !columns, "matrices hold pairs of steps of a row");

  void multiply(const MicrokernelArgs<T>& args, const Finish& finish) {
    // Prefetch to L2, because L1 holds b. A few rows per step suffice, except for split operands: a step is
    // then six products.
    PrefetchRows ahead = args.ahead;
    if (args.rows == S::rows && args.cols == S::cols) {
      int piece = 0;
      int64_t steps = 0;
      const int64_t at_once = split<Isa> ? ahead.rows : (ahead.rows * S::lanes + args.k - 1) / args.k;
      MatrixUnit<Isa>::multiply(args.k, args.a, args.b, sums_[1 - last_], [&](int64_t step) {
        ahead.take(at_once).template prefetch_all<2>();
        for (steps += kPieces * step; steps >= args.k; steps -= args.k, ++piece) {
          if (args.output_far)
            prefetch_output(finish, args.m0 + piece * (S::rows / kPieces), args.n0, S::rows / kPieces);
          if (waiting_) this->finish(piece);
        }
      });
      last_ = 1 - last_;
      waiting_ = true;
      finish_ = finish;
      m0_ = args.m0;
      n0_ = args.n0;
      return;
    }
    end();
    T* const sums = sums_[0];
    ahead.template prefetch_all<2>();
    if (args.output_far) prefetch_output(finish, args.m0, args.n0, args.rows);
    MatrixUnit<Isa>::multiply(args.k, args.a, args.b, args.rows > S::low_rows, args.cols > S::lanes, sums);
    finish_partial_tile<Isa, T, 2>(sums, args.m0, args.rows, args.n0, args.cols, finish);
  }

  void end() {
    for (int piece = 0; waiting_ && piece < kPieces; ++piece) finish(piece);
    waiting_ = false;
  }

 private:
  using S = RegisterTile<Isa, T>;
  using Value = typename S::Value;
  static constexpr int kPieces = 8, kRows = 2 * S::rows / kPieces;  ///< each one vector wide

  EVENFLOW_INLINE static void prefetch_output(const Finish& finish, int64_t m0, int64_t n0, int64_t rows) {
    PrefetchNow queue;
    finish.template queue_prefetch<Isa>(m0, n0, rows, queue);
  }
  EVENFLOW_INLINE void finish(int piece) const {
    const int j = piece / (kPieces / 2) * S::lanes, first = piece % (kPieces / 2) * kRows;
    const T* sums = sums_[last_] + first * S::cols + j;
    finish_.template columns<Isa, kRows, Value>(kRows, m0_ + first, n0_ + j, [&](int i) -> Value {
      return *reinterpret_cast<const Value*>(sums + i * S::cols);
    });
  }

  alignas(Isa::vector_bytes) T sums_[2][S::rows * S::cols];
  int last_ = 0;
  bool waiting_ = false;  ///< whether sums_[last_] is a whole tile that waits for finish_
  Finish finish_;
  int64_t m0_ = 0, n0_ = 0;
};

/// Calls f(row) for R rows, or for `rows` rows if R is 0. f must be always_inline, as must what it calls: if
/// it is inlined late, GCC writes the sums to memory and reads them back.
template <int R, class F>
EVENFLOW_INLINE void each_row(int rows, const F& f) {
  if constexpr (R > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) f(i);
  } else {
#pragma GCC unroll 1
    for (int i = 0; i < rows; ++i) f(i);
  }
}

// A finish step consumes a tile. columns<Isa, R, X>(rows, m0, n, value) receives rows value(0) ... value(rows
// - 1) of output (m0 + i, n), where X is a vector of adjacent columns, or a single number. queue_prefetch
// adds the memory that the step reads and writes.

/// c += sums, or c = sums with overwrite.
template <class T>
struct AddTo {
  static constexpr bool has_sums = false;
  static constexpr T kZeros[16] = {};
  T* c;
  int64_t ldc;
  bool overwrite = false;
  EVENFLOW_INLINE const AddTo& for_block(int64_t) const { return *this; }
  template <class Isa, class Queue>
  EVENFLOW_INLINE void queue_prefetch(int64_t m0, int64_t n0, int64_t rows, Queue& queue) const {
    queue.add(PrefetchRows::to_write(c + m0 * ldc + n0, ldc, rows));
  }
  template <class Isa, int R, class X, class Value>
  EVENFLOW_INLINE void columns(int rows, int64_t m0, int64_t n, const Value& value) const {
    using L = LoadStore<Isa, X>;
    T* out = c + m0 * ldc + n;
    // Adding zeros needs no second loop and no branch.
    const T* before = overwrite ? kZeros : out;
    const int64_t stride = ldc, step = overwrite ? 0 : ldc;
    each_row<R>(rows, [&](int i) __attribute__((always_inline)) {
      L::store(L::load(before + i * step) + value(i), out + i * stride);
    });
  }
};

/// c = act((sums + bias) * scale).
template <class T, class C>
struct ActivateTo {
  static constexpr bool has_sums = false;
  static constexpr T kZeros[16] = {}, kOnes[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  Strided<C> c;
  const T* bias = nullptr;
  const T* scale = nullptr;
  bool relu = false;
  EVENFLOW_INLINE const ActivateTo& for_block(int64_t) const { return *this; }
  template <class Isa, class Queue>
  EVENFLOW_INLINE void queue_prefetch(int64_t m0, int64_t n0, int64_t rows, Queue& queue) const {
    queue.add(PrefetchRows::to_write(c.template at<Isa>(m0, n0), c.stride, rows, c.block_gap));
  }
  template <class Isa, int R, class X, class Value>
  EVENFLOW_INLINE void columns(int rows, int64_t m0, int64_t n, const Value& value) const {
    using L = LoadStore<Isa, X>;
    // One multiply-add and one maximum per vector, without a branch.
    const X factor = L::load(offset_or(scale, n, kOnes));
    const X shift = L::load(offset_or(bias, n, kZeros)) * factor;
    const X least = X{} + (relu ? T(0) : -std::numeric_limits<T>::infinity());
    C* out = c.template at<Isa>(m0, n);
    const int64_t stride = c.stride;
    each_row<R>(rows, [&](int i) __attribute__((always_inline)) {
      const X v = value(i) * factor + shift;
      L::store(v < least ? least : v, out + i * stride);
    });
  }
};

/// Gradient of y = act((a + bias) * scale): takes dy from the sums and stores c = da. Adds the column sums of
/// da and of dy * y (after the ReLU mask) to sums (blocks, 2, width). One thread accumulates each block.
template <class T, class C>
struct ActivateBackwardTo {
  static constexpr bool has_sums = true;  ///< column sums, which one thread adds up
  Strided<C> c;
  Strided<const C> y;
  const T* scale;
  bool relu;
  T* sums;
  int64_t width;
  EVENFLOW_INLINE ActivateBackwardTo for_block(int64_t block) const {
    ActivateBackwardTo f = *this;
    f.sums += block * 2 * width;
    return f;
  }
  template <class Isa, class Queue>
  EVENFLOW_INLINE void queue_prefetch(int64_t m0, int64_t n0, int64_t rows, Queue& queue) const {
    queue.add(PrefetchRows::of(y.template at<Isa>(m0, n0), y.stride, rows, y.block_gap));
    queue.add(PrefetchRows::to_write(c.template at<Isa>(m0, n0), c.stride, rows, c.block_gap));
  }
  template <class Isa, int R, class X, class Value>
  EVENFLOW_INLINE void columns(int rows, int64_t m0, int64_t n, const Value& value) const {
    using L = LoadStore<Isa, X>;
    const X zero = X{};
    const X s = scale ? L::load(scale + n) : zero + T(1);
    const C* act = y.template at<Isa>(m0, n);
    C* out = c.template at<Isa>(m0, n);
    const int64_t act_stride = y.stride, out_stride = c.stride;
    X total = zero, dots = zero;
    each_row<R>(rows, [&](int i) __attribute__((always_inline)) {
      const X a = L::load(act + i * act_stride);
      X g = value(i);
      if (relu) g = a > zero ? g : zero;
      const X da = g * s;
      L::store(da, out + i * out_stride);
      total += da;
      dots += g * a;
    });
    L::store(L::load(sums + n) + total, sums + n);
    L::store(L::load(sums + width + n) + dots, sums + width + n);
  }
};

}  // namespace evenflow::gemm
