// Draws from a density given a context: a posterior of simulation-based inference given what was observed.
// The model is the estimator; where the prior has bounds, leave out the draws beyond them.
//
//   posterior MODEL N SEED OBSERVED ...    N draws, one a line; the last number is log p
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "evenflow/evenflow.hpp"

int main(int argc, char** argv) {
  if (argc < 5 || std::atoll(argv[2]) < 1) {
    std::fprintf(stderr, "usage: posterior MODEL N SEED OBSERVED ...\n");
    return 2;
  }
  try {
    const evenflow::Model model = evenflow::load(argv[1]);
    if (argc - 4 != model.context()) {
      std::fprintf(stderr, "posterior: expected %lld observed numbers, got %d\n",
                   static_cast<long long>(model.context()), argc - 4);
      return 2;
    }
    const int64_t n = std::atoll(argv[2]);
    std::vector<double> observed, log_prob(static_cast<size_t>(n));
    for (int i = 4; i < argc; ++i) observed.push_back(std::stod(argv[i]));
    std::vector<float> draws(static_cast<size_t>(n * model.dims()));

    evenflow::Context context;
    evenflow::CallOptions options;
    options.seed = std::strtoull(argv[3], nullptr, 10);
    options.context = {observed.data(), 0};  // stride 0: one for all draws
    model.sample_and_log_prob(context, n, draws.data(), log_prob.data(), options);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t c = 0; c < model.dims(); ++c) {
        std::printf("%.9g,", static_cast<double>(draws[static_cast<size_t>(i * model.dims() + c)]));
      }
      std::printf("%.17g\n", log_prob[static_cast<size_t>(i)]);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "posterior: %s\n", error.what());
    return 1;
  }
  return 0;
}
