// Trains a flow of couplings on the rows of a CSV file, without Python. Python loads the model file too.
//
//   train ROWS.csv MODEL [EPOCHS]
//
// The optimiser's state goes beside the model. If both are there, training goes on from them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "csv.hpp"
#include "evenflow/evenflow.hpp"

namespace {

using evenflow::Trainable;

constexpr int64_t kBatch = 128;

bool exists(const std::string& path) {
  return std::ifstream(path).good();
}

Trainable<float> fresh(evenflow::Context& context, const Table& table) {
  evenflow::CouplingFlowConfig settings;
  settings.dims = table.columns;
  settings.couplings = 6;
  settings.hidden = {32, 32};
  Trainable<float> model(evenflow::ModelConfig{settings, evenflow::Dtype::float32, 0});
  const evenflow::Shape all = model.flow.sample_shape().with_batch(table.rows());
  model.flow.init_from_data(context, model.arena, evenflow::View<const float>(table.values.data(), all));
  return model;
}

/// One pass over the rows in an order that depends on the epoch; the mean loss in nats.
double epoch(evenflow::Context& context, Trainable<float>& model, evenflow::Optimizer<float>& optimizer,
             const Table& table, uint64_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(table.rows()));
  std::iota(order.begin(), order.end(), 0);
  evenflow::Rng rng(seed);
  for (int64_t i = table.rows(); i-- > 1;)
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(rng.below(i + 1))]);

  std::vector<float> batch(static_cast<size_t>(kBatch * table.columns));
  double sum = 0;
  int64_t steps = 0;
  for (int64_t first = 0; first + kBatch <= table.rows(); first += kBatch, ++steps) {
    for (int64_t i = 0; i < kBatch; ++i) {
      std::copy_n(&table.values[static_cast<size_t>(order[static_cast<size_t>(first + i)] * table.columns)],
                  table.columns, &batch[static_cast<size_t>(i * table.columns)]);
    }
    const evenflow::View<const float> x(batch.data(), model.flow.sample_shape().with_batch(kBatch));
    sum += model.flow.train_step(context, model.arena, x, nullptr, -1, {optimizer, 50}).loss;
  }
  return sum / static_cast<double>(steps);
}

void train(const std::string& rows, const std::string& path, int epochs) {
  const Table table = read_csv(rows);
  if (table.rows() < kBatch) throw std::runtime_error(rows + ": expected at least 128 rows");
  const std::string state = path + ".optimizer";
  evenflow::Context context;
  const bool resume = exists(path) && exists(state);
  Trainable<float> model = resume ? evenflow::load_trainable<float>(path) : fresh(context, table);
  if (model.flow.dims() != table.columns)
    throw std::runtime_error(path + ": expected a model of these columns");

  evenflow::OptimizerConfig settings;
  settings.lr = 3e-3;
  evenflow::Optimizer<float> optimizer(model.flow.layout(), settings);
  if (resume) evenflow::load_optimizer(state, optimizer);
  for (int i = 0; i < epochs; ++i) {
    const double loss = epoch(context, model, optimizer, table, static_cast<uint64_t>(optimizer.steps()));
    std::printf("step %lld: loss %.6f nats\n", static_cast<long long>(optimizer.steps()), loss);
  }
  evenflow::save_optimizer(state, optimizer);
  evenflow::save(path, model);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: train ROWS.csv MODEL [EPOCHS]\n");
    return 2;
  }
  try {
    train(argv[1], argv[2], argc == 4 ? std::atoi(argv[3]) : 10);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "train: %s\n", error.what());
    return 1;
  }
  return 0;
}
