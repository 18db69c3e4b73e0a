#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/ops/inline.hpp"

// Neighbouring numbers as one access. A functor that takes n columns at a time has
//   Number      what its arrays hold, the bulk of them
//   packs(n)    whether n columns, from a multiple of n on, are one access in each array
//               or, of whole arrays whose i-th elements belong together,
//   each_array(f)  f(array) for each
//   flat(cols), joined(row, together)  where rows may be passed several at a time (joins_rows)
//   next(i), target()  where what belongs into element i of target() may be written later than the rest
//   runs        true, with load_run and store_run: see coupling/apply.hpp
// and its calls are templates over n: on a device up to sixteen bytes; 1 on a CPU, where the compiler makes
// vectors of loops.

namespace evenflow::ops {

template <class T, int n>
struct alignas(n * sizeof(T)) Pack {
  T v[n];
};

/// Whether packs may begin at every n-th column of rows `stride` numbers apart; null fits.
template <class T>
EVENFLOW_INLINE bool fits(int n, const T* x, int64_t stride = 0) {
  return reinterpret_cast<uintptr_t>(x) % (static_cast<unsigned>(n) * sizeof(T)) == 0 && stride % n == 0;
}

/// Whether F names its arrays.
template <class F, class = void>
constexpr bool names_arrays = false;
struct AnyArray {
  template <class T>
  EVENFLOW_INLINE void operator()(const T*) const {}
};
template <class F>
constexpr bool names_arrays<F, std::void_t<decltype(std::declval<F>().each_array(AnyArray()))>> = true;

/// Whether F leaves it to its caller when to write next(i).
template <class F, class = void>
constexpr bool writes_later = false;
template <class F>
constexpr bool writes_later<F, std::void_t<decltype(std::declval<F>().next(0))>> = true;

/// Successive elements of rows of `cols`: `count`, from column `col` of `row` on.
struct Run {
  static constexpr int64_t kMost = 128;  ///< elements
  int64_t row, col, cols, count;
};

/// Whether F loads and stores runs of elements, array by array.
template <class F, class = void>
constexpr bool takes_runs = false;
template <class F>
constexpr bool takes_runs<F, std::void_t<decltype(F::runs)>> = F::runs;

/// Whether F knows rows that are one array, flat(cols), all of whose numbers are passed alike, and becomes
/// joined(row, together): itself from a row on, of rows so many times as long.
template <class F, class = void>
constexpr bool joins_rows = false;
template <class F>
constexpr bool joins_rows<F, std::void_t<decltype(std::declval<F>().joined(0, 1))>> = true;

/// Whether n columns are one access in each of f's arrays.
template <class F>
EVENFLOW_INLINE bool packs(const F& f, int n) {
  if constexpr (names_arrays<F>) {
    bool all = true;
    f.each_array([&](const auto* array) { all = all && fits(n, array); });
    return all;
  } else {
    return f.packs(n);
  }
}

// What the bytes of a pack are to the machine, and how they are stored: nvcc takes other structs apart at
// times.
#ifdef __CUDA_ARCH__
template <class P, int bytes = sizeof(P)>
using Word = std::conditional_t<bytes == 16, uint4, std::conditional_t<bytes == 8, uint2, uint32_t>>;
template <class W>
EVENFLOW_INLINE void store(const W& word, W* to) {
  __stwb(to, word);
}
#else
template <class P>
using Word = P;
template <class W>
EVENFLOW_INLINE void store(const W& word, W* to) {
  *to = word;
}
#endif

/// A GPU ends a kernel that accesses a pack elsewhere; so does what runs such kernels on a CPU.
template <class W, class T>
EVENFLOW_INLINE W* aligned(T* at) {
#ifndef __CUDA_ARCH__
  if (reinterpret_cast<uintptr_t>(at) % alignof(W) != 0) __builtin_trap();
#endif
  return reinterpret_cast<W*>(at);
}

template <int n, class T>
EVENFLOW_INLINE Pack<T, n> read(const T* x) {
  if constexpr (n == 1) {
    return {{x[0]}};
  } else {
    const Word<Pack<T, n>> word = *aligned<const Word<Pack<T, n>>>(x);
    Pack<T, n> out;
    __builtin_memcpy(&out, &word, sizeof out);
    return out;
  }
}

/// To the device's own memory, not to what the threads of a block share.
template <class T, int n>
EVENFLOW_INLINE void write(const Pack<T, n>& from, T* to) {
  if constexpr (n == 1) {
    to[0] = from.v[0];
  } else {
    Word<Pack<T, n>> word;
    __builtin_memcpy(&word, &from, sizeof from);
    store(word, aligned<Word<Pack<T, n>>>(to));
  }
}

/// To and from an array of a thread's own.
template <class T, int n>
EVENFLOW_INLINE void put(const Pack<T, n>& from, T* to) {
  for (int e = 0; e < n; ++e) to[e] = from.v[e];
}
template <int n, class T>
EVENFLOW_INLINE Pack<T, n> pack_of(const T* from) {
  Pack<T, n> out;
  for (int e = 0; e < n; ++e) out.v[e] = from[e];
  return out;
}

}  // namespace evenflow::ops
