// The machine's limits, and the times of single convolutions. native.py compiles this file for the processor
// that it runs on, so every loop is written once, for the widest vectors that the compiler may use here.

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "evenflow/evenflow.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/net/layout.hpp"

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
#include "kernels/cpu/amx.hpp"
#endif

using namespace evenflow;

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kVectorBytes)));
constexpr int64_t kLanes = kVectorBytes / 4;

constexpr double kSeconds = 0.2;
constexpr size_t kBufferBytes = size_t(512) << 20;
constexpr int kSums = 12;  // two units times a latency of four or five cycles, within sixteen registers
constexpr int kLoads = 8;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The sum over threads of work a second. `block(thread)` does some work and returns how much. The first
/// block of a thread raises the clock and touches the pages, and does not count.
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

/// `loop(rounds)` returns a float that depends on all its results, so that the compiler keeps the loop.
double gflops(int threads, double flops_per_round, float (*loop)(int64_t rounds)) {
  constexpr int64_t kRounds = 200000;
  return 1e-9 * rate(threads, [&](int) {
           [[maybe_unused]] volatile float kept = loop(kRounds);
           return kRounds * flops_per_round;
         });
}

float total(const Vector* sums) {
  float result = 0;
  for (int k = 0; k < kSums; ++k) {
    for (int64_t i = 0; i < kLanes; ++i) result += sums[k][i];
  }
  return result;
}

float multiply_add(int64_t rounds) {
  Vector sums[kSums];
  // Values that stay near 1, and that the compiler can't know.
  const float count = static_cast<float>(rounds);
  const Vector factor = Vector{} + count / (count + 1), offset = Vector{} + 1 / (count + 1);
  for (int k = 0; k < kSums; ++k) sums[k] = offset + static_cast<float>(k);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = sums[k] * factor + offset;
  }
  return total(sums);
}

#if defined(__AVX512BF16__)
/// Sixteen lanes of two products and two sums.
float multiply_add_pairs(int64_t rounds) {
  const __m512 small = _mm512_set1_ps(1 / (static_cast<float>(rounds) + 1));
  const __m512bh factor = _mm512_cvtne2ps_pbh(small, small);
  __m512 sums[kSums];
  for (int k = 0; k < kSums; ++k) sums[k] = _mm512_set1_ps(static_cast<float>(k));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = _mm512_dpbf16_ps(sums[k], factor, factor);
  }
  float result = 0;
  for (int k = 0; k < kSums; ++k) result += _mm512_reduce_add_ps(sums[k]);
  return result;
}
#endif

#if defined(__AMX_BF16__)
/// Four products of 16 x 32 and 32 x 16 matrices.
float multiply_add_matrices(int64_t rounds) {
  const MatrixRegisters registers;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  alignas(64) float sums[16 * 16];
  _tile_stored(3, sums, 64);
  return sums[0];
}
#endif

/// GB/s of `pass(n, x)`, which moves `moved` arrays a call. x holds `arrays` arrays of n vectors, one after
/// the other. The pages are as large as those of parameters, and each thread first writes its own.
template <class F>
double gbs(int threads, int arrays, int moved, const F& pass) {
  const int64_t n = static_cast<int64_t>(kBufferBytes) / kVectorBytes / threads / arrays / kLoads * kLoads;
  SharedBuffer<float> memory(kBufferBytes / sizeof(float));
  Vector* const buffer = reinterpret_cast<Vector*>(memory.data());
#pragma omp parallel num_threads(threads)
  std::fill_n(buffer + omp_get_thread_num() * n * arrays, n * arrays, Vector{} + 1);
  const double bytes = static_cast<double>(n * moved) * kVectorBytes;
  return 1e-9 * rate(threads, [&](int thread) {
           pass(n, buffer + thread * n * arrays);
           return bytes;
         });
}

}  // namespace

extern "C" {

/// Multiply-adds in registers, two operations each.
double float32_gflops(int threads) {
  return gflops(threads, 2 * kSums * kLanes, multiply_add);
}

/// The same for the fastest bfloat16 instruction; 0 without one.
double bfloat16_gflops([[maybe_unused]] int threads) {
#if defined(__AMX_BF16__)
  // The call asks the system for the matrix registers.
  if (std::strcmp(Context().isa(), "amx") == 0) {
    return gflops(threads, 4 * 2 * 16 * 32 * 16, multiply_add_matrices);
  }
#endif
#if defined(__AVX512BF16__)
  return gflops(threads, 64 * kSums, multiply_add_pairs);
#else
  return 0;
#endif
}

/// A sum over 512 MB.
double read_gbs(int threads) {
  return gbs(threads, 1, 1, [](int64_t n, const Vector* x) {
    Vector sums[kSums] = {};
    for (int64_t i = 0; i < n; i += kLoads) {
#pragma GCC unroll 8
      for (int k = 0; k < kLoads; ++k) sums[k] += x[i + k];
    }
    [[maybe_unused]] volatile float kept = total(sums);
  });
}

/// Three arrays are read and written, and a fourth is read, as in a step of an optimiser.
double update_gbs(int threads) {
  return gbs(threads, 4, 7, [](int64_t n, Vector* x) {
    for (int64_t i = 0; i < n; ++i) {
      for (int array = 1; array < 4; ++array) x[i + array * n] = 0.5f * x[i + array * n] + x[i];
    }
  });
}

/// Median seconds of a float32 convolution over at least `seconds`: forward (pass 0, with bias and ReLU),
/// gradient of its data (1) or of its weights (2). Rows are as far apart as in the hidden activations of a
/// net.
double conv_seconds(int pass, int n, int h, int w, int cin, int cout, int kernel, int edge, int threads,
                    double seconds) {
  ConvDims dims;
  dims.in = {n, h, w, cin};
  dims.cout = cout;
  dims.kernel = kernel;
  dims.edge = edge;
  const int64_t x_stride = padded_stride(cin, 4), y_stride = padded_stride(cout, 4);
  std::vector<float> x_values(dims.in.pixels() * x_stride), y_values(dims.in.pixels() * y_stride),
      weights(dims.weight_size()), bias(cout);
  Rng rng(0, Stream::test);
  for (std::vector<float>* values : {&x_values, &y_values, &weights, &bias}) {
    for (float& value : *values) value = static_cast<float>(rng.uniform(-1, 1));
  }
  const View<float> x(x_values.data(), dims.in, x_stride), y(y_values.data(), dims.out(), y_stride);
  Context ctx("cpu", threads);
  const KernelSet<float>& kernels = ctx.kernels<float>();
  const auto call = [&] {
    if (pass == 0)
      return kernels.net.conv_forward(ctx, dims, x, weights.data(), {bias.data(), nullptr, true}, y);
    if (pass == 1) return kernels.net.conv_backward_data(ctx, dims, y, weights.data(), x, false);
    kernels.net.conv_backward_weights(ctx, dims, x, y, weights.data());
  };
  call();  // touches pages and scratch memory
  std::vector<double> times;
  for (double spent = 0; spent < seconds || times.size() < 3; spent += times.back()) {
    const double start = now();
    call();
    times.push_back(now() - start);
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

}  // extern "C"
