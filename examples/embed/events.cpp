// Makes one event at a time, as a simulation program does: an event's conditions in, its values out.
//
//   events MODEL CONDITIONS.csv SEED       the values of each event, one a line
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "csv.hpp"
#include "evenflow/evenflow.hpp"

namespace {

/// What a thread of the simulation owns. Threads share the model.
class Generator {
 public:
  Generator(const evenflow::Model& model, uint64_t seed) : model_(model), context_("cpu", 1) {
    options_.seed = seed;
  }

  /// values (model.dims()) of event number `event`. They depend on the seed, the number and the conditions
  /// alone, not on the thread or on other events. A simulation with latents of its own passes them to
  /// model.decode, with the same options.
  void generate(int64_t event, const float* conditions, float* values) {
    options_.first = event;
    options_.context = conditions;
    model_.sample(context_, 1, values, options_);
  }

 private:
  evenflow::Model model_;
  evenflow::Context context_;
  evenflow::CallOptions options_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: events MODEL CONDITIONS.csv SEED\n");
    return 2;
  }
  try {
    const evenflow::Model model = evenflow::load(argv[1]);
    const Table conditions = read_csv(argv[2]);
    if (conditions.columns != model.context()) {
      throw std::runtime_error(std::string(argv[2]) + ": expected " + std::to_string(model.context()) +
                               " columns, got " + std::to_string(conditions.columns));
    }
    Generator generator(model, std::strtoull(argv[3], nullptr, 10));
    std::vector<float> values(static_cast<size_t>(model.dims()));
    for (int64_t event = 0; event < conditions.rows(); ++event) {
      generator.generate(event, &conditions.values[static_cast<size_t>(event * conditions.columns)],
                         values.data());
      for (size_t c = 0; c < values.size(); ++c) {
        std::printf("%.9g%c", static_cast<double>(values[c]), c + 1 == values.size() ? '\n' : ',');
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "events: %s\n", error.what());
    return 1;
  }
  return 0;
}
