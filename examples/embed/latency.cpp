// Measures the time of log_prob for one row, and rows a second on 1, 2, 4, ... threads that share one model.
//
//   latency MODEL [MAX_THREADS]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>
#include <vector>

#include "evenflow/evenflow.hpp"

namespace {

constexpr int64_t kBatch = 256;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Seconds a call of log_prob: the least and the median of 50 runs.
void one_row(const evenflow::Model& model) {
  constexpr int kRuns = 50, kCalls = 1000;
  evenflow::Context context("cpu", 1);
  std::vector<float> x(static_cast<size_t>(model.dims()), 0.25F);
  double out = 0;
  std::vector<double> seconds;
  for (int run = 0; run < kRuns; ++run) {
    const double start = now();
    for (int i = 0; i < kCalls; ++i) model.log_prob(context, x.data(), 1, &out);
    seconds.push_back((now() - start) / kCalls);
  }
  std::sort(seconds.begin(), seconds.end());
  std::printf("one row: %.2f us (median %.2f us)\n", 1e6 * seconds.front(), 1e6 * seconds[kRuns / 2]);
}

/// Rows a second of `threads` threads together, each with a context and batches of its own.
double throughput(const evenflow::Model& model, int threads) {
  constexpr double kSeconds = 1;
  std::vector<double> rates(static_cast<size_t>(threads));
  std::vector<std::thread> workers;
  for (double& rate : rates) {
    workers.emplace_back([&model, &rate] {
      evenflow::Context context("cpu", 1);
      std::vector<float> x(static_cast<size_t>(kBatch * model.dims()), 0.25F);
      std::vector<double> out(kBatch);
      const double start = now();
      double rows = 0, elapsed = 0;
      while (elapsed < kSeconds) {
        model.log_prob(context, x.data(), kBatch, out.data());
        rows += kBatch;
        elapsed = now() - start;
      }
      rate = rows / elapsed;
    });
  }
  double total = 0;
  for (std::thread& worker : workers) worker.join();
  for (const double rate : rates) total += rate;
  return total;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: latency MODEL [MAX_THREADS]\n");
    return 2;
  }
  try {
    const evenflow::Model model = evenflow::load(argv[1]);
    std::printf("instruction set: %s\n", evenflow::Context().isa());
    one_row(model);
    const int most = argc == 3 ? std::atoi(argv[2]) : static_cast<int>(std::thread::hardware_concurrency());
    for (int threads = 1; threads <= most; threads *= 2) {
      std::printf("%d threads: %.3g rows/s\n", threads, throughput(model, threads));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "latency: %s\n", error.what());
    return 1;
  }
  return 0;
}
