#pragma once

#include "core/work_queue.hpp"
#include "evenflow/context.hpp"
#include "kernels/cpu/gemm/few_rows.hpp"
#include "kernels/cpu/gemm/row_strips.hpp"
#include "kernels/cpu/gemm/rows.hpp"

// Matrix products C (m, n) = A (m, k) B (k, n), where m are pixels, n outputs and k inputs.
//
//   for each cache block of C                m: about 8 strips; threads take them from a work queue
//     for each panel of B                    n: 2 vectors of outputs, packed once, streams from L2
//       for each strip of the block          m: 14 rows with AVX-512, read in place, stays in L1 or L2
//         microkernel                        k: the whole depth; sums of one register tile in registers
//         finish                             bias, scale, ReLU, before the sums leave the registers
//
//                     n
//              +---+=====+---+
//              |   |  B  |   |  k           ===  panel          (k, 2 vectors)
//        k     +---+=====+---+
//     +-----+  +---+-----+---+
//     |     |  |   |     |   |
//     +=====+  |   +#####+   |  m           ###  register tile  (14 rows, 2 vectors)
//     |  A  |  |   |  C  |   |
//     +=====+  |   +#####+   |              ===  strip          (14 rows, k)
//     +-----+  +---+-----+---+
//
// A small A is a single block, and threads divide the panels. On a matrix unit the roles of the caches swap:
// the panel stays in L1 and strips stream past it. Every element of C is one sum over the whole depth, so
// results depend neither on blocks nor on threads nor on the batch size.

namespace evenflow::gemm {

constexpr int64_t kParallelProducts = int64_t{1} << 22;  ///< below, waking a thread costs more than it saves
constexpr int64_t kParallelWeights = 1 << 15;            ///< so many take two threads half the time to read
constexpr int64_t kBlockStrips = 8;
constexpr int64_t kBlockMultiple = 16;   ///< divides the number of blocks, to balance a few threads
constexpr int64_t kKeptBytes = 1 << 20;  ///< an A up to this size stays in L2 without blocks
constexpr int64_t kDepthBlock = 256;     ///< target depth of one block in a weight gradient
constexpr int64_t kCopiedReads = 8;      ///< fewest reads of a strip that pay for copying it
constexpr int64_t kLeftBytes = 1 << 18;  ///< bytes of the left operand that stay in L2 in a weight gradient
constexpr int64_t kNearBytes = 1 << 17;  ///< an output up to this size is probably still in cache
constexpr int64_t kEveryStrip = std::numeric_limits<int64_t>::max();  ///< strips per block: there is one

/// For a product of m rows with weights (k, n), or for the gradient of such weights.
EVENFLOW_INLINE int threads_for_product(Context& ctx, int64_t m, int64_t n, int64_t k) {
  return m * n * k < kParallelProducts && n * k < kParallelWeights ? 1 : ctx.threads();
}

/// Divides the rows of a product into cache blocks of whole strips, independently of the number of threads.
template <class Isa, class T>
struct CacheBlocks {
  RowStrips strips;
  int64_t count;
  CacheBlocks(int64_t m, int64_t k) : strips(RowStrips::of<Isa, T>(m)) {
    const int64_t groups = (strips.count() + kBlockStrips - 1) / kBlockStrips;
    count = m * k * static_cast<int64_t>(sizeof(T)) <= kKeptBytes
                ? 1
                : (groups + kBlockMultiple - 1) / kBlockMultiple * kBlockMultiple;
  }
  int64_t largest() const { return (strips.count() + count - 1) / count; }  ///< strips in the largest block
  int64_t first_strip(int64_t block) const { return strips.count() * block / count; }
};

/// Divides the depth of a weight gradient (its k pixels) into blocks that are whole strips of the other
/// products. A remainder below half a block joins the block before it, since a short sum has the same
/// overhead as a long one.
struct DepthBlocks {
  int64_t size, largest;
  template <class Isa, class T>
  static DepthBlocks of(int64_t k, bool pairs) {
    constexpr int64_t once = kDepthBlock / RegisterTile<Isa, T>::rows * RegisterTile<Isa, T>::rows;
    const int64_t size = pairs && !split<Isa> ? 2 * once : once, largest = size + size / 2;
    return k < largest ? DepthBlocks{k, k} : DepthBlocks{size, largest};
  }
  /// End of `blocks` successive blocks that start at `begin`, at most `end`.
  EVENFLOW_INLINE int64_t next(int64_t begin, int64_t end, int64_t blocks = 1) const {
    return end - begin < (blocks - 1) * size + largest ? end : begin + blocks * size;
  }
};

/// Multiplies R rows of A, lda apart, by W packed columns. Each lane accumulates its share of k: sum[j * R +
/// i] is for row i and column j. Rows from `count` on repeat the last row.
template <class Isa, class T, int R, int W>
EVENFLOW_INLINE void sum_columns(int64_t k, const T* a, int64_t lda, int64_t count, Operand<T> columns,
                                 typename RegisterTile<Isa, T>::Vector* sum) {
  using Vector = typename RegisterTile<Isa, T>::Vector;
  constexpr int L = RegisterTile<Isa, T>::lanes;
  const T* rows[R];
  rows[0] = a;
#pragma GCC unroll 16
  for (int i = 1; i < R; ++i) rows[i] = rows[i - 1] + (i < count ? lda : 0);
#pragma GCC unroll 16
  for (int i = 0; i < R * W; ++i) sum[i] = Vector{};
  const int64_t whole = k / L * L;
  const auto add = [&](int64_t p, const auto& row) __attribute__((always_inline)) {
    Vector column[W];
#pragma GCC unroll 2
    for (int j = 0; j < W; ++j) {
      column[j] = *reinterpret_cast<const Vector*>(columns.data + j * columns.stride + p);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vector values = *reinterpret_cast<const Vector*>(row(i));
#pragma GCC unroll 2
      for (int j = 0; j < W; ++j) sum[j * R + i] += values * column[j];
    }
  };
  for (int64_t p = 0; p < whole; p += L) {
    add(p, [&](int i) __attribute__((always_inline)) { return rows[i] + p; });
  }
  if (whole == k) return;
  T rest[R * L] = {};
#pragma GCC unroll 1
  for (int i = 0; i < R; ++i)
    copy_run(rest + i * L, a + ops::min_of<int64_t>(i, count - 1) * lda + whole, k & (L - 1));
  add(whole, [&](int i) __attribute__((always_inline)) { return rest + i * L; });
}

/// Computes sums[j * sums_stride + i] for `count` <= lanes / W rows. Lanes are added pairwise, in the same
/// order for any count. sums must hold lanes / W rows. noinline avoids a copy in every product.
template <class Isa, class T, int W>
__attribute__((noinline)) void multiply_columns(int64_t k, const T* a, int64_t lda, int64_t count,
                                                Operand<T> columns, T* sums, int64_t sums_stride) {
  using S = RegisterTile<Isa, T>;
  constexpr int R = S::lanes / W;
  alignas(Isa::vector_bytes) typename S::Vector sum[S::lanes];
  if (count == 1) {
    sum_columns<Isa, T, 1, W>(k, a, lda, 1, columns, sum);
    for (int j = 0; j < W; ++j) sums[j * sums_stride] = Transpose<Isa, T>::add_up(sum[j]);
    return;
  }
  sum_columns<Isa, T, R, W>(k, a, lda, count, columns, sum);
  alignas(Isa::vector_bytes) const typename S::Vector total = Transpose<Isa, T>::add_up(sum);
  for (int j = 0; j < W; ++j) {
    memcpy(sums + j * sums_stride, reinterpret_cast<const T*>(&total) + j * R, R * sizeof(T));
  }
}

/// Multiplies a strip by one or two columns. Vectors run along k, since a vector of outputs would be nearly
/// empty.
template <class Isa, class T, class Finish>
void multiply_thin(int64_t k, Operand<T> a, Operand<T> columns, int64_t m0, int64_t rows, int64_t width,
                   const Finish& finish) {
  using S = RegisterTile<Isa, T>;
  constexpr int64_t L = S::lanes, size = (S::rows + L - 1) / L * L;
  alignas(Isa::vector_bytes) T sums[2 * size];
  const int64_t together = width == 2 ? L / 2 : L;
  for (int64_t i = 0; i < rows; i += together) {
    const int64_t count = ops::min_of(together, rows - i);
    const T* from = a.data + i * a.stride;
    if (width == 2) {
      multiply_columns<Isa, T, 2>(k, from, a.stride, count, columns, sums + i, size);
    } else {
      multiply_columns<Isa, T, 1>(k, from, a.stride, count, columns, sums + i, size);
    }
  }
  for (int64_t j = 0; j < width; ++j) {
    finish.template columns<Isa, 0, T>(static_cast<int>(rows), m0, j,
                                       [&](int i) { return sums[j * size + i]; });
  }
}

/// A strip of A, and the block whose column sums it adds to.
template <class T>
struct LeftStrip {
  Operand<T> operand;
  int64_t m0, rows, block;
};

/// Takes strips [first, end) of `rows`, of which every `per_block` share a block. buffer has a.strip_size()
/// elements for each. Returns the end of the strips.
template <class Isa, class T>
LeftStrip<T>* take_strips(const LeftRows<Isa, T>& a, const RowStrips& rows, int64_t first, int64_t end,
                          int64_t per_block, LeftStrip<T>* strips, T* buffer) {
  for (int64_t t = first, m0 = rows.row(first), next; t < end; ++t, ++strips, m0 = next) {
    next = rows.row(t + 1);
    const int height = RegisterTile<Isa, T>::height_for(next - m0);
    *strips = {a.strip(m0, next - m0, height, buffer), m0, next - m0, t / per_block};
    buffer += a.strip_size();
  }
  return strips;
}

/// Panels of B: all of them packed, or else each packed to `buffer` when it is needed, unless it can be read
/// in place.
template <class Isa, class T, bool bf16>
struct Panels {
  const WeightsB<Isa, T, bf16>& b;
  const T* packed;
  T* buffer = nullptr;
  Operand<T> operator[](int64_t p) const {
    if (packed) return b.panel_in(packed, p);
    if (b.in_place(p)) return b.panel_in_place(p);
    b.pack(buffer, p);
    return b.panel_at(buffer);
  }
};

/// Multiplies strips [begin, end) by panels [p_begin, p_end). `fetch`: the next panel is not in cache, so
/// prefetch it. output_far: see MicrokernelArgs.
template <class Isa, class T, bool bf16, class Finish>
void multiply_strips(const LeftStrip<T>* begin, const LeftStrip<T>* end, const Panels<Isa, T, bf16>& panels,
                     int64_t p_begin, int64_t p_end, const Finish& finish, bool output_far, bool fetch) {
  const WeightsB<Isa, T, bf16>& b = panels.b;
  if (p_begin == p_end) return;
  if (b.thin()) {
    const Operand<T> columns{panels[0].data, b.column_size()};
    for (const LeftStrip<T>* t = begin; t < end; ++t) {
      multiply_thin<Isa, T>(b.depth(), t->operand, columns, t->m0, t->rows, b.width(),
                            finish.for_block(t->block));
    }
    return;
  }
  TileMultiplier<Isa, T, false, by_pairs<Isa, bf16>, Finish> products;
  MicrokernelArgs<T> args;
  args.k = b.steps();
  args.output_far = output_far;
  for (int64_t p = p_begin; p < p_end; ++p) {
    args.b = panels[p];
    args.n0 = p * RegisterTile<Isa, T>::cols;
    args.cols = b.columns_of(p);
    PrefetchRows ahead = fetch && p + 1 < p_end ? b.ahead(p + 1) : PrefetchRows();
    const int64_t share = ahead.rows > 0 ? (ahead.rows + (end - begin) - 1) / (end - begin) : 0;
    for (const LeftStrip<T>* t = begin; t < end; ++t) {
      args.a = t->operand;
      args.m0 = t->m0;
      args.rows = t->rows;
      if (fetch) args.ahead = ahead.take(share);
      products.multiply(args, finish.for_block(t->block));
    }
  }
  products.end();
}

/// finish(row B) for a single row. Reads the weights in place, with enough sums side by side to keep the
/// multiply-add units busy; the last vectors may compute columns a second time. Returns false and does
/// nothing if the weights must be packed.
template <class Isa, class T, class Finish>
bool multiply_row(Context& ctx, const T* row, const WeightsB<Isa, T, false>& b, const Finish& finish) {
  constexpr int L = RegisterTile<Isa, T>::lanes, V = Isa::vector_bytes < 64 ? 8 : 4;
  const int64_t width = b.width();
  if (b.thin()) {
    WorkspaceScope scope(ctx);
    T* columns = scope.take<T>(width * b.column_size());
    b.pack(columns, 0);
    multiply_thin<Isa, T>(b.depth(), {row, 0}, {columns, b.column_size()}, 0, 1, width, finish);
    return true;
  }
  if (b.as != WeightsAs::rows || width < L || threads_for_product(ctx, 1, width, b.depth()) > 1) return false;
  int64_t n = 0;
  // The next columns, so many vectors at once. All V of them must be new; of two, one more than a vector.
  const auto vectors = [&](auto count) {
    constexpr int most = decltype(count)::value;
    if constexpr (most > 1) {
      if (width < most * L) return;
    }
    for (const int64_t enough = most > 2 ? most * L : (most - 1) * L + 1; width - n >= enough;) {
      const int64_t first = ops::min_of(n, width - most * L);
      microkernel<Isa, T, 1, most, false, false>(
          {b.depth(), {row, 0}, b.columns_in_place(first), 0, 1, first, most * L}, finish);
      n = first + most * L;
    }
  };
  vectors(std::integral_constant<int, V>());
  vectors(std::integral_constant<int, 2>());
  vectors(std::integral_constant<int, 1>());
  return true;
}

/// The same for split operands; bit-identical to the version for many rows.
template <class Isa, class Finish>
void multiply_row(Context& ctx, const float* row, const WeightsB<Isa, float, true>& b, const Finish& finish) {
  using Value = typename RegisterTile<Isa, float>::Value;
  constexpr int64_t L = RegisterTile<Isa, float>::lanes, N = 4 * L;
  const int64_t k = b.depth();
  WorkspaceScope scope(ctx);
  float* parts = scope.take<float>(Isa::parts * k);
  for (int64_t p = 0; p < k; ++p) {
    float rest = row[p];
    for (int q = 0; q < Isa::parts; ++q) {
      const float before = rest;
      LoadStore<Isa, float>::take(rest);
      parts[q * k + p] = before - rest;
    }
  }
  for (int64_t n = 0; n < b.width(); n += N) {
    alignas(Isa::vector_bytes) float sums[N];
    const int64_t count = ops::min_of(N, b.width() - n);
    MatrixUnit<Isa>::multiply_row(k, parts, b.data, b.outputs, n, count, sums);
    int64_t j = 0;
    for (; j + L <= count; j += L) {
      finish.template columns<Isa, 1, Value>(
          1, 0, n + j, [&](int) -> Value { return *reinterpret_cast<const Value*>(sums + j); });
    }
    for (; j < count; ++j) finish.template columns<Isa, 1, float>(1, 0, n + j, [&](int) { return sums[j]; });
  }
}

/// finish(A B) for at most one strip of rows and far weights. Returns false and does nothing in other cases.
template <class Isa, class T, class Finish>
bool multiply_few_rows(Context& ctx, int64_t m, const LeftRows<Isa, T>& a, const WeightsB<Isa, T, false>& b,
                       const Finish& finish) {
  using S = RegisterTile<Isa, T>;
  if (m > S::rows || b.as != WeightsAs::rows || b.width() < S::lanes || b.width() * b.depth() < kFarWeights) {
    return false;
  }
  const auto run = [&](auto height) {
    constexpr int R = decltype(height)::value;
    using Product = FewRows<Isa, T, R, Finish>;
    WorkspaceScope scope(ctx);
    const Product product(m, a.strip(0, m, R, scope.take<T>(a.strip_size())), b, finish);
    const int threads = threads_for_product(ctx, m, b.width(), b.depth());
    T* sums = scope.take<T>(threads * Product::scratch_size());
    run_team<Isa>(threads,
                  [&](const Team& team) { product.run(team, sums + team.rank * Product::scratch_size()); });
  };
  if (m > S::low_rows) {
    run(std::integral_constant<int, S::rows>());
  } else if (m > 1) {
    run(std::integral_constant<int, S::low_rows>());
  } else {
    run(std::integral_constant<int, 1>());
  }
  return true;
}

/// finish(A B) with A (m, depth) and B (depth, width).
template <class Isa, class T, bool bf16, class Finish>
void multiply(Context& ctx, int64_t m, const LeftRows<Isa, T>& a, const WeightsB<Isa, T, bf16>& b,
              const Finish& finish) {
  if constexpr (!bf16 && std::is_same<T, float>::value) {
    if (multiply_few_rows(ctx, m, a, b, finish)) return;
  }
  const int64_t k = b.depth(), panels = b.panels();
  const CacheBlocks<Isa, T> blocks(m, k);
  const int threads = threads_for_product(ctx, m, b.width(), k);
  const bool output_far = m * b.width() * static_cast<int64_t>(sizeof(T)) > kNearBytes;
  WorkspaceScope scope(ctx);
  const int64_t strips = blocks.largest(), a_size = strips * a.strip_size(), panel_size = b.panel_size();
  T* a_buffers = scope.take<T>(threads * a_size);
  LeftStrip<T>* left_strips = scope.take<LeftStrip<T>>(threads * strips);
  const bool divided = blocks.count == 1;  // threads divide the panels, and each packs its own
  const bool shared = !divided && !b.in_place();
  T* packed = shared ? scope.take<T>(b.packed_size()) : nullptr;
  T* buffers = divided ? scope.take<T>(threads * panel_size) : nullptr;
  const WorkQueue queue(scope.take<WorkQueue::Progress>(threads), threads);
  run_team<Isa>(threads, [&](const Team& team) {
    [[maybe_unused]] const typename MatrixUnit<Isa>::Session session;
    const Panels<Isa, T, bf16> source{b, packed, buffers + team.rank * panel_size};
    LeftStrip<T>* const begin = left_strips + team.rank * strips;
    const auto block = [&](int64_t i, int64_t p_begin, int64_t p_end) {
      const LeftStrip<T>* const end =
          take_strips(a, blocks.strips, blocks.first_strip(i), blocks.first_strip(i + 1), kEveryStrip, begin,
                      a_buffers + team.rank * a_size);
      multiply_strips(begin, end, source, p_begin, p_end, finish.for_block(i), output_far,
                      divided && !b.in_place());
    };
    if (divided) return block(0, team.begin(panels), team.end(panels));
    if (shared) {
      b.pack(team, packed);
      team.barrier();
    }
    queue.run(team, blocks.count, 1, [&](int64_t i, int64_t) { block(i, 0, panels); });
  });
}

/// Copies columns [first, end) of kc rows, for each part, to a buffer `width` columns wide, zero-padded.
/// noinline avoids two copies in every product.
template <class Isa, class T>
__attribute__((noinline)) void copy_columns(T* dst, int64_t width, int parts, Operand<T> src, int64_t first,
                                            int64_t end, int64_t kc) {
  const int64_t count = ops::min_of(width, end - first), part = src.stride / parts;
  for (int64_t p = 0; p < kc * parts; ++p) {
    copy_run(dst + p * width, src.data + p / parts * src.stride + p % parts * part + first, count);
    for (int64_t j = count; j < width; ++j) dst[p * width + j] = T(0);
  }
}

/// Copies columns [first, end) of kc rows to strips of `width` columns, strip_size apart; pads the last with
/// zeros.
template <class Isa, int width, class T>
void copy_strips(T* dst, int64_t strip_size, Operand<T> src, int64_t first, int64_t end, int64_t kc) {
  const int64_t whole = (end - first) / width;
  for (int64_t p = 0; p < kc; ++p) {
    const T* from = src.data + p * src.stride + first;
    T* to = dst + p * width;
    for (int64_t t = 0; t < whole; ++t) memcpy(to + t * strip_size, from + t * width, width * sizeof(T));
  }
  if (first + whole * width < end) {
    copy_columns<Isa>(dst + whole * strip_size, width, 1, src, first + whole * width, end, kc);
  }
}

/// Transposes columns [first, end) of kc rows into strips with rows `stride` apart, zero-padded beyond kc.
template <class Isa, class T>
void transpose_strips(T* dst, int64_t stride, Operand<T> src, int64_t first, int64_t end, int64_t kc) {
  constexpr int L = RegisterTile<Isa, T>::lanes, width = RegisterTile<Isa, T>::rows;
  for (int64_t p = 0; p < kc; p += L) {
    const int64_t count = ops::min_of<int64_t>(L, kc - p);
    const T* rows[L];
    for (int64_t m = first, t = 0; m < end; m += width, ++t) {
      for (int64_t i = 0; i < count; ++i) rows[i] = src.data + (p + i) * src.stride + m;
      pack_transposed<Isa, T>(dst + t * width * stride + p, stride, rows, count,
                              ops::min_of<int64_t>(width, end - m));
    }
  }
}

/// Transposes in the same way and splits each number.
template <class Isa>
void split_strips(float* dst, int64_t stride, Operand<float> src, int64_t first, int64_t end, int64_t k,
                  float* scratch) {
  constexpr int L = RegisterTile<Isa, float>::lanes, width = RegisterTile<Isa, float>::rows;
  const int64_t values = padded_stride(k, sizeof(float));
  for (int64_t m = first; m < end; m += width, dst += width * stride) {
    const int64_t count = ops::min_of<int64_t>(width, end - m);
    for (int64_t p = 0; p < k; p += L) {
      const float* rows[L];
      const int64_t run = ops::min_of<int64_t>(L, k - p);
      for (int64_t i = 0; i < run; ++i) rows[i] = src.data + (p + i) * src.stride + m;
      pack_transposed<Isa, float>(scratch + p, values, rows, run, count);
    }
    for (int64_t i = 0; i < count; ++i) {
      split_row<Isa>(reinterpret_cast<Bf16*>(dst + i * stride), 2 * (stride / Isa::parts),
                     scratch + i * values, k);
    }
  }
}

/// Weight gradients: c (m, n) += left^T right, a sum over k rows (pixels) of both, or c = with overwrite.
///
///   for each depth block                     k: about 256 pixels
///     for each chunk of strips               m: their left operands fit L2
///       for each panel                       n: stays in L1
///         for each strip of the chunk        m: 8 or 14 inputs, copied if rows are far apart
///           microkernel                      k: the depth block; sums in registers, then added to c
///
/// Threads divide the columns or the rows of c, so each element has one owner. A call may cover all rows, or
/// successive calls may cover runs of whole depth blocks. blocked: the operands may be channel-blocked.
template <class Isa, class T, class Left, class Right, bool blocked>
class TransposedProduct {
 public:
  TransposedProduct(int64_t k, const Left& left, int64_t m, const Right& right, int64_t n, T* c, int64_t ldc,
                    bool overwrite)
      : left_(left),
        right_(right),
        m_(m),
        n_(n),
        strips_((m + kRows - 1) / kRows),
        blocks_(DepthBlocks::of<Isa, T>(k, Left::pairs)),
        chunk_(ops::max_of<int64_t>(
            1, kLeftBytes / (kDepthBlock * Isa::parts * kRows * static_cast<int64_t>(sizeof(T))))),
        row_(Isa::parts *
             padded_stride(Left::pairs ? whole_steps<Isa>((blocks_.largest + 1) / 2) : blocks_.largest,
                           sizeof(T))),
        left_size_(split<Isa>              ? left.values_size(blocks_.largest)
                   : Left::packed_by_panel ? 0
                                           : left.block_size(blocks_.largest)),
        right_size_(Right::packed_by_panel ? 0 : right.block_size(blocks_.largest)),
        output_far_(m * n * static_cast<int64_t>(sizeof(T)) > kNearBytes),
        c_(c),
        ldc_(ldc),
        overwrite_(overwrite) {}

  /// Elements of scratch memory per thread.
  int64_t scratch_size() const {
    return left_size_ + right_size_ + row_ * kCols + values_size() +
           row_ * kRows * ops::min_of(chunk_, strips_) + kSlack;
  }

  void run(const Team& team, int64_t k_begin, int64_t k_end, T* scratch) const {
    T* left_buffer = scratch;
    T* right_buffer = left_buffer + left_size_;
    T* copied_panel = right_buffer + right_size_;
    T* values = copied_panel + row_ * kCols;
    T* copied_strips = values + values_size();
    const int64_t strip_size = row_ * kRows;
    TileMultiplier<Isa, T, !Isa::matrix, Left::pairs, AddTo<T>> products;
    // Divide the side that divides more evenly, or the longer one if both do.
    const auto idle = [&](int64_t count) {
      return ((count + team.size - 1) / team.size * team.size - count) / static_cast<double>(count);
    };
    const int64_t shares_of_n = (n_ + kShare - 1) / kShare;
    const double idle_n = idle(shares_of_n), idle_m = idle(strips_);
    const bool by_columns = idle_n < idle_m || (idle_n == idle_m && n_ > m_);
    const int64_t n_begin = by_columns ? team.begin(shares_of_n) * kShare : 0,
                  n_end = by_columns ? ops::min_of(n_, team.end(shares_of_n) * kShare) : n_;
    const int64_t t_begin = by_columns ? 0 : team.begin(strips_),
                  t_end = by_columns ? strips_ : team.end(strips_);
    const int64_t m_end = ops::min_of(m_, t_end * kRows), count = (n_end - n_begin + kCols - 1) / kCols;
    // Make panels of nearly one width, because a tile of one vector would wait for its loads.
    const int64_t vectors = (n_end - n_begin + S::lanes - 1) / S::lanes;
    const auto panel_at = [&](int64_t p) {
      return wide ? n_begin + vectors * p / count * S::lanes : n_begin + p * kCols;
    };
    for (int64_t k0 = k_begin, next; k0 < k_end; k0 = next) {
      next = blocks_.next(k0, k_end);
      const int64_t kc = next - k0;
      const int64_t steps = Left::pairs ? whole_steps<Isa>((kc + 1) / 2) : kc;
      Operand<T> a, b;
      if constexpr (split<Isa>) {
        a = left_.values(k0, kc, left_buffer);
      } else if constexpr (!Left::packed_by_panel) {
        a = left_.block(k0, kc, t_begin * kRows, m_end, left_buffer);
      }
      if constexpr (!Right::packed_by_panel) b = right_.block(k0, kc, n_begin, n_end, right_buffer);
      constexpr int64_t bytes = sizeof(T);
      const bool copy_left = Isa::matrix || (count >= kCopiedReads && Isa::copies(a.stride * bytes));
      // The last tile may be taller than the rows that may be read.
      const int64_t m_last = (strips_ - 1) * kRows;
      const bool copy_last =
          !copy_left && t_end == strips_ && m_last + height(m_ - m_last) > left_.readable();
      if (copy_last) copy_columns<Isa>(copied_strips, kRows, 1, a, m_last, m_, steps);
      const AddTo<T> finish{c_, ldc_, overwrite_ && k0 == 0};
      const int64_t chunks = (t_end - t_begin + chunk_ - 1) / chunk_, shares = chunks * count;
      for (int64_t i = 0; i < shares; ++i) {
        const int64_t p = i % count, t0 = t_begin + i / count * chunk_;
        const int64_t t1 = ops::min_of(t_end, t0 + chunk_);
        const int64_t n0 = panel_at(p), cols = ops::min_of(panel_at(p + 1), n_end) - n0;
        if (copy_left && p == 0) {
          const int64_t end = ops::min_of(m_, t1 * kRows);
          if constexpr (split<Isa>) {
            split_strips<Isa>(copied_strips, row_, a, t0 * kRows, end, kc, values);
          } else if constexpr (Left::packed_by_panel) {
            for (int64_t t = t0; t < t1; ++t) {
              const int64_t m0 = t * kRows, m1 = ops::min_of(end, m0 + kRows);
              transpose_strips<Isa>(copied_strips + (t - t0) * strip_size, row_,
                                    left_.panel(k0, kc, m0, m1, copied_panel), 0, m1 - m0, steps);
            }
          } else if constexpr (Isa::matrix) {
            transpose_strips<Isa>(copied_strips, row_, a, t0 * kRows, end, steps);
          } else {
            copy_strips<Isa, kRows>(copied_strips, strip_size, a, t0 * kRows, end, steps);
          }
        }
        Operand<T> panel;
        PrefetchRows next_panel;
        if constexpr (Right::packed_by_panel) {
          panel = right_.panel(k0, kc, n0, n0 + cols, copied_panel);
          if (p + 1 < count) next_panel = right_.ahead(k0, kc, panel_at(p + 1));
        } else if (n0 + (cols + S::lanes - 1) / S::lanes * S::lanes > right_.readable()) {
          copy_columns<Isa>(copied_panel, kCols, Isa::parts, b, n0, n_end, steps);
          panel = {copied_panel, Isa::parts * kCols};
        } else {
          panel = {b.template at<Isa>(0, n0), b.stride, b.block_gap};
        }
        const int64_t prefetched = Right::packed_by_panel ? (kc + t1 - t0 - 1) / (t1 - t0) : 0;  // per tile
        for (int64_t t = t0; t < t1; ++t) {
          const int64_t m0 = t * kRows;
          const Operand<T> strip =
              copy_left ? Operand<T>{copied_strips + (t - t0) * strip_size, Isa::matrix ? row_ : kRows}
              : copy_last && m0 == m_last ? Operand<T>{copied_strips, kRows}
                                          : Operand<T>{a.template at<Isa>(0, m0), a.stride};
          products.multiply({steps, strip, panel, m0, ops::min_of<int64_t>(kRows, m_ - m0), n0, cols,
                             output_far_, next_panel.take(prefetched)},
                            finish);
        }
      }
    }
    products.end();
  }

 private:
  using S = RegisterTile<Isa, T>;
  static constexpr int kRows = blocked ? S::gradient_rows : S::rows,
                       kCols = blocked ? S::gradient_cols : S::cols;
  /// Whether tiles are three vectors wide. Three seldom divide the columns evenly.
  static constexpr bool wide = kCols > S::cols;
  static constexpr int kShare = wide ? S::lanes : kCols;  ///< columns in the unit that threads divide

  /// Height of the tile that serves `count` rows.
  static constexpr int height(int64_t count) { return wide ? kRows : S::height_for_columns(count); }
  int64_t values_size() const { return split<Isa> ? kRows * padded_stride(blocks_.largest, sizeof(T)) : 0; }

  Left left_;
  Right right_;
  int64_t m_, n_, strips_;
  DepthBlocks blocks_;
  int64_t chunk_;  ///< strips whose left operands stay in L2
  int64_t row_;    ///< row length of a transposed strip or a copied panel
  int64_t left_size_, right_size_;
  bool output_far_;
  T* c_;
  int64_t ldc_;
  bool overwrite_;
};

}  // namespace evenflow::gemm
