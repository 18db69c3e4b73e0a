// Scores the rows of a CSV file and writes samples to another one.
//
//   score MODEL ROWS.csv                   log p of every row, nats, one a line
//   score MODEL --sample N SEED OUT.csv    N samples
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "csv.hpp"
#include "evenflow/evenflow.hpp"

namespace {

void print_scores(const evenflow::Model& model, const std::string& path) {
  const Table table = read_csv(path);
  if (table.columns != model.dims()) {
    throw std::runtime_error(path + ": expected " + std::to_string(model.dims()) + " columns, got " +
                             std::to_string(table.columns));
  }
  evenflow::Context context;
  std::vector<double> scores(static_cast<size_t>(table.rows()));
  model.log_prob(context, table.values.data(), table.rows(), scores.data());
  for (const double score : scores) std::printf("%.17g\n", score);
}

void write_samples(const evenflow::Model& model, int64_t n, uint64_t seed, const std::string& path) {
  const int64_t columns = model.dims();
  std::vector<float> x(static_cast<size_t>(n * columns));
  evenflow::Context context;
  evenflow::CallOptions options;
  options.seed = seed;
  model.sample(context, n, x.data(), options);

  std::FILE* file = std::fopen(path.c_str(), "w");
  if (!file) throw std::runtime_error("can't write " + path);
  for (size_t i = 0; i < x.size(); ++i) {
    const bool last = (i + 1) % static_cast<size_t>(columns) == 0;
    std::fprintf(file, "%.9g%c", static_cast<double>(x[i]), last ? '\n' : ',');
  }
  if (std::fclose(file) != 0) throw std::runtime_error("can't write " + path);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 3) {
      print_scores(evenflow::load(argv[1]), argv[2]);
    } else if (argc == 6 && std::string(argv[2]) == "--sample") {
      write_samples(evenflow::load(argv[1]), std::atoll(argv[3]), std::strtoull(argv[4], nullptr, 10),
                    argv[5]);
    } else {
      std::fprintf(stderr, "usage: score MODEL ROWS.csv | score MODEL --sample N SEED OUT.csv\n");
      return 2;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "score: %s\n", error.what());
    return 1;
  }
  return 0;
}
