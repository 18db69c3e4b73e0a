#pragma once

#include "kernels/bf16.hpp"
#include "kernels/ops/pack.hpp"

// Operands of MmaProduct: matrices of float32 or bfloat16 numbers S, read eight at a time. Channels are
// therefore zero-padded to a multiple of eight. Patches of a 3x3 kernel are gathered while they are read.

namespace evenflow::device {

constexpr int kEight = 8;
/// Eight adjacent numbers in accesses of sixteen bytes. They are held as words, because nvcc unpacks two-byte
/// numbers right after the load, and so waits for it there.
template <class S>
struct Eight {
  static constexpr int kShare = 4 / sizeof(S);  ///< numbers per word
  uint32_t words[kEight / kShare];

  EVENFLOW_INLINE float get(int i) const {
    const uint32_t word = words[i / kShare];
    return ops::bits_to_float(static_cast<int32_t>(kShare == 1  ? word
                                                   : i % 2 == 0 ? word << 16
                                                                : word & 0xffff0000u));
  }
  /// Sets number i, which must still be zero.
  EVENFLOW_INLINE void set(int i, float x) {
    S value;
    store_value(x, &value);
    if constexpr (kShare == 1) {
      words[i] = static_cast<uint32_t>(ops::float_to_bits(value));
    } else {
      words[i / 2] |= static_cast<uint32_t>(value.bits) << i % 2 * 16;
    }
  }
};

EVENFLOW_INLINE constexpr int64_t up_to_eight(int64_t n) {
  return (n + kEight - 1) / kEight * kEight;
}
template <class S>
EVENFLOW_INLINE Eight<S> zeros() {
  return {};
}
template <class S>
EVENFLOW_INLINE Eight<S> eight_at(const S* x) {
  constexpr int n = 16 / sizeof(S);
  using Word = ops::Word<ops::Pack<S, n>>;
  Eight<S> out;
  for (int i = 0; i < kEight / n; ++i) {
    const Word word = *ops::aligned<const Word>(x + i * n);
    __builtin_memcpy(out.words + 4 * i, &word, sizeof word);
  }
  return out;
}
template <class S>
EVENFLOW_INLINE void put_eight(const Eight<S>& from, S* to) {
  constexpr int n = 16 / sizeof(S);
  using Word = ops::Word<ops::Pack<S, n>>;
  for (int i = 0; i < kEight / n; ++i) {
    Word word;
    __builtin_memcpy(&word, from.words + 4 * i, sizeof word);
    *ops::aligned<Word>(to + i * n) = word;
  }
}

/// The same for the device's global memory, instead of shared memory.
template <class S>
EVENFLOW_INLINE void write_eight(const Eight<S>& from, S* to) {
  constexpr int n = 16 / sizeof(S);
  for (int i = 0; i < kEight / n; ++i) {
    ops::Pack<S, n> pack;
    __builtin_memcpy(&pack, from.words + 4 * i, sizeof pack);
    ops::write(pack, to + i * n);
  }
}

/// Divides numbers from 0 to 2^31 - 1 by a divisor that is known at launch. It multiplies instead, since a
/// division takes a GPU a few dozen instructions (Granlund and Montgomery, "Division by invariant integers
/// using multiplication", 1994).
struct Divisor {
  int32_t by = 0;
  int32_t shift = 31;
  uint32_t factor = 0;
  int32_t most = 0;  ///< largest multiple of the divisor

  Divisor() = default;
  /// A divisor of 0 means that nothing will be divided.
  Divisor(int32_t divisor) : by(divisor) {
    if (by == 0) return;
    while (int64_t{1} << (shift - 31) < by) ++shift;
    factor = static_cast<uint32_t>(((uint64_t{1} << shift) + static_cast<uint32_t>(by) - 1) /
                                   static_cast<uint32_t>(by));
    most = INT32_MAX / by * by;
  }
  EVENFLOW_INLINE int32_t quotient(int32_t n) const {
    return static_cast<int32_t>(uint64_t{static_cast<uint32_t>(n)} * factor >> shift);
  }
  /// Also takes numbers that are somewhat larger: no memory holds many times 2^31 pixels.
  EVENFLOW_INLINE int32_t remainder(int64_t n) const {
    while (n > INT32_MAX) n -= most;
    const int32_t at = static_cast<int32_t>(n);
    return at - quotient(at) * by;
  }
};

/// Shape of a convolution in a product. A patch index is (tap, channel), with padded channels, followed by
/// the taps of the edge indicator, also padded.
struct PatchDims {
  int32_t height;
  Divisor width;
  Divisor area;  ///< height * width
  int32_t kernel;
  Divisor channels;  ///< a multiple of eight
  bool edge;
  int32_t sign;  ///< 1: the pixel that the tap reads; -1: the pixel that reads this one through the tap

  EVENFLOW_INLINE int32_t taps() const { return kernel * kernel; }
  EVENFLOW_INLINE int64_t inner() const { return int64_t{taps()} * channels.by; }
  EVENFLOW_INLINE int64_t size() const { return inner() + (edge ? up_to_eight(taps()) : 0); }
};

/// Eight patch indices of one pixel: channels of one tap, or the indicators of eight taps (1 outside, 0
/// inside).
struct PatchPart {
  int32_t tap;
  int32_t channel;
  bool inside;  ///< if false, all are zero
  bool indicator;
};

EVENFLOW_INLINE PatchPart patch_part(const PatchDims& dims, int64_t k) {
  if (k >= dims.size()) return {0, 0, false, false};
  if (k >= dims.inner()) return {static_cast<int32_t>(k - dims.inner()), 0, true, true};
  const int32_t at = static_cast<int32_t>(k), tap = dims.channels.quotient(at);
  return {tap, at - tap * dims.channels.by, true, false};
}

/// Position of a pixel in its image.
struct PixelPlace {
  int32_t row;
  int32_t column;
};
EVENFLOW_INLINE PixelPlace place_of(const PatchDims& dims, int64_t pixel) {
  const int32_t at = dims.area.remainder(pixel);
  const int32_t row = dims.width.quotient(at);
  return {row, at - row * dims.width.by};
}

/// The pixel that a tap of a 3x3 kernel reads, or that reads this one through it, depending on the sign. -1
/// if it is outside the image.
EVENFLOW_INLINE int64_t neighbour(const PatchDims& dims, const PixelPlace& place, int64_t pixel,
                                  int32_t tap) {
  const int32_t dy = dims.sign * (tap / 3 - 1), dx = dims.sign * (tap % 3 - 1);
  const int32_t i = place.row + dy, j = place.column + dx;
  if (i < 0 || i >= dims.height || j < 0 || j >= dims.width.by) return -1;
  return pixel + dy * dims.width.by + dx;
}

/// Zeros outside the image.
template <class S>
EVENFLOW_INLINE Eight<S> read_patch(const PatchDims& dims, const PatchPart& part, const S* x, int64_t stride,
                                    int64_t pixel, const PixelPlace& place) {
  if (!part.inside) return zeros<S>();
  if (!part.indicator) {
    const int64_t from = neighbour(dims, place, pixel, part.tap);
    return from < 0 ? zeros<S>() : eight_at(x + from * stride + part.channel);
  }
  Eight<S> out = zeros<S>();
  for (int e = 0; e < kEight; ++e) {
    const int32_t tap = part.tap + e;
    if (tap < dims.taps() && neighbour(dims, place, pixel, tap) < 0) out.set(e, 1.0f);
  }
  return out;
}

// An operand yields eights of a matrix along k or along the other index, and zeros outside. A cursor is the
// position of a thread: start(index, k) places it, and next<depth>() reads there and advances k by depth.

/// Distance from k to the end, within a launch's part of k.
EVENFLOW_INLINE int32_t left_of(int64_t end, int64_t k) {
  return static_cast<int32_t>(ops::min_of<int64_t>(end - k, INT32_MAX));
}

/// (pixel, patch index).
template <class S>
struct PatchRows {
  using Number = S;
  static constexpr bool along_k = true;
  struct Cursor {
    int64_t pixel;  ///< negative: outside
    PixelPlace place;
    int32_t k;
  };
  PatchDims dims;
  const S* x;
  int64_t stride;
  int64_t pixels;

  EVENFLOW_INLINE Cursor start(int64_t m, int64_t k) const {
    if (m >= pixels) return {-1, {0, 0}, 0};
    return {m, place_of(dims, m), static_cast<int32_t>(k)};
  }
  template <int depth>
  EVENFLOW_INLINE Eight<S> next(Cursor& at) const {
    if (at.pixel < 0) return zeros<S>();
    const int32_t k = at.k;
    at.k += depth;
    return read_patch(dims, patch_part(dims, k), x, stride, at.pixel, at.place);
  }
};

/// (patch index, pixel).
template <class S>
struct PatchColumns {
  using Number = S;
  static constexpr bool along_k = false;
  struct Cursor {
    PatchPart part;
    int64_t pixel;
  };
  PatchDims dims;
  const S* x;
  int64_t stride;
  int64_t pixels;

  EVENFLOW_INLINE Cursor start(int64_t m, int64_t k) const { return {patch_part(dims, m), k}; }
  template <int depth>
  EVENFLOW_INLINE Eight<S> next(Cursor& at) const {
    const int64_t pixel = at.pixel;
    at.pixel += depth;
    if (pixel >= pixels) return zeros<S>();
    return read_patch(dims, at.part, x, stride, pixel, place_of(dims, pixel));
  }
};

/// Offset of the next number in a matrix, and the remaining distance along k (0 if outside). It is an offset
/// because nvcc forgets in a loop that a pointer refers to global memory.
struct MatrixCursor {
  int64_t at;
  int32_t left;
};

/// A matrix (rows, columns) in memory, with columns padded to a multiple of eight, as (row, k) or (k,
/// column).
template <class S, bool along>
struct MatrixOperand {
  using Number = S;
  static constexpr bool along_k = along;
  using Cursor = MatrixCursor;
  const S* x;
  int64_t stride;
  int64_t rows;
  int64_t columns;

  EVENFLOW_INLINE Cursor start(int64_t other, int64_t k) const {
    if (other >= (along ? rows : columns)) return {0, 0};
    return along ? Cursor{other * stride + k, left_of(columns, k)}
                 : Cursor{k * stride + other, left_of(rows, k)};
  }
  template <int depth>
  EVENFLOW_INLINE Eight<S> next(Cursor& at) const {
    const S* from = x + at.at;
    const bool inside = at.left > 0;
    at.at += along ? depth : depth * stride;
    at.left -= depth;
    return inside ? eight_at(from) : zeros<S>();
  }
};
/// (k, column), contiguous along the column.
template <class S>
using MnMajorMatrix = MatrixOperand<S, false>;
/// (row, k), contiguous along k.
template <class S>
using KMajorMatrix = MatrixOperand<S, true>;

/// ((tap, output), input channel) of packed weights: the right operand of the gradient by the input.
template <class S>
struct WeightColumns {
  using Number = S;
  static constexpr bool along_k = true;
  struct Cursor {
    int64_t n;  ///< negative: outside
    int32_t k;
  };
  const S* w;  ///< from PackWeights
  int32_t taps;
  int32_t channels;  ///< padded, as outputs are
  Divisor outputs;

  EVENFLOW_INLINE Cursor start(int64_t n, int64_t k) const {
    return {n < channels ? n : -1, static_cast<int32_t>(k)};
  }
  template <int depth>
  EVENFLOW_INLINE Eight<S> next(Cursor& at) const {
    const int32_t k = at.k;
    at.k += depth;
    if (at.n < 0 || k >= taps * outputs.by) return zeros<S>();
    const int32_t tap = outputs.quotient(k);
    return eight_at(w + (int64_t{tap} * channels + at.n) * outputs.by + k - tap * outputs.by);
  }
};

}  // namespace evenflow::device
