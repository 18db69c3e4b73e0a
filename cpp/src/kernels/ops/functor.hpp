#pragma once

#include <cstdint>

// What the loops of a backend (CpuExec in cpu/exec.hpp, DeviceExec in device/exec.hpp) ask of a functor f:
//
//   for_each            f(row, column) computes one element
//   sum, largest        f(row, column) returns a double
//   sum_columns         f(row, column, sum, next) adds to sum[0], sum[next] ..., `sums` of them
//   sum_columns_to,     the same; finish(column, sum, next) gets each column's totals, `finish.sums` of them
//   sum_rows
//   map, map_groups     see below
//
// On a CPU compilers make vectors of loops.
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

/// Successive elements of rows of `cols`: `count`, from column `col` of `row` on.
struct Run {
  static constexpr int64_t kMost = 128;  ///< elements
  int64_t row, col, cols, count;
};

}  // namespace evenflow::ops
