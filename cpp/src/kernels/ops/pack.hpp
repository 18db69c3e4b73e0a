#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/ops/inline.hpp"

// What the loops of a backend (CpuExec in cpu/exec.hpp, DeviceExec in device/exec.hpp) ask of a functor f:
//
//   for_each            f(row, column) computes one element
//   sum, largest        f(row, column) returns a Pack of doubles
//                       each_array(g) calls g(array, distance of its rows) for each array that f reads
//   sum_columns         f(row, column, sum, next) adds to sum[0], sum[next] ..., `sums` of them
//   sum_columns_to,     the same; finish(column, sum, next) gets each column's totals, `finish.sums` of them
//   sum_rows
//   update              next(i) is the new element i of the array target(); it may write others itself
//                       each_array(g) as above
//   map, map_groups     see below
//
// On a GPU a thread may compute a pack: n adjacent columns, with one access per array. The calls of sum,
// largest, sum_columns and update are templates over n, and so are those of for_each where f has a Number:
//
//   Number              what f's arrays hold, the bulk of them; a pack has up to sixteen bytes of these
//   packs(n)            whether n columns, from a multiple of n on, are one access in each array; each_array
//                       replaces it in sum, largest and update
//
// On a CPU n is 1, and compilers make vectors of loops.
//
// A map reads its inputs, computes, and writes its outputs, element by element on a GPU, and in runs of
// successive elements on a CPU:
//
//   sums                how many numbers an element adds to the sums of its group (map_groups alone)
//   prepare()           called once before the first element (map_groups alone)
//   element(row, column, sum)
//                       reads, computes and writes one element
//   inputs(), outputs() how many numbers an element reads and writes
//   load_run(run, in, room, gather)
//                       writes input i of the run's elements to in + i * room. gather(run, from, stride,
//                       step, to) copies an array whose element (row, column) is at row * stride + column *
//                       step
//   compute<V>(in, out, sum, room)
//                       computes the one element, or the several, whose inputs i are the V at in + i * room.
//                       `map` calls it with V = T, map_groups also with the Lanes of cpu/lanes.hpp
//   store_run(run, out, room, scatter)
//                       the reverse of load_run: scatter(run, from, to, stride, step)

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

/// Whether packs of n fit all arrays that f names.
template <class F>
EVENFLOW_INLINE bool all_fit(const F& f, int n) {
  bool all = true;
  f.each_array([&](const auto* array, int64_t stride) { all = all && fits(n, array, stride); });
  return all;
}

/// Successive elements of rows of `cols`: `count`, from column `col` of `row` on.
struct Run {
  static constexpr int64_t kMost = 128;  ///< elements
  int64_t row, col, cols, count;
};

// nvcc sometimes accesses a struct field by field. A Word has the bytes of a pack and is accessed at once.
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

/// A pack's place in memory. A GPU stops a kernel that accesses a pack at an address that is not a multiple
/// of its size. A CPU would not, so the tests' emulator needs the check.
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

/// Writes to a device's main memory. (Memory that the threads of a block share takes plain assignments.)
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

/// Copies between a pack and a thread's own array, which may lie in registers.
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
