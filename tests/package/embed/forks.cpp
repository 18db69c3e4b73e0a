// What the child of a fork may do: use several threads where its parent used none, and else compute on one,
// since OpenMP's threads stay behind in the parent, and waiting for them would never end.
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

/// Whether a child's new context of two threads has as many as are wanted, and computes what it should.
bool child_has(int wanted, const evenflow::Model& model, double score_of_a_row) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    evenflow::Context ctx("cpu", 2);
    const std::vector<double> out = score(model, ctx, kMany);
    const bool same = out == std::vector<double>(out.size(), score_of_a_row);
    _exit(same && ctx.threads() == wanted ? 0 : 1);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace

int main(int, char** argv) {
  const evenflow::Model model = evenflow::load(argv[1]);
  evenflow::Context idle, alone("cpu", 1), pair("cpu", 2);
  const double one = score(model, alone, kMany)[0];
  score(model, pair, 1);
  if (!child_has(2, model, one)) {
    std::fprintf(stderr, "expected two threads in the child of a process that used one\n");
    return 1;
  }
  score(model, pair, kMany);
  if (!child_has(1, model, one)) {
    std::fprintf(stderr, "expected one thread in the child of a process that used two\n");
    return 1;
  }
  return pair.threads() == 2 ? 0 : 1;
}
