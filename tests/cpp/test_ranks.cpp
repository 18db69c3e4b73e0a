#include <doctest/doctest.h>

#include <algorithm>

#include "arenas.hpp"
#include "check_layer.hpp"
#include "embedded.hpp"

// What ranks that share a batch tell each other within a pass; tests/python/test_ranks.py runs them.

namespace evenflow::test {
namespace {

/// The other of two ranks, which has the same rows. Its check number `failing` fails; -1: none does.
class Twin final : public Ranks {
 public:
  explicit Twin(int failing) : failing_(failing) {}
  void sum(double* values, int64_t count) override {
    if (count > 1) {  // moments and their gradients
      for (int64_t i = 0; i < count; ++i) values[i] *= 2;
      return;
    }
    if (static_cast<int>(told.size()) == failing_) ++values[0];
    told.push_back(values[0]);
  }
  std::vector<double> told;  ///< number of ranks on which a check failed: of the densities, then of the drift

 private:
  int failing_;
};

/// A scaling, whose gradient goes through the batch norm of channels 0 and 1, then channel 0 by e^up, mixed
/// into the others, and by e^down. The pass is by eight rows whose channel 0 is 0 in the last four.
struct Stretched {
  Stretched(float up, float down) : flow({0, 1, 1, 4}, Base::gaussian) {
    const Shape shape = flow.sample_shape();
    flow.add("first", scaling<float>(shape));
    flow.add("norm", batch_norm<float>(shape, Mask::first_half));
    flow.add("up", scaling<float>(shape));
    flow.add("mix", plain_conv1x1<float>(shape));
    flow.add("down", scaling<float>(shape));
    flow.finalize();
    arena = std::make_unique<ParamArena<float>>(flow.layout());
    flow.init(*arena, 1);
    tensor(*arena, "initialized")[0] = 1;
    tensor(*arena, "up.logs")[0] = up;
    tensor(*arena, "down.logs")[0] = down;
  }
  StepResult pass(Ranks* ranks) {
    std::vector<float> x;
    for (const double v : random_values(32, 4, -1, 1)) x.push_back(static_cast<float>(v));
    for (size_t i = 0; i < 8; ++i) x[4 * i] = i < 4 ? (i % 2 ? 1.0f : -1.0f) : 0.0f;
    Context ctx("cpu", 1);
    ctx.set_ranks(ranks);
    zero_grad(ctx, *arena);
    return flow.loss_and_grad(ctx, *arena, {x.data(), {8, 1, 1, 4}}, nullptr, -1);
  }
  std::vector<float> grads() const {
    return std::vector<float>(arena->grads(), arena->grads() + flow.layout()->trainable_size());
  }

  Flow<float> flow;
  std::unique_ptr<ParamArena<float>> arena;
};

TEST_CASE("ranks with batch norm repeat a pass together, and fail together") {
  using Told = std::vector<double>;
  Stretched sound(0, 0), drifting(13, -13), infinite(60, 0);
  CHECK_FALSE(sound.pass(nullptr).drift.fallback);
  const std::vector<float> alone = sound.grads();
  Twin agrees(-1), fails(0), repeats(1), hears_drift(-1), hears_error(-1);
  for (Twin* twin : {&agrees, &repeats}) {
    CHECK(sound.pass(twin).drift.fallback == (twin == &repeats));
    const std::vector<float> shared = sound.grads();
    for (size_t i = 0; i < alone.size(); ++i) CHECK(shared[i] == doctest::Approx(alone[i]).epsilon(1e-4));
  }
  CHECK(agrees.told == Told{0, 0});
  CHECK_THROWS_WITH_AS(sound.pass(&fails), "[loss_and_grad] a density on another rank is not finite",
                       NumericError);
  CHECK(drifting.pass(&hears_drift).drift.fallback);
  CHECK(hears_drift.told == Told{0, 1});
  CHECK_THROWS_WITH_AS(infinite.pass(&hears_error),
                       doctest::Contains("[loss_and_grad] expected a finite log-likelihood, got "),
                       NumericError);
  CHECK(hears_error.told == Told{1});
}

}  // namespace
}  // namespace evenflow::test
