#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "arenas.hpp"
#include "plain_table.hpp"
#include "system.hpp"

// Models and files of the tests of what programs embed.

namespace evenflow::test {

/// A name in the temporary folder whose file goes with the object.
struct TemporaryFile {
  explicit TemporaryFile(const std::string& name = "model") {
    static int count = 0;
    const std::string own = std::to_string(getpid()) + "-" + std::to_string(count++) + "-" + name;
    path = (std::filesystem::temp_directory_path() / own).string();
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::string path;
};

template <class T>
std::vector<T> draws(int64_t count, double scale, double offset) {
  Rng rng(11, Stream::test);
  std::vector<T> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<T>(offset + scale * rng.normal()));
  return out;
}

/// A model, initialised from data, whose nets are not the identity.
template <class T, class Config>
Trainable<T> initialised(const Config& config) {
  Trainable<T> model(ModelConfig{config, Dtype::float32, 3});
  Context ctx("cpu", 1);
  const bool image = model.flow.sample_shape().pixels_per_sample() > 1;
  const int64_t n = 32;
  const std::vector<T> x = draws<T>(n * model.flow.dims(), image ? 3 : 1, image ? 16 : 0);
  model.flow.init_from_data(ctx, model.arena,
                            View<const T>(x.data(), model.flow.sample_shape().with_batch(n)));
  add_noise(model.arena, 0.02);
  return model;
}

inline CouplingFlowConfig table() {
  CouplingFlowConfig config = plain_table();
  config.dims = 5;
  config.couplings = 3;
  config.hidden = {8, 8};
  config.permutation = "lu";
  config.preprocess = "whiten";
  return config;
}

inline GlowConfig glow_with_classes() {
  GlowConfig config;
  config.shape = {0, 4, 4, 2};
  config.levels = 2;
  config.steps = 2;
  config.hidden = 6;
  config.classes = 3;
  config.class_weight = 0.1;
  config.bits = 5;
  return config;
}

}  // namespace evenflow::test
