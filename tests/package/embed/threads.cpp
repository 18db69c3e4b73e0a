// 16 threads share one model, each with a context of its own; all get the bits that one thread gets alone. To
// be run under ThreadSanitizer.
//
// usage: threads MODEL ...
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "evenflow/evenflow.hpp"

namespace {

struct Results {
  std::vector<float> x, z, dx;
  std::vector<double> density, logdet;

  bool operator==(const Results& other) const {
    return x == other.x && z == other.z && dx == other.dx && density == other.density &&
           logdet == other.logdet;
  }
};

Results use(const evenflow::Model& model, int64_t n) {
  evenflow::Context ctx("cpu", 1);
  const std::vector<int32_t> labels(static_cast<size_t>(n), 0);
  evenflow::CallOptions options;
  if (model.classes()) options.labels = labels.data();
  options.seed = 7;
  const size_t rows = static_cast<size_t>(n), values = rows * static_cast<size_t>(model.dims());
  Results out{std::vector<float>(values), std::vector<float>(values), std::vector<float>(values),
              std::vector<double>(rows), std::vector<double>(rows)};
  model.sample_and_log_prob(ctx, n, out.x.data(), out.density.data(), options);
  model.log_prob_and_grad(ctx, out.x.data(), n, out.density.data(), out.dx.data(), nullptr, options);
  model.log_prob(ctx, out.x.data(), n, out.density.data(), options);
  model.encode(ctx, out.x.data(), n, out.z.data(), options);
  model.inverse(ctx, out.z.data(), n, out.x.data(), out.logdet.data(), options);
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kThreads = 16;
  int wrong = 0;
  for (int i = 1; i < argc; ++i) {
    const evenflow::Model model = evenflow::load(argv[i]);
    for (const int64_t n : {int64_t{1}, int64_t{40}}) {
      const Results alone = use(model, n);
      std::vector<char> equal(kThreads);
      std::vector<std::thread> threads;
      for (char& same : equal) {
        threads.emplace_back([&model, &alone, &same, n] {
          same = 1;
          for (int round = 0; round < 3; ++round) same = same && use(evenflow::Model(model), n) == alone;
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (const char same : equal) wrong += !same;
    }
  }
  if (wrong)
    std::fprintf(stderr, "expected %d threads with the same results, got %d others\n", kThreads, wrong);
  return wrong ? 1 : 0;
}
