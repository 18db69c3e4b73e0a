// The child of a fork has threads of its own, whether its parent had some or not.
//
// usage: forks MODEL (of a table in float32)
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "evenflow/evenflow.hpp"

namespace {

constexpr int64_t kMany = 20000;  ///< rows that are shared out

std::vector<double> score(const evenflow::Model& model, evenflow::Context& ctx, int64_t n) {
  const std::vector<float> x(static_cast<size_t>(n * model.dims()), 0.3f);
  std::vector<double> out(static_cast<size_t>(n));
  model.log_prob(ctx, x.data(), n, out.data());
  return out;
}

/// Whether a child computes what it should, with its parent's context and with a new one.
bool child_computes(const evenflow::Model& model, evenflow::Context& parents, double score_of_a_row) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    evenflow::Context own("cpu", 2);
    const std::vector<double> wanted(kMany, score_of_a_row);
    _exit(score(model, own, kMany) == wanted && score(model, parents, kMany) == wanted ? 0 : 1);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace

int main(int, char** argv) {
  const evenflow::Model model = evenflow::load(argv[1]);
  evenflow::Context alone("cpu", 1), pair("cpu", 2);
  const double one = score(model, alone, kMany)[0];
  if (!child_computes(model, pair, one)) {
    std::fprintf(stderr, "expected the same densities in the child of a process that used one thread\n");
    return 1;
  }
  score(model, pair, kMany);
  if (!child_computes(model, pair, one)) {
    std::fprintf(stderr, "expected the same densities in the child of a process that used two threads\n");
    return 1;
  }
  return 0;
}
