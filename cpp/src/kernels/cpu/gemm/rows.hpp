#pragma once

#include "core/team.hpp"
#include "kernels/cpu/gemm/pack.hpp"
#include "kernels/net/layout.hpp"

// Pixels as the left operand of a product or, transposed, as either operand of a weight gradient.

namespace evenflow::gemm {

/// Elements that vectors may read or write past the end of a buffer.
constexpr int64_t kSlack = 64;

/// Splits `count` numbers of src into one row of dst per part, `stride` apart, in whole vectors, zero-padded.
template <class Isa>
void split_row(Bf16* dst, int64_t stride, const float* src, int64_t count) {
  using Value = typename RegisterTile<Isa, float>::Value;
  using X = LoadStore<Isa, Value>;
  constexpr int L = RegisterTile<Isa, float>::lanes;
  const auto two = [&](const float* from, Bf16* to) {
    Value low = X::load(from), high = X::load(from + L);
    for (int q = 0; q < Isa::parts; ++q, to += stride) {
      const auto bits = Rounding<Isa>::truncate(low, high);
      memcpy(to, &bits, sizeof bits);
      X::take(low);
      X::take(high);
    }
  };
  int64_t c = 0;
  for (; c + 2 * L <= count; c += 2 * L) two(src + c, dst + c);
  if (c < count) {
    float rest[2 * L] = {};
    copy_run(rest, src + c, count - c);
    two(rest, dst + c);
  }
}

/// Packs columns [begin, end) of rows 2 p and 2 p + 1 of src into row p of dst as bfloat16 pairs, or into one
/// row per part, dst_stride / parts apart. Pads `rows` to whole_steps with zeros.
template <class Isa, class S>
void interleave(float* dst, int64_t dst_stride, const S* src, int64_t stride, int64_t rows, int64_t begin,
                int64_t end) {
  using Value = typename RegisterTile<Isa, float>::Value;
  constexpr int L = RegisterTile<Isa, float>::lanes;
  // In rows; more for a panel, whose rows are short.
  const int64_t ahead = Isa::matrix && end - begin <= RegisterTile<Isa, float>::cols ? 48 : 8;
  static const S zeros[L] = {};
  for (int64_t p = 0; 2 * p < rows; ++p, dst += dst_stride, src += 2 * stride) {
    const bool last = 2 * p + 1 == rows;
    const S* high = last ? zeros : src + stride;
    const auto put = [&](auto low, int64_t c) {
      using X = LoadStore<Isa, decltype(low)>;
      const S* above = last ? high : high + c;
      __builtin_prefetch(src + ahead * stride + c);
      __builtin_prefetch(src + (ahead + 1) * stride + c);
      if constexpr (split<Isa>) {
        low = X::load(src + c);
        decltype(low) rest = X::load(above);
        for (int q = 0; q < Isa::parts; ++q)
          X::store(X::take_pair(low, rest), dst + q * (dst_stride / Isa::parts) + c);
      } else {
        X::store(X::pair(src + c, above), dst + c);
      }
    };
    int64_t c = begin;
    for (; c + L <= end; c += L) put(Value(), c);
    for (; c < end; ++c) put(0.0f, c);
  }
  const int64_t words = (rows + 1) / 2;
  for (int64_t p = words * Isa::parts; p < whole_steps<Isa>(words) * Isa::parts;
       ++p, dst += dst_stride / Isa::parts) {
    for (int64_t c = begin; c < end; ++c) dst[c] = 0;
  }
}

/// A left operand of any type. Its strips are behind a pointer, so products are compiled once for all types.
template <class Isa, class T>
class LeftRows {
 public:
  template <class A>
  LeftRows(const A& a)
      : a_(&a),
        strip_size_(a.strip_size()),
        strip_([](const void* rows, int64_t m0, int64_t count, int height, T* buffer) {
          return static_cast<const A*>(rows)->strip(m0, count, height, buffer);
        }) {}

  /// Most elements of a strip.
  int64_t strip_size() const { return strip_size_; }
  /// Rows [m0, m0 + count) as a strip of `height` rows, zero-padded. Uses buffer if they must be copied.
  Operand<T> strip(int64_t m0, int64_t count, int height, T* buffer) const {
    return strip_(a_, m0, count, height, buffer);
  }

 private:
  const void* a_;
  int64_t strip_size_;
  Operand<T> (*strip_)(const void*, int64_t, int64_t, int, T*);
};

/// Rows of a matrix, read in place or converted. bf16: as an operand of a bfloat16 product; such a matrix is
/// row-major.
template <class Isa, class T, class S, bool bf16>
struct MatrixRows {
  static constexpr bool pairs = by_pairs<Isa, bf16>;
  /// Whether a weight gradient packs this operand by panel(), one tile width at a time. The panel is then
  /// still in L1 when the tiles read it. Three parts would not fit.
  static constexpr bool packed_by_panel = Isa::matrix && !split<Isa>;
  static constexpr bool as_they_are =
      pairs ? std::is_same<S, Bf16>::value : !bf16 && std::is_same<T, S>::value;
  Strided<const S> matrix;
  int64_t cols;

  int64_t strip_size() const { return RegisterTile<Isa, T>::rows * Isa::parts * strip_stride() + kSlack; }

  Operand<T> strip(int64_t m0, int64_t rows, int height, T* buffer) const {
    if constexpr (as_they_are) {
      // A channel block has more rows than there are pixels.
      if ((rows == height || matrix.block_gap != 0) && (!pairs || cols == 2 * strip_stride())) {
        return {reinterpret_cast<const T*>(row(m0)), pairs ? matrix.stride / 2 : matrix.stride,
                matrix.block_gap};
      }
    }
    const int64_t ld = Isa::parts * strip_stride();
    for (int64_t i = 0; i < rows; ++i) {
      if constexpr (split<Isa>) {
        split_row<Isa>(reinterpret_cast<Bf16*>(buffer + i * ld), 2 * strip_stride(), row(m0 + i), cols);
      } else if constexpr (pairs) {
        Bf16* to = reinterpret_cast<Bf16*>(buffer + i * ld);
        convert(to, row(m0 + i), cols);
        for (int64_t c = cols; c < 2 * strip_stride(); ++c) to[c] = Bf16{0};
      } else {
        convert(buffer + i * ld, row(m0 + i), cols);
      }
    }
    for (int64_t i = rows * ld; i < height * ld; ++i) buffer[i] = T(0);
    return {buffer, ld};
  }

  int64_t block_size(int64_t k) const {
    if (as_they_are && !pairs) return 0;
    return (pairs ? whole_steps<Isa>((k + 1) / 2) * Isa::parts : k) * padded_stride(cols, sizeof(T)) + kSlack;
  }
  /// Rows [k0, k0 + k), or pairs of them, of which columns [begin, end) will be read. readable(): columns
  /// that may be read.
  Operand<T> block(int64_t k0, int64_t k, int64_t begin, int64_t end, T* buffer) const {
    const int64_t ld = padded_stride(cols, sizeof(T));
    if constexpr (pairs) {
      interleave<Isa>(buffer, Isa::parts * ld, row(k0), matrix.stride, k, begin, ops::min_of(end, cols));
      return {buffer, Isa::parts * ld};
    } else if constexpr (as_they_are) {
      return {row(k0), matrix.stride, matrix.block_gap};
    } else {
      for (int64_t p = 0; p < k; ++p) {
        convert(buffer + p * ld + begin, row(k0 + p) + begin, ops::min_of(end, cols) - begin);
      }
      return {buffer, ld};
    }
  }
  /// Columns [begin, end), at most one tile width, of pairs of rows [k0, k0 + k): (whole_steps, tile
  /// columns).
  Operand<T> panel(int64_t k0, int64_t k, int64_t begin, int64_t end, T* buffer) const {
    constexpr int64_t ld = RegisterTile<Isa, T>::cols;
    interleave<Isa>(buffer, ld, row(k0) + begin, matrix.stride, k, 0, end - begin);
    return {buffer, ld};
  }
  /// Memory that panel(k0, k, begin, .) will read.
  EVENFLOW_INLINE PrefetchRows ahead(int64_t k0, int64_t k, int64_t begin) const {
    return PrefetchRows::of(row(k0) + begin, matrix.stride, k);
  }
  int64_t values_size(int64_t) const { return 0; }
  /// The rows without conversion, in float32.
  Operand<T> values(int64_t k0, int64_t, T*) const { return {row(k0), matrix.stride}; }
  int64_t readable() const { return matrix.block_gap != 0 ? (cols + kLine - 1) / kLine * kLine : cols; }

 private:
  using Value = typename RegisterTile<Isa, T>::Value;
  static constexpr int L = RegisterTile<Isa, T>::lanes;
  static constexpr int64_t kLine = Strided<S>::line;

  EVENFLOW_INLINE const S* row(int64_t m) const { return matrix.data + m * matrix.stride; }

  int64_t strip_stride() const {
    const int64_t words = whole_steps<Isa>((cols + 1) / 2);
    return split<Isa> ? padded_stride(words, sizeof(T)) : pairs ? words : cols;
  }

  template <class D>
  static void convert(D* dst, const S* src, int64_t count) {
    int64_t c = 0;
    for (; c + L <= count; c += L) LoadStore<Isa, Value>::store(operand<Value>(src + c), dst + c);
    for (; c < count; ++c) LoadStore<Isa, T>::store(operand<T>(src + c), dst + c);
  }

  template <class X>
  EVENFLOW_INLINE static X operand(const S* src) {
    const X value = LoadStore<Isa, X>::load(src);
    if constexpr (bf16 && std::is_same<S, T>::value) return LoadStore<Isa, X>::round(value);
    return value;
  }
};

/// Images with a border of one pixel. With `edge` they have one more channel, which is 1 in the border and 0
/// inside. A patch of a 3x3 kernel is then three runs of three pixels. bf16: rounded to bfloat16.
template <class Isa, class T, bool bf16>
struct Bordered {
  using Element = typename std::conditional<by_pairs<Isa, bf16> && !split<Isa>, Bf16, T>::type;
  const Element* data = nullptr;
  int64_t height = 0, width = 0, depth = 0;

  static int64_t size(const Shape& x, bool edge) {
    return x.n * (x.h + 2) * (x.w + 2) * (x.c + (edge ? 1 : 0)) + kSlack;
  }

  /// Writes this thread's share of the images to `out`. Others may read it after a barrier.
  template <class S>
  static Bordered fill(const Team& team, const Strided<S>& x, const Shape& s, bool edge, Element* out) {
    const Bordered b{out, s.h, s.w, s.c + (edge ? 1 : 0)};
    const int64_t lines = s.n * (s.h + 2), length = (s.w + 2) * b.depth;
    // Vectors may run past the end of a pixel, where this thread writes next.
    const int64_t read = (s.c + L - 1) / L * L;
    const S* x_end = x.data + (s.pixels() - 1) * x.stride + s.c;
    const Element* out_end = out + team.end(lines) * length;
    for (int64_t line = team.begin(lines); line < team.end(lines); ++line) {
      const int64_t n = line / (s.h + 2), i = line % (s.h + 2) - 1;
      Element* dst = out + line * length;
      if (i < 0 || i >= s.h) {
        for (int64_t j = 0; j < s.w + 2; ++j) b.border(dst + j * b.depth, edge);
        continue;
      }
      const S* src = x.data + (n * s.h + i) * s.w * x.stride;
      b.border(dst, edge);
      for (int64_t j = 0; j < s.w; ++j, src += x.stride) {
        dst += b.depth;
        copy(dst, src, s.c, x_end - src >= read && out_end - dst >= read);
        if (edge) dst[b.depth - 1] = Element();
      }
      b.border(dst + b.depth, edge);
    }
    return b;
  }

 private:
  static constexpr int L = RegisterTile<Isa, T>::lanes;

  void border(Element* dst, bool edge) const {
    for (int64_t c = 0; c < depth; ++c) dst[c] = Element();
    if (edge) LoadStore<Isa, T>::store(T(1), dst + depth - 1);
  }

  template <class S>
  EVENFLOW_INLINE static void copy(Element* dst, const S* src, int64_t count, bool whole) {
    using Value = typename RegisterTile<Isa, T>::Value;
    int64_t c = 0;
    for (; whole ? c < count : c + L <= count; c += L)
      LoadStore<Isa, Value>::store(operand<Value>(src + c), dst + c);
    for (; c < count; ++c) LoadStore<Isa, T>::store(operand<T>(src + c), dst + c);
  }

  template <class X, class S>
  EVENFLOW_INLINE static X operand(const S* src) {
    const X value = LoadStore<Isa, X>::load(src);
    if constexpr (bf16 && !split<Isa> && std::is_same<S, T>::value) return LoadStore<Isa, X>::round(value);
    return value;
  }
};

/// Patches of a 3x3 kernel: row m holds (tap, channel).
template <class Isa, class T, bool bf16>
struct Patches {
  static constexpr bool pairs = by_pairs<Isa, bf16>, packed_by_panel = false;
  using Element = typename Bordered<Isa, T, bf16>::Element;
  Bordered<Isa, T, bf16> image;

  int64_t cols() const { return 9 * image.depth; }
  int64_t strip_size() const {
    constexpr int64_t rows = RegisterTile<Isa, T>::rows;
    return rows * ops::max_of(cols(), words()) + kSlack +
           (split<Isa> ? rows * Isa::parts * part_stride() : 0);
  }

  Operand<T> strip(int64_t m0, int64_t rows, int height, T* buffer) const {
    if constexpr (split<Isa>) {
      const int64_t part = part_stride(), split_stride = Isa::parts * part;
      T* values = buffer + height * split_stride;
      gather(m0, rows, cols(), values);
      for (int64_t i = 0; i < rows; ++i) {
        split_row<Isa>(reinterpret_cast<Bf16*>(buffer + i * split_stride), 2 * part, values + i * cols(),
                       cols());
      }
      for (int64_t i = rows * split_stride; i < height * split_stride; ++i) buffer[i] = T(0);
      return {buffer, split_stride};
    }
    const int64_t ld = pairs ? words() : cols();
    Element* dst = reinterpret_cast<Element*>(buffer);
    gather(m0, rows, pairs ? 2 * ld : ld, dst);
    for (int64_t i = rows * ld; i < height * ld; ++i) buffer[i] = T(0);
    for (int64_t i = 0; pairs && i < rows; ++i) {
      for (int64_t c = cols(); c < 2 * ld; ++c) dst[2 * ld * i + c] = Element();
    }
    return {buffer, ld};
  }

  int64_t readable() const { return padded_stride(cols() + kSlack / 4, sizeof(T)); }
  int64_t block_size(int64_t k) const {
    return ((pairs ? whole_steps<Isa>((k + 1) / 2) * Isa::parts : 0) + k + 1) * readable() + kSlack;
  }
  int64_t values_size(int64_t k) const { return (k + 1) * readable() + kSlack; }
  Operand<T> values(int64_t k0, int64_t k, T* buffer) const {
    gather(k0, k, readable(), buffer);
    return {buffer, readable()};
  }
  /// Columns beyond cols() only reach sums that nobody reads.
  Operand<T> block(int64_t k0, int64_t k, int64_t, int64_t, T* buffer) const {
    const int64_t ld = readable();
    if constexpr (pairs) {
      Element* rows = reinterpret_cast<Element*>(buffer + whole_steps<Isa>((k + 1) / 2) * Isa::parts * ld);
      gather(k0, k, ld, rows);
      interleave<Isa>(buffer, Isa::parts * ld, rows, ld, k, 0, cols());
      return {buffer, Isa::parts * ld};
    } else {
      gather(k0, k, ld, buffer);
      return {buffer, ld};
    }
  }

 private:
  int64_t words() const { return whole_steps<Isa>((cols() + 1) / 2); }
  int64_t part_stride() const { return padded_stride(words(), sizeof(T)); }

  /// Vectors run past the end of a line of the patch. The next line overwrites the excess.
  void gather(int64_t m0, int64_t rows, int64_t ld, Element* dst) const {
    constexpr int bytes = Isa::vector_bytes, N = bytes / static_cast<int>(sizeof(Element));
    const int64_t run = 3 * image.depth, line = (image.width + 2) * image.depth;
    int64_t j = m0 % image.width, i = m0 / image.width % image.height, n = m0 / image.width / image.height;
    for (int64_t m = 0; m < rows; ++m, dst += ld) {
      const Element* src = image.data + ((n * (image.height + 2) + i) * (image.width + 2) + j) * image.depth;
      for (int dy = 0; dy < 3; ++dy) {
        for (int64_t q = 0; q < run; q += N) memcpy(dst + dy * run + q, src + dy * line + q, bytes);
      }
      if (++j < image.width) continue;
      j = 0;
      if (++i < image.height) continue;
      i = 0;
      ++n;
    }
  }
};

}  // namespace evenflow::gemm
