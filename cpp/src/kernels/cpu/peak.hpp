#pragma once

#include <cstdint>

// What the machine can do at most, for `bench/` to measure kernels against.

namespace evenflow {

/// Multiply-adds (two operations each) in registers, billions of operations a second over all threads.
double peak_gflops_f32(int threads);

/// The same of the fastest instruction for bfloat16, or 0 on a machine without one.
double peak_gflops_bf16(int threads);

/// Memory read by a sum over 512 MB, in billions of bytes a second.
double read_bandwidth_gbs(int threads);

/// z = x + y / 2 over 512 MB; bytes of the three arrays a second, without the read that a write may cause.
double triad_bandwidth_gbs(int threads);

/// Three arrays changed by a fourth, as an optimiser does, over 512 MB; bytes of three that are written and
/// of four that are read a second.
double update_bandwidth_gbs(int threads);

}  // namespace evenflow
