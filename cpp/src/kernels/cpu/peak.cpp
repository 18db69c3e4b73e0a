#include "kernels/cpu/peak.hpp"

#include <omp.h>

#include <chrono>
#include <memory>

#include "core/memory.hpp"
#include "kernels/cpu/peak_loops.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

[[gnu::weak]] PeakLoops peak_loops_amx();  // old compilers do not know the instructions

PeakLoops peak_loops_baseline() {
  return peak::loops<Baseline>();
}

namespace {

constexpr double kSeconds = 0.2;
constexpr size_t kBufferBytes = size_t(512) << 20;
constexpr int64_t kAlign = 1024;  // values; a whole number of any loop's steps

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

PeakLoops best_loops() {
#if defined(__x86_64__)
  const IsaLevel level = best_isa(IsaLevel::avx512);
  if (level == IsaLevel::avx512) return peak_loops_avx512();
  if (level == IsaLevel::avx2) return peak_loops_avx2();
#endif
  return peak_loops_baseline();
}

/// The sum over threads of work a second. `block(thread)` does a bit of it and says how much; the first one
/// brings the clock up and the pages in, and is not counted.
template <class F>
double rate(int threads, const F& block) {
  double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    const int thread = omp_get_thread_num();
    block(thread);
#pragma omp barrier
    const double start = now();
    double done = 0, elapsed = 0;
    while (elapsed < kSeconds) {
      done += block(thread);
      elapsed = now() - start;
    }
    total += done / elapsed;
  }
  return total;
}

double peak_gflops(int threads, const PeakLoops& loops) {
  constexpr int64_t kRounds = 200000;
  const double flops = static_cast<double>(kRounds * loops.flops);
  return 1e-9 * rate(threads, [&](int) {
           [[maybe_unused]] volatile float kept = loops.multiply_add(kRounds);  // so the loop stays
           return flops;
         });
}

/// Memory with as large pages as parameters have; its parts written first by the thread that passes them. A
/// pass moves `moved` arrays of those that it has.
template <class F>
double bandwidth(int threads, int arrays, int moved, const F& pass) {
  const int64_t part = static_cast<int64_t>(kBufferBytes) / 4 / threads / arrays / kAlign * kAlign;
  const auto free = [](float* memory) { deallocate(memory, kBufferBytes); };
  const std::unique_ptr<float, decltype(free)> buffer(static_cast<float*>(allocate(kBufferBytes)), free);
  float* data = buffer.get();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) {
    for (int64_t i = 0; i < part * arrays; ++i) data[thread * part * arrays + i] = 1;
  }
  const double bytes = static_cast<double>(part * moved) * 4;
  return 1e-9 * rate(threads, [&](int thread) {
           pass(part, data + thread * part * arrays);
           return bytes;
         });
}

}  // namespace

double peak_gflops_f32(int threads) {
  return peak_gflops(threads, best_loops());
}

double peak_gflops_bf16(int threads) {
#if defined(__x86_64__)
  if (best_isa(IsaLevel::amx) == IsaLevel::amx) return peak_gflops(threads, peak_loops_amx());
  if (__builtin_cpu_supports("avx512bf16")) return peak_gflops(threads, peak_loops_bf16());
#endif
  (void)threads;
  return 0;
}

double read_bandwidth_gbs(int threads) {
  const PeakLoops loops = best_loops();
  return bandwidth(threads, 1, 1, [&](int64_t n, const float* x) {
    [[maybe_unused]] volatile float kept = loops.read(n, x);
  });
}

double triad_bandwidth_gbs(int threads) {
  const PeakLoops loops = best_loops();
  return bandwidth(threads, 3, 3, [&](int64_t n, float* x) { loops.triad(n, x, x + n, x + 2 * n); });
}

double update_bandwidth_gbs(int threads) {
  const PeakLoops loops = best_loops();
  return bandwidth(threads, 4, 7,
                   [&](int64_t n, float* x) { loops.update(n, x, x + n, x + 2 * n, x + 3 * n); });
}

}  // namespace evenflow
