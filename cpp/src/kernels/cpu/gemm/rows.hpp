#pragma once

#include "kernels/cpu/gemm/pack.hpp"
#include "kernels/cpu/team.hpp"

// Pixels as the left-hand side of a product, or, transposed, as either side of a gradient of weights.

namespace evenflow::gemm {

/// Room that vectors may read or write past the end of a buffer.
constexpr int64_t kSlack = 64;

/// Rows of a view, where they lie or converted. half: as an operand of a product of bfloat16 numbers.
template <class Isa, class T, class S, bool half>
struct ViewRows {
  static constexpr bool pairs = by_pairs<Isa, half>;
  static constexpr bool as_they_are =
      pairs ? std::is_same<S, Bf16>::value : !half && std::is_same<T, S>::value;
  const S* data;
  int64_t stride;
  int64_t cols;

  int64_t tile_size() const { return Tile<Isa, T>::rows * tile_stride() + kSlack; }

  /// Rows [m0, m0 + rows) as a tile of `height`; zeros beyond.
  Strip<T> tile(int64_t m0, int64_t rows, int height, T* buffer) const {
    if constexpr (as_they_are) {
      if (rows == height && (!pairs || cols % 2 == 0)) {
        return {reinterpret_cast<const T*>(data + m0 * stride), pairs ? stride / 2 : stride};
      }
    }
    const int64_t ld = tile_stride();
    for (int64_t i = 0; i < rows; ++i) {
      if constexpr (pairs) {
        Bf16* row = reinterpret_cast<Bf16*>(buffer + i * ld);
        convert(row, data + (m0 + i) * stride);
        if (cols % 2) row[cols] = Bf16{0};
      } else {
        convert(buffer + i * ld, data + (m0 + i) * stride);
      }
    }
    for (int64_t i = rows * ld; i < height * ld; ++i) buffer[i] = T(0);
    return {buffer, ld};
  }

  int64_t block_size(int64_t k) const {
    return as_they_are && !pairs ? 0 : k * padded_stride(cols, sizeof(T)) + kSlack;
  }
  /// Rows [k0, k0 + k), or pairs of them; readable(): columns that may be read of each.
  Strip<T> block(int64_t k0, int64_t k, T* buffer) const {
    const int64_t ld = padded_stride(cols, sizeof(T));
    if constexpr (pairs) {
      for (int64_t p = 0; 2 * p < k; ++p) {
        const S* low = data + (k0 + 2 * p) * stride;
        interleave(buffer + p * ld, low, 2 * p + 1 < k ? low + stride : nullptr);
      }
      return {buffer, ld};
    } else if constexpr (as_they_are) {
      return {data + k0 * stride, stride};
    } else {
      for (int64_t p = 0; p < k; ++p) convert(buffer + p * ld, data + (k0 + p) * stride);
      return {buffer, ld};
    }
  }
  int64_t readable() const { return cols; }
  EVENFLOW_HD void prefetch(int64_t row, int64_t begin, int64_t end) const {
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(S));
    for (int64_t c = begin; c < end; c += line) __builtin_prefetch(data + row * stride + c, 0, 2);
  }

 private:
  using Value = typename Tile<Isa, T>::Value;
  static constexpr int L = Tile<Isa, T>::lanes;

  int64_t tile_stride() const { return pairs ? (cols + 1) / 2 : cols; }

  template <class D>
  void convert(D* dst, const S* src) const {
    int64_t c = 0;
    for (; c + L <= cols; c += L) Lanes<Value>::store(operand<Value>(src + c), dst + c);
    for (; c < cols; ++c) Lanes<T>::store(operand<T>(src + c), dst + c);
  }

  template <class X>
  EVENFLOW_HD static X operand(const S* src) {
    if constexpr (half && std::is_same<S, T>::value) return Lanes<X>::round(Lanes<X>::load(src));
    return Lanes<X>::load(src);
  }

  /// Words of (low, high); high null: zero.
  void interleave(T* dst, const S* low, const S* high) const {
    int64_t c = 0;
    for (; high && c + L <= cols; c += L) {
      Lanes<Value>::store(Lanes<Value>::pair(Lanes<Value>::load(low + c), Lanes<Value>::load(high + c)),
                          dst + c);
    }
    for (; c < cols; ++c) {
      dst[c] = Lanes<T>::pair(Lanes<T>::load(low + c), high ? Lanes<T>::load(high + c) : T(0));
    }
  }
};

/// Images with a border of one pixel and, for `edge`, a last channel that is 1 there and 0 inside: the
/// patches of a 3x3 kernel are three runs of three pixels each.
template <class Isa, class T, bool half>
struct Bordered {
  const T* data = nullptr;
  int64_t height = 0, width = 0, depth = 0;

  static int64_t size(const Shape& x, bool edge) {
    return x.n * (x.h + 2) * (x.w + 2) * (x.c + (edge ? 1 : 0)) + kSlack;
  }

  /// Writes this thread's share of the images into `out`; everybody may read after a barrier.
  template <class S>
  static Bordered fill(const Team& team, View<const S> x, bool edge, T* out) {
    const Shape& s = x.shape;
    const Bordered b{out, s.h, s.w, s.c + (edge ? 1 : 0)};
    const T inside = T(0), outside = edge ? T(1) : T(0);
    for (int64_t line = team.begin(s.n * (s.h + 2)); line < team.end(s.n * (s.h + 2)); ++line) {
      const int64_t n = line / (s.h + 2), i = line % (s.h + 2) - 1;
      for (int64_t j = -1; j <= s.w; ++j) {
        T* dst = out + (line * (s.w + 2) + j + 1) * b.depth;
        if (i < 0 || i >= s.h || j < 0 || j >= s.w) {
          for (int64_t c = 0; c < b.depth; ++c) dst[c] = T(0);
          if (edge) dst[b.depth - 1] = outside;
          continue;
        }
        const S* src = x.data + ((n * s.h + i) * s.w + j) * x.stride;
        for (int64_t c = 0; c < s.c; ++c) dst[c] = Lanes<T>::load(src + c);
        if constexpr (half) {
          for (int64_t c = 0; c < s.c; ++c) dst[c] = Lanes<T>::round(dst[c]);
        }
        if (edge) dst[b.depth - 1] = inside;
      }
    }
    return b;
  }
};

/// 3x3 patches: row m holds (tap, channel).
template <class Isa, class T, bool half>
struct PatchRows {
  static constexpr bool pairs = by_pairs<Isa, half>;
  Bordered<Isa, T, half> image;

  int64_t cols() const { return 9 * image.depth; }
  int64_t tile_size() const { return Tile<Isa, T>::rows * cols() + kSlack; }

  Strip<T> tile(int64_t m0, int64_t rows, int height, T* buffer) const {
    gather(m0, rows, cols(), buffer);
    const int64_t ld = pairs ? (cols() + 1) / 2 : cols();
    if constexpr (pairs) {  // in place: a row of halves ends before the next row of numbers begins
      for (int64_t i = 0; i < rows; ++i) {
        Bf16* row = reinterpret_cast<Bf16*>(buffer + i * ld);
        for (int64_t c = 0; c < cols(); ++c) row[c] = to_bf16(buffer[i * cols() + c]);
        if (cols() % 2) row[cols()] = Bf16{0};
      }
    }
    for (int64_t i = rows * ld; i < height * ld; ++i) buffer[i] = T(0);
    return {buffer, ld};
  }

  int64_t readable() const { return padded_stride(cols() + kSlack / 4, sizeof(T)); }
  EVENFLOW_HD void prefetch(int64_t, int64_t, int64_t) const {}
  int64_t block_size(int64_t k) const { return (k + 1) * readable() + kSlack; }
  Strip<T> block(int64_t k0, int64_t k, T* buffer) const {
    const int64_t ld = readable();
    gather(k0, k, ld, buffer);  // what lies beyond cols() goes into sums that nobody reads
    if constexpr (pairs) pair_rows<Isa, T>(buffer, k, ld);
    return {buffer, ld};
  }

 private:
  /// Vectors run past the end of a line of the patch; what they spill is overwritten by the next.
  void gather(int64_t m0, int64_t rows, int64_t ld, T* dst) const {
    using Vector = typename Tile<Isa, T>::Vector;
    constexpr int L = Tile<Isa, T>::lanes;
    const int64_t run = 3 * image.depth, line = (image.width + 2) * image.depth;
    int64_t j = m0 % image.width, i = m0 / image.width % image.height, n = m0 / image.width / image.height;
    for (int64_t m = 0; m < rows; ++m, dst += ld) {
      const T* src = image.data + ((n * (image.height + 2) + i) * (image.width + 2) + j) * image.depth;
      for (int dy = 0; dy < 3; ++dy) {
        for (int64_t q = 0; q < run; q += L) {
          *reinterpret_cast<Vector*>(dst + dy * run + q) =
              *reinterpret_cast<const Vector*>(src + dy * line + q);
        }
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
