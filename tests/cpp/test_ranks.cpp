#include <doctest/doctest.h>

#include <condition_variable>
#include <mutex>
#include <numeric>
#include <thread>

#include "arenas.hpp"
#include "check_layer.hpp"

// Batches shared by ranks, which are threads here: they must give what one process gives.

namespace evenflow::test {
namespace {

/// Where the threads meet: the last one to come adds up, in the order of ranks.
struct Meeting {
  explicit Meeting(int size) : parts(static_cast<size_t>(size)) {}
  std::mutex mutex;
  std::condition_variable all_here;
  std::vector<double*> parts;
  size_t here = 0;
  int round = 0;
};

class ThreadRanks final : public Ranks {
 public:
  ThreadRanks(Meeting& meeting, size_t rank) : meeting_(meeting), rank_(rank) {}

  void sum(double* values, int64_t count) override {
    Meeting& m = meeting_;
    std::unique_lock<std::mutex> lock(m.mutex);
    m.parts[rank_] = values;
    const int round = m.round;
    if (++m.here < m.parts.size()) {
      m.all_here.wait(lock, [&] { return m.round != round; });
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      double total = 0;
      for (const double* part : m.parts) total += part[i];
      for (double* part : m.parts) part[i] = total;
    }
    m.here = 0;
    ++m.round;
    m.all_here.notify_all();
  }

 private:
  Meeting& meeting_;
  size_t rank_;
};

/// What a rank ends a step with.
template <class T>
struct Outcome {
  explicit Outcome(const Flow<T>& flow) : arena(flow.layout()) {}
  ParamArena<T> arena;
  StepResult result;
  std::string error;
};

/// loss_and_grad of x on ranks whose shares end at `ends`, from the values of `start`.
template <class T>
std::vector<Outcome<T>> on_ranks(const Flow<T>& flow, const ParamArena<T>& start, View<const T> x,
                                 const std::vector<int64_t>& ends) {
  Meeting meeting(static_cast<int>(ends.size()));
  std::vector<Outcome<T>> outcomes;
  for (size_t rank = 0; rank < ends.size(); ++rank) {
    outcomes.emplace_back(flow);
    std::copy_n(start.values(), flow.layout()->total_size(), outcomes.back().arena.values());
  }
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < ends.size(); ++rank) {
    threads.emplace_back([&, rank] {
      Outcome<T>& outcome = outcomes[rank];
      const int64_t first = rank ? ends[rank - 1] : 0, n = ends[rank] - first;
      const View<const T> mine(x.data + first * flow.dims(), x.shape.with_batch(n));
      ThreadRanks ranks(meeting, rank);
      Context ctx("cpu", 1);
      ctx.set_ranks(&ranks);
      const double share = static_cast<double>(n) / static_cast<double>(x.shape.n);
      outcome.error = error_of<NumericError>(
          [&] { outcome.result = flow.loss_and_grad(ctx, outcome.arena, mine, nullptr, -1, share); });
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcomes;
}

/// Largest difference between the sum of the ranks' gradients and those of `whole`, relative to the largest.
template <class T>
double gradient_error(const std::vector<Outcome<T>>& parts, const ParamArena<T>& whole) {
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < whole.layout().trainable_size(); ++i) {
    double sum = 0;
    for (const Outcome<T>& part : parts) sum += static_cast<double>(part.arena.grads()[i]);
    worst = larger(worst, std::abs(sum - static_cast<double>(whole.grads()[i])));
    largest = std::max(largest, std::abs(static_cast<double>(whole.grads()[i])));
  }
  return worst / largest;
}

RealNvpConfig images(Shape shape, int64_t scales) {
  RealNvpConfig config;
  config.shape = shape;
  config.scales = scales;
  config.base_dim = 4;
  config.residual_blocks = 1;
  return config;
}

TEST_CASE("ranks with batch norm take the step of one process") {
  const Flow<double> flow = real_nvp<double>(images({0, 4, 4, 2}, 1));
  ParamArena<double> whole(flow.layout());
  flow.init(whole, 3);
  const Shape shape{7, 4, 4, 2};
  const std::vector<double> x = random_values(shape.size(), 5, 1, 255);
  const View<const double> batch(x.data(), shape);
  Context ctx("cpu", 1);
  flow.init_from_data(ctx, whole, batch);
  add_noise(whole, 0.1);
  const std::vector<Outcome<double>> parts = on_ranks(flow, whole, batch, {1, 3, 7});
  const double* const stats = whole.values() + flow.layout()->stats_begin();
  const std::vector<double> before(stats, stats + flow.layout()->stats_size());
  const StepResult alone = flow.loss_and_grad(ctx, whole, batch, nullptr, -1);
  CHECK(!std::equal(before.begin(), before.end(), stats));
  double nll = 0;
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    CHECK(parts[rank].error == "");
    nll += parts[rank].result.nll * (rank == 0 ? 1 : rank == 1 ? 2 : 4) / 7;
    for (int64_t i = 0; i < flow.layout()->total_size(); ++i) {  // running moments
      CHECK(parts[rank].arena.values()[i] == doctest::Approx(whole.values()[i]).epsilon(1e-12));
    }
  }
  CHECK(nll == doctest::Approx(alone.nll).epsilon(1e-12));
  CHECK(gradient_error(parts, whole) < 1e-11);
}

/// Batch norm of channels 0 and 1, then channel 0 by e^up, mixed into the others, and by e^down.
struct Stretched {
  Stretched(float up, float down) : flow({0, 1, 1, 4}, Base::gaussian) {
    const Shape shape = flow.sample_shape();
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
  Flow<float> flow;
  std::unique_ptr<ParamArena<float>> arena;
};

/// Eight rows; channel 0 has mean 0, and is 0 in the last four.
std::vector<float> rows() {
  std::vector<float> x;
  for (const double v : random_values(32, 4, -1, 1)) x.push_back(static_cast<float>(v));
  for (size_t i = 0; i < 8; ++i) x[4 * i] = i < 4 ? (i % 2 ? 1.0f : -1.0f) : 0.0f;
  return x;
}

TEST_CASE("a pass that one rank has to repeat is repeated by all") {
  const Stretched whole(13, -13);
  const std::vector<float> x = rows();
  const View<const float> batch(x.data(), {8, 1, 1, 4});
  const std::vector<Outcome<float>> parts = on_ranks(whole.flow, *whole.arena, batch, {4, 8});
  Context ctx("cpu", 1);
  CHECK(whole.flow.loss_and_grad(ctx, *whole.arena, batch, nullptr, -1).drift.fallback);
  for (const Outcome<float>& part : parts) {
    CHECK(part.error == "");
    CHECK(part.result.drift.fallback);
  }
  CHECK(gradient_error(parts, *whole.arena) < 1e-5);
}

TEST_CASE("a density that is not finite on one rank fails on all") {
  const Stretched whole(60, 0);
  const std::vector<float> x = rows();
  const std::vector<Outcome<float>> parts =
      on_ranks(whole.flow, *whole.arena, View<const float>(x.data(), {8, 1, 1, 4}), {4, 8});
  CHECK(parts[0].error.find("expected") != std::string::npos);
  CHECK(parts[0].error.find("on another") == std::string::npos);
  CHECK(parts[1].error.find("a density on another rank is not finite") != std::string::npos);
}

/// Parts of a step's gradient as they were when they were told of, put together, against the final one.
void check_watch(const Flow<double>& flow, const std::vector<int32_t>& labels) {
  const Shape shape = flow.sample_shape().with_batch(5);
  ParamArena<double> arena(flow.layout());
  flow.init(arena, 3);
  const std::vector<double> x = random_values(shape.size(), 5, 1, 255);
  const View<const double> batch(x.data(), shape);
  const int32_t* label = labels.empty() ? nullptr : labels.data();
  Context ctx("cpu", 1);
  flow.init_from_data(ctx, arena, batch);
  add_noise(arena, 0.01);
  const int64_t size = flow.layout()->trainable_size();
  for (const int64_t least : {int64_t{0}, int64_t{100}, size}) {
    CAPTURE(least);
    std::vector<double> told(static_cast<size_t>(size), 0);
    std::vector<int> times(static_cast<size_t>(size), 0);
    GradientWatch watch{flow.gradient_parts(least), nullptr};
    size_t next = 0;
    watch.complete = [&](size_t part) {
      CHECK(part == next++);
      for (int64_t i = watch.parts[part].first; i < watch.parts[part].end; ++i) {
        told[static_cast<size_t>(i)] = arena.grads()[i];
        ++times[static_cast<size_t>(i)];
      }
    };
    zero_grad(ctx, arena);
    CHECK(!flow.loss_and_grad(ctx, arena, batch, label, -1, 1, &watch).drift.fallback);
    CHECK(next == watch.parts.size());
    CHECK((least == size) == (next == 1));
    CHECK(std::all_of(times.begin(), times.end(), [](int n) { return n == 1; }));
    CHECK(std::equal(told.begin(), told.end(), arena.grads()));
  }
}

TEST_CASE("gradients are complete when a watch is told so") {
  GlowConfig config;
  config.shape = {0, 8, 8, 1};
  config.levels = 2;
  config.steps = 2;
  config.hidden = 96;  // too much for tiles
  check_watch(glow<double>(config), {});
  config.hidden = 8;
  config.classes = 3;
  config.class_weight = 0.5;
  check_watch(glow<double>(config), {0, 1, 2, 1, 0});
  check_watch(real_nvp<double>(images({0, 8, 8, 1}, 2)), {});
}

}  // namespace
}  // namespace evenflow::test
