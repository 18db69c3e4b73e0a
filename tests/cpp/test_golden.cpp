#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "evenflow/evenflow.hpp"
#include "evenflow/io.hpp"
#include "larger.hpp"

namespace fs = std::filesystem;

// Model files of every format load for ever, and give what they gave; tests/golden/make.py made them.

namespace evenflow::test {
namespace {

template <class T>
std::vector<T> values_of(const TensorFile& file, const std::string& name) {
  const Tensor& tensor = file.tensors.at(name);
  std::vector<T> out(tensor.bytes.size() / sizeof(T));
  std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

/// max |got - wanted| / max(1, max |wanted|).
template <class T>
double error_of(const std::vector<T>& got, const std::vector<T>& wanted) {
  REQUIRE(got.size() == wanted.size());
  double error = 0, size = 1;
  for (size_t i = 0; i < got.size(); ++i) {
    error = larger(error, std::abs(static_cast<double>(got[i]) - static_cast<double>(wanted[i])));
    size = std::max(size, std::abs(static_cast<double>(wanted[i])));
  }
  return error / size;
}

template <class T>
void check_values(const Model& model, const TensorFile& file, double bound) {
  const std::vector<T> x = values_of<T>(file, "x"), sample = values_of<T>(file, "sample");
  const std::vector<double> log_prob = values_of<double>(file, "log_prob");
  const int64_t n = static_cast<int64_t>(log_prob.size());
  REQUIRE(static_cast<int64_t>(x.size()) == n * model.dims());
  std::vector<int32_t> labels;
  CallOptions options;
  if (model.classes()) {
    for (const int64_t label : values_of<int64_t>(file, "label"))
      labels.push_back(static_cast<int32_t>(label));
    options.labels = labels.data();
  }
  std::vector<double> context;
  if (model.context()) {
    context = values_of<double>(file, "context");
    REQUIRE(static_cast<int64_t>(context.size()) == n * model.context());
    options.context = context.data();
  }
  options.seed = std::stoull(file.metadata.at("seed"));
  Context ctx;
  std::vector<double> density(log_prob.size());
  std::vector<T> drawn(sample.size());
  model.log_prob(ctx, x.data(), n, density.data(), options);
  model.sample(ctx, n, drawn.data(), options);
  CHECK(error_of(density, log_prob) <= bound);
  CHECK(error_of(drawn, sample) <= bound);
}

// Instruction sets add up in different orders. In float32 that is a few roundings of 6e-8, relative to the
// largest value (2e-7 between the narrowest and the widest vectors). A bfloat16 activation that lies between
// two numbers may go to the other one, 2^-8 away, of a few that a sum has.
double bound_of(const Model& model) {
  if (model.dtype() == Dtype::float64) return 1e-12;
  return model.config().find("bfloat16") == std::string::npos ? 3e-6 : 5e-3;
}

TEST_CASE("golden files") {
  int files = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(EVENFLOW_TEST_FOLDER) / "golden")) {
    const std::string path = entry.path().string(), end = ".safetensors", beside = ".expected" + end;
    const auto ends_with = [&](const std::string& text) {
      return path.size() > text.size() && path.compare(path.size() - text.size(), text.size(), text) == 0;
    };
    if (!ends_with(end) || ends_with(beside)) continue;
    CAPTURE(path);
    const Model model = load(path);
    const std::string config = read_safetensors(path).metadata.at("config");
    CHECK(model.config().find("auto") == std::string::npos);
    if (config.find("auto") == std::string::npos) CHECK(model.config() == config);
    const TensorFile file = read_safetensors(path.substr(0, path.size() - end.size()) + beside);
    if (model.dtype() == Dtype::float32) {
      check_values<float>(model, file, bound_of(model));
    } else {
      check_values<double>(model, file, bound_of(model));
    }
    ++files;
  }
  CHECK(files >= 13);
}

}  // namespace
}  // namespace evenflow::test
