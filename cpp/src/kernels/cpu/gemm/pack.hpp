#pragma once

#include <type_traits>
#include <utility>

#include "core/team.hpp"
#include "kernels/cpu/gemm/register_tile.hpp"
#include "kernels/net/kernels.hpp"

// Packs weights, the right operand of a product, into panels as wide as a register tile.

namespace evenflow::gemm {

template <class T>
EVENFLOW_INLINE Strided<T> strided_of(const View<T>& view) {
  return {view.data, view.stride};
}

/// Transposes lanes x lanes values in vectors by exchanging ever smaller blocks, or adds up each vector.
template <class Isa, class T>
struct Transpose {
  static constexpr int lanes = RegisterTile<Isa, T>::lanes;
  using Vector = typename RegisterTile<Isa, T>::Vector;
#if defined(__clang__)  // Clang lacks __builtin_shuffle, which takes indices as a vector
  template <int step, int... j>
  EVENFLOW_INLINE static void exchange_pair(Vector& low, Vector& high, std::integer_sequence<int, j...>) {
    const Vector a = low, b = high;
    low = __builtin_shufflevector(a, b, (j & step ? lanes + j - step : j)...);
    high = __builtin_shufflevector(a, b, (j & step ? lanes + j : j + step)...);
  }

  template <int step, int... j>
  EVENFLOW_INLINE static Vector fold_pair(const Vector& a, const Vector& b,
                                          std::integer_sequence<int, j...>) {
    return __builtin_shufflevector(a, b, (j & step ? lanes + j : j)...) +
           __builtin_shufflevector(a, b, (j & step ? lanes + j - step : j + step)...);
  }

  template <int step>
  EVENFLOW_INLINE static Vector fold(const Vector& a, const Vector& b) {
    return fold_pair<step>(a, b, std::make_integer_sequence<int, lanes>());
  }

  template <int step>
  EVENFLOW_INLINE static void exchange(Vector* v) {
    for (int i = 0; i < lanes; ++i) {
      if (!(i & step)) exchange_pair<step>(v[i], v[i + step], std::make_integer_sequence<int, lanes>());
    }
  }
#else
  typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type Index;
  typedef Index Lane __attribute__((vector_size(Isa::vector_bytes)));

  template <int step>
  EVENFLOW_INLINE static void exchange(Vector* v) {
    Lane low, high;
#pragma GCC unroll 16
    for (int j = 0; j < lanes; ++j) {
      low[j] = j & step ? lanes + j - step : j;
      high[j] = j & step ? lanes + j : j + step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i & step) continue;
      const Vector a = v[i], b = v[i + step];
      v[i] = __builtin_shuffle(a, b, low);
      v[i + step] = __builtin_shuffle(a, b, high);
    }
  }

  /// Lanes i with i & step: b[i] + b[i - step]. Other lanes: a[i] + a[i + step].
  template <int step>
  EVENFLOW_INLINE static Vector fold(const Vector& a, const Vector& b) {
    Lane own, other;
#pragma GCC unroll 16
    for (int j = 0; j < lanes; ++j) {
      own[j] = j & step ? lanes + j : j;
      other[j] = j & step ? lanes + j - step : j + step;
    }
    return __builtin_shuffle(a, b, own) + __builtin_shuffle(a, b, other);
  }
#endif

  EVENFLOW_INLINE static void run(Vector* v) {
    if constexpr (lanes > 8) exchange<8>(v);
    if constexpr (lanes > 4) exchange<4>(v);
    if constexpr (lanes > 2) exchange<2>(v);
    exchange<1>(v);
  }

  /// Lane i: the sum of v[i], added up by repeated halving. Overwrites v.
  EVENFLOW_INLINE static Vector add_up(Vector* v) {
    if constexpr (lanes > 8) fold_all<8>(v);
    if constexpr (lanes > 4) fold_all<4>(v);
    if constexpr (lanes > 2) fold_all<2>(v);
    return fold<1>(v[0], v[1]);
  }

  /// The sum of one vector in the same order. Taken by reference: GCC for ARM fails on parameters of such a
  /// type.
  EVENFLOW_INLINE static T add_up(const Vector& one) {
    Vector v = one;
    if constexpr (lanes > 8) v = fold<8>(v, v);
    if constexpr (lanes > 4) v = fold<4>(v, v);
    if constexpr (lanes > 2) v = fold<2>(v, v);
    return fold<1>(v, v)[0];
  }

 private:
  template <int step>
  EVENFLOW_INLINE static void fold_all(Vector* v) {
#pragma GCC unroll 8
    for (int i = 0; i < step; ++i) v[i] = fold<step>(v[i], v[i + step]);
  }
};

/// dst[p * stride + j] = columns[j][p] for j < count <= lanes and p < k; other lanes are zero.
template <class Isa, class T>
void pack_transposed(T* dst, int64_t stride, const T* const* columns, int64_t count, int64_t k) {
  using X = Transpose<Isa, T>;
  constexpr int64_t kShort = 2;
  for (int64_t p = 0; p < k; p += X::lanes) {
    alignas(Isa::vector_bytes) typename X::Vector v[X::lanes];
    const int64_t run = ops::min_of<int64_t>(X::lanes, k - p);
    if (run < X::lanes && run <= kShort) {  // as in layers of one or two outputs
      for (int64_t i = 0; i < run; ++i) {
        T* const row = dst + (p + i) * stride;
        for (int64_t j = 0; j < count; ++j) row[j] = columns[j][p + i];
        for (int64_t j = count; j < X::lanes; ++j) row[j] = T(0);
      }
      break;
    }
    if (run == X::lanes && count == X::lanes) {
#pragma GCC unroll 16
      for (int j = 0; j < X::lanes; ++j) {
        __builtin_prefetch(columns[j] + p + 4 * X::lanes);
        v[j] = *reinterpret_cast<const typename X::Vector*>(columns[j] + p);
      }
    } else {
      memset(v, 0, sizeof v);
      for (int64_t j = 0; j < count; ++j) copy_run(reinterpret_cast<T*>(&v[j]), columns[j] + p, run);
    }
    X::run(v);
    if (run == X::lanes) {
#pragma GCC unroll 16
      for (int i = 0; i < X::lanes; ++i)
        *reinterpret_cast<typename X::Vector*>(dst + (p + i) * stride) = v[i];
    } else {
      for (int64_t i = 0; i < run; ++i) {
        *reinterpret_cast<typename X::Vector*>(dst + (p + i) * stride) = v[i];
      }
    }
  }
}

/// Packs rows 2 p and 2 p + 1 of a panel src (k, tile columns) into row p of dst as bfloat16 pairs, or into
/// one row of dst per part. Pads to whole_steps rows with zeros. src may be the end of dst.
template <class Isa, class T>
void pair_rows(T* dst, const T* src, int64_t k) {
  using Value = typename RegisterTile<Isa, T>::Value;
  using X = LoadStore<Isa, Value>;
  constexpr int64_t n = RegisterTile<Isa, T>::cols, L = RegisterTile<Isa, T>::lanes;
  static const T zeros[n] = {};
  for (int64_t p = 0; 2 * p < k; ++p) {
    const T* low = src + 2 * p * n;
    const T* high = 2 * p + 1 < k ? low + n : zeros;
    if constexpr (split<Isa>) {
      Value a[2] = {X::load(low), X::load(low + L)}, b[2] = {X::load(high), X::load(high + L)};
      for (int q = 0; q < Isa::parts; ++q, dst += n) {
        for (int j = 0; j < 2; ++j) X::store(X::take_pair(a[j], b[j]), dst + j * L);
      }
    } else {
      for (int64_t j = 0; j < n; j += L, dst += L) X::store(X::pair(low + j, high + j), dst);
    }
  }
  const int64_t words = (k + 1) / 2;
  memset(dst, 0, static_cast<size_t>((whole_steps<Isa>(words) - words) * Isa::parts * n) * sizeof(T));
}

/// How a product reads the weights (tap, c, n) of a convolution as a matrix.
enum class WeightsAs {
  rows,                     ///< B[(tap, c), n]: in place
  channels_by_tap_outputs,  ///< B[c, (tap, n)]
  outputs_by_tap_channels,  ///< B[n, (tap, c)]
  tap_outputs_by_channels   ///< B[(tap, n), c], taps in reverse order
};

/// Weights as the right operand B. bf16: rounded to bfloat16, or split.
template <class Isa, class T, bool bf16>
struct WeightsB {
  static constexpr bool pairs = by_pairs<Isa, bf16>;
  WeightsAs as;
  const T* data;
  int64_t taps;
  int64_t rows;      ///< weight rows per tap
  int64_t channels;  ///< rows of these that are channels of the image
  int64_t outputs;

  WeightsB(WeightsAs as_, const ConvDims& dims, const T* w)
      : as(as_),
        data(w),
        taps(dims.taps()),
        rows(dims.weight_rows()),
        channels(dims.in.c),
        outputs(dims.cout) {}

  int64_t depth() const {
    return as == WeightsAs::rows                      ? taps * rows
           : as == WeightsAs::channels_by_tap_outputs ? channels
           : as == WeightsAs::outputs_by_tap_channels ? outputs
                                                      : taps * outputs;
  }
  /// Steps of the microkernel.
  int64_t steps() const { return pairs ? whole_steps<Isa>((depth() + 1) / 2) : depth(); }
  int64_t width() const {
    return as == WeightsAs::rows                      ? outputs
           : as == WeightsAs::channels_by_tap_outputs ? taps * outputs
           : as == WeightsAs::outputs_by_tap_channels ? taps * channels
                                                      : channels;
  }
  /// Whether B has one or two columns. They are packed one after the other; see multiply_thin.
  bool thin() const { return !pairs && taps == 1 && width() <= 2; }
  /// Elements of a packed column, including zero padding.
  int64_t column_size() const {
    constexpr int64_t L = RegisterTile<Isa, T>::lanes;
    return (depth() + L - 1) / L * L;
  }
  int64_t panels() const { return (width() + RegisterTile<Isa, T>::cols - 1) / RegisterTile<Isa, T>::cols; }
  int64_t panel_size() const {
    return ops::max_of(Isa::parts * steps(), depth()) * RegisterTile<Isa, T>::cols;
  }
  int64_t packed_size() const { return panels() * panel_size(); }
  int64_t columns_of(int64_t panel) const {
    return ops::min_of<int64_t>(RegisterTile<Isa, T>::cols, width() - panel * RegisterTile<Isa, T>::cols);
  }
  /// Whether a panel can be read in place.
  bool in_place(int64_t panel) const {
    const int64_t cols = columns_of(panel);
    return as == WeightsAs::rows && !bf16 && !thin() &&
           (cols == RegisterTile<Isa, T>::cols || cols == RegisterTile<Isa, T>::lanes);
  }
  /// Whether all panels can, and are small enough to be read repeatedly that way.
  bool in_place() const {
    return in_place(panels() - 1) && depth() * outputs * static_cast<int64_t>(sizeof(T)) <= (1 << 15);
  }
  Operand<T> columns_in_place(int64_t n) const { return {data + n, outputs}; }
  Operand<T> panel_in_place(int64_t panel) const {
    return columns_in_place(panel * RegisterTile<Isa, T>::cols);
  }
  Operand<T> panel_at(const T* packed) const { return {packed, Isa::parts * RegisterTile<Isa, T>::cols}; }
  Operand<T> panel_in(const T* packed, int64_t panel) const {
    return panel_at(packed + panel * panel_size());
  }

  /// Memory that pack(., panel) will read, for layouts where that is much. Includes the rows between taps.
  PrefetchRows ahead(int64_t panel) const {
    const int64_t n0 = panel * RegisterTile<Isa, T>::cols;
    if (as == WeightsAs::rows) return PrefetchRows::of(data + n0, outputs, depth());
    if (as != WeightsAs::outputs_by_tap_channels) return {};
    return PrefetchRows::of_run(data + (n0 / channels * rows + n0 % channels) * outputs,
                                columns_of(panel) * outputs);
  }

  /// Whether rows of all panels are packed together: memory delivers whole rows faster than pieces of many.
  bool by_rows() const { return as == WeightsAs::rows && !split<Isa> && !thin(); }

  /// Packs this thread's share of all panels to dst (panels, panel_size). noinline avoids a copy in every
  /// product.
  __attribute__((noinline)) void pack(const Team& team, T* dst) const {
    if (by_rows()) return place_rows(dst, 0, panels(), team.begin(steps()), team.end(steps()));
    pack(dst, team.begin(panels()), team.end(panels()));
  }

  /// Packs panels [panel, end) to their places in dst.
  void pack(T* dst, int64_t panel, int64_t end) const {
    for (dst += panel * panel_size(); panel < end; ++panel, dst += panel_size()) pack(dst, panel);
  }

  /// Packs one panel to dst (panel_size), zero-padded; thin weights to dst (width, column_size). noinline
  /// avoids a copy in every product.
  __attribute__((noinline)) void pack(T* dst, int64_t panel) const {
    if (thin()) return pack_columns(dst);
    if (by_rows()) return place_rows(dst, panel, panel + 1, 0, steps());
    constexpr int N = RegisterTile<Isa, T>::cols;
    if constexpr (split<Isa>) {
      T* values = dst + steps() * N;
      place(values, panel);
      pair_rows<Isa, T>(dst, values, depth());
    } else {
      place(dst, panel);
      if constexpr (pairs) {
        pair_rows<Isa, T>(dst, dst, depth());
      } else if constexpr (bf16) {
        for (int64_t i = 0; i < depth() * N; ++i) dst[i] = LoadStore<Isa, T>::round(dst[i]);
      }
    }
  }

 private:
  /// Copies rows [first, last) of panels [panel, end), or pairs of rows if products take pairs. Split weights
  /// are copied unchanged. dst is the first of these panels.
  __attribute__((noinline)) void place_rows(T* dst, int64_t panel, int64_t end, int64_t first,
                                            int64_t last) const {
    constexpr int N = RegisterTile<Isa, T>::cols, at_once = pairs && !split<Isa> ? 2 : 1;
    constexpr int64_t kAhead = 8;
    static const T zeros[N] = {};
    const int64_t k = depth(), size = panel_size();
    const int64_t n0 = panel * N, n1 = ops::min_of(end * N, width());
    for (int64_t p = first; p < last; ++p) {
      const T* src = data + p * at_once * outputs;
      T* to = dst + p * N;
      for (int64_t n = n0; n < n1; n += N, to += size) {
        for (int r = 0; r < at_once; ++r) {
          __builtin_prefetch(src + (kAhead + r) * outputs + n);
          __builtin_prefetch(src + (kAhead + r) * outputs + n + N - 1);
        }
        const int64_t cols = ops::min_of<int64_t>(N, n1 - n);
        if constexpr (at_once == 2) {
          const int64_t rest = k - 2 * p;
          pair_of_rows(to, rest > 0 ? src + n : zeros, rest > 1 ? src + n + outputs : zeros, cols);
        } else {
          row(to, src + n, cols);
        }
      }
    }
  }

  /// dst (depth, tile columns), without rounding.
  void place(T* dst, int64_t panel) const {
    constexpr int N = RegisterTile<Isa, T>::cols, L = RegisterTile<Isa, T>::lanes;
    const int64_t n0 = panel * N, cols = columns_of(panel);
    switch (as) {
      case WeightsAs::rows:
        place_rows(dst, panel, panel + 1, 0, depth());
        break;
      case WeightsAs::channels_by_tap_outputs:
        for (int64_t j = 0, run; j < cols; j += run) {
          const int64_t tap = (n0 + j) / outputs, o = (n0 + j) % outputs;
          run = ops::min_of(outputs - o, cols - j);
          // Copies whole vectors where the source may be read that far. The next run overwrites the excess.
          const int64_t whole = (run + L - 1) / L * L, first = tap * rows * outputs + o, size = end() - data;
          const int64_t quick =
              j + whole > N || first + whole > size ? 0 : 1 + (size - first - whole) / outputs;
          for (int64_t c = 0; c < channels; ++c) {
            T* to = dst + c * N + j;
            const T* from = data + first + c * outputs;
            if (c < quick) {
              for (int64_t i = 0; i < whole; i += L) copy_vector(to + i, from + i);
            } else {
              copy_run(to, from, run);
            }
          }
        }
        for (int64_t c = 0; cols < N && c < channels; ++c) {
          for (int64_t j = cols; j < N; ++j) dst[c * N + j] = T(0);
        }
        break;
      case WeightsAs::outputs_by_tap_channels:
        transposed(dst, n0, cols, outputs,
                   [&](int64_t j) { return data + (j / channels * rows + j % channels) * outputs; });
        break;
      case WeightsAs::tap_outputs_by_channels:
        for (int64_t t = 0; t < taps; ++t) {
          transposed(dst + t * outputs * N, n0, cols, outputs,
                     [&](int64_t j) { return data + ((taps - 1 - t) * rows + j) * outputs; });
        }
        break;
    }
  }

  void pack_columns(T* dst) const {
    const int64_t k = depth(), size = column_size();
    const bool strided = as == WeightsAs::rows || as == WeightsAs::channels_by_tap_outputs;
    if (strided && outputs == 2) {  // a stride known at compile time becomes shuffles
      for (int64_t p = 0; p < k; ++p) dst[p] = data[2 * p], dst[size + p] = data[2 * p + 1];
    } else {
      for (int64_t j = 0; j < width(); ++j) {
        const T* src = strided ? data + j : data + j * outputs;
        for (int64_t p = 0; p < k; ++p) dst[j * size + p] = src[strided ? p * outputs : p];
      }
    }
    for (int64_t j = 0; j < width(); ++j) {
      for (int64_t p = k; p < size; ++p) dst[j * size + p] = T(0);
    }
    if constexpr (bf16) {
      for (int64_t i = 0; i < width() * size; ++i) dst[i] = LoadStore<Isa, T>::round(dst[i]);
    }
  }

  const T* end() const { return data + taps * rows * outputs; }

  static void copy_vector(T* dst, const T* src) {
    using Vector = typename RegisterTile<Isa, T>::Vector;
    *reinterpret_cast<Vector*>(dst) = *reinterpret_cast<const Vector*>(src);
  }

  /// dst (tile columns): `cols` numbers, rounded if needed, and zeros.
  static void row(T* dst, const T* src, int64_t cols) {
    constexpr int N = RegisterTile<Isa, T>::cols, L = RegisterTile<Isa, T>::lanes;
    using Value = typename RegisterTile<Isa, T>::Value;
    using X = LoadStore<Isa, Value>;
    if (cols < N) {
      for (int j = 0; j < N; j += L) X::store(Value{}, dst + j);
      copy_run(dst, src, cols);
      src = dst;
    }
    for (int j = 0; j < N; j += L) {
      if constexpr (bf16 && !split<Isa>) {
        X::store(X::round(X::load(src + j)), dst + j);
      } else {
        X::store(X::load(src + j), dst + j);
      }
    }
  }

  /// dst (tile columns): `cols` words of two numbers each, and zeros.
  static void pair_of_rows(T* dst, const T* low, const T* high, int64_t cols) {
    constexpr int N = RegisterTile<Isa, T>::cols, L = RegisterTile<Isa, T>::lanes;
    using X = LoadStore<Isa, typename RegisterTile<Isa, T>::Value>;
    if (cols == N) {
      for (int j = 0; j < N; j += L) X::store(X::pair(low + j, high + j), dst + j);
    } else {
      for (int64_t j = 0; j < N; ++j) dst[j] = j < cols ? LoadStore<Isa, T>::pair(low + j, high + j) : T(0);
    }
  }

  /// dst[p * N + j] = column(n0 + j)[p] for p < k.
  template <class Column>
  static void transposed(T* dst, int64_t n0, int64_t cols, int64_t k, const Column& column) {
    constexpr int L = RegisterTile<Isa, T>::lanes, N = RegisterTile<Isa, T>::cols;
    for (int64_t j0 = 0; j0 < N; j0 += L) {
      const T* columns[L];
      const int64_t count = ops::max_of<int64_t>(0, ops::min_of<int64_t>(L, cols - j0));
      for (int64_t j = 0; j < count; ++j) columns[j] = column(n0 + j0 + j);
      pack_transposed<Isa, T>(dst + j0, N, columns, count, k);
    }
  }
};

}  // namespace evenflow::gemm
