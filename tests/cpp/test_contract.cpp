#include "contract.hpp"

// docs/contract.md, tried on random pairs of parameters and inputs, for every layer and net. Pairs within the
// contract must give finite values and gradients, and come back within the stated bound. All others may also
// give a NumericError, which must name the layer. EVENFLOW_CONTRACT_PAIRS sets the number of pairs.

namespace evenflow::test {
namespace {

template <class T>
class Cases {
 public:
  std::vector<Case<T>> all() {
    for (const Shape& shape : {Shape{0, 1, 1, 3}, Shape{0, 2, 2, 2}}) channel_layers(shape);
    movements();
    for (const Shape& shape : {Shape{0, 1, 1, 1}, Shape{0, 1, 1, 4}, Shape{0, 2, 1, 3}}) {
      add("lu_conv1x1", Kind::matrix, lu_conv1x1<T>(shape));
      add("plain_conv1x1", Kind::matrix, plain_conv1x1<T>(shape));
    }
    for (Whitening kind : {Whitening::zca, Whitening::covariance})
      add("whiten", Kind::whiten, whiten<T>({0, 1, 1, 3}, kind));
    for (bool learned : {false, true}) {
      for (int64_t classes : {0, 3}) {
        if (learned || classes)
          add("top_prior", Kind::top, top_prior<T>({0, 2, 2, 2}, learned, classes)).classes = classes;
      }
    }
    couplings();
    return std::move(cases_);
  }

 private:
  Case<T>& add(const std::string& name, Kind kind, std::unique_ptr<Layer<T>> layer) {
    Case<T> c;
    c.name = name + " " + to_string(layer->input_shape());
    c.kind = kind;
    c.layer = std::move(layer);
    cases_.push_back(std::move(c));
    return cases_.back();
  }

  void channel_layers(const Shape& shape) {
    add("actnorm", Kind::channels, actnorm<T>(shape));
    add("scaling", Kind::channels, scaling<T>(shape));
    add("standardize", Kind::channels, standardize<T>(shape));
    add("rescale", Kind::channels, rescale<T>(shape, 1.5, 3));
    add("logit", Kind::logit, logit<T>(shape));
    std::vector<Bounds> bounds(static_cast<size_t>(shape.c));
    for (size_t c = 0; c < bounds.size(); ++c) {
      if (c < 2) bounds[c].low = 0;
      if (c % 2 == 0) bounds[c].high = c < 2 ? 1 : 2.5;
    }
    add("unbound", Kind::bounds, unbound<T>(shape, bounds)).bounds = bounds;
    add("unit_box", Kind::box, unit_box<T>(shape));
    for (Mask mask : {Mask::first_half, Mask::second_half, Mask::odd, Mask::even, Mask::checkerboard0,
                      Mask::checkerboard1}) {
      add("batch_norm", Kind::channels, batch_norm<T>(shape, mask));
    }
  }

  void movements() {
    for (Order order : {Order::reverse, Order::shuffle, Order::even_first}) {
      add("permutation", Kind::movement, permutation<T>({0, 2, 1, 5}, order));
    }
    for (SqueezeOrder order : {SqueezeOrder::raster, SqueezeOrder::diagonal}) {
      add("squeeze", Kind::movement, squeeze<T>({0, 2, 4, 1}, order));
      add("unsqueeze", Kind::movement, unsqueeze<T>({0, 1, 2, 4}, order));
    }
    add("flatten", Kind::movement, flatten<T>({0, 2, 2, 2}));
  }

  void couplings() {
    for (const LawOptions& law : every_law()) {
      add("elementwise " + law.name, Kind::elementwise, elementwise<T>({0, 1, 1, 2}, {0, 1}, law)).law =
          law_of(law);
    }
    for (Mask mask : {Mask::second_half, Mask::first_half, Mask::odd, Mask::even, Mask::checkerboard0,
                      Mask::checkerboard1}) {
      for (const LawOptions& law : every_law()) {
        for (auto& [name, net] : nets_of(mask, static_cast<int>(numbers_of_law(law)))) {
          const Conditioner<T>* raw = net.get();
          const bool interleaved = law.name.size() % 2 == 0;
          Case<T>& c =
              coupling("law " + law.name + " " + name, mask, raw,
                       evenflow::coupling<T>(shape_of(mask), mask, std::move(net), {law, interleaved, {}}));
          c.law = law_of(law);
          c.interleaved = interleaved;
        }
      }
    }
  }

  Case<T>& coupling(const std::string& name, Mask mask, const Conditioner<T>* net,
                    std::unique_ptr<Layer<T>> layer) {
    Case<T>& c =
        add(name + " mask " + std::to_string(static_cast<int>(mask)), Kind::coupling, std::move(layer));
    c.mask = mask;
    c.net = net;
    return c;
  }

  static Shape shape_of(Mask mask) { return is_checkerboard(mask) ? Shape{0, 2, 2, 2} : Shape{0, 1, 2, 3}; }

  std::vector<std::pair<std::string, std::unique_ptr<Conditioner<T>>>> nets_of(Mask mask, int parts) {
    const Shape shape = shape_of(mask);
    const MaskSizes sizes = mask_sizes(mask, shape.c);
    const Shape pass = shape.with_channels(sizes.pass);
    const int64_t out = sizes.change * parts;
    std::vector<std::pair<std::string, std::unique_ptr<Conditioner<T>>>> nets;
    nets.emplace_back("mlp", mlp<T>(pass, out, {5, 4}, MlpInit::uniform_zero));
    nets.emplace_back("linear", mlp<T>(pass, out, {}, MlpInit::nice));
    nets.emplace_back("glow_net", glow_net<T>(pass, out, 4));
    nets.emplace_back("zero_conv", zero_conv<T>(pass, out));
    if (std::is_same<T, float>::value) {
      nets.emplace_back("mlp bfloat16", mlp<T>(pass, out, {5}, MlpInit::uniform_zero, NetDtype::bfloat16));
      nets.emplace_back("glow_net bfloat16", glow_net<T>(pass, out, 4, NetDtype::bfloat16));
    }
    for (const Activation activation : kActivations) {
      const std::string of = " " + std::to_string(static_cast<int>(activation));
      const NetDtype dtype = std::is_same<T, float>::value && activation == Activation::elu
                                 ? NetDtype::bfloat16
                                 : NetDtype::same;
      nets.emplace_back("mlp" + of, mlp<T>(pass, out, {3}, MlpInit::uniform_zero, dtype, activation));
      nets.emplace_back("residual_net" + of, residual_net<T>(pass, out, {3, 1, 1, activation, dtype}));
    }
    for (int bits = 0; bits < 4; ++bits) {
      ResNetConfig config;
      config.width = 2;
      config.blocks = bits & 1;
      config.bottleneck = bits & 2;
      config.skip = bits & 1;
      config.batch_norm = bits & 2;
      config.weight_norm = bits != 1;
      config.checkerboard = mask == Mask::checkerboard0 ? 1 : mask == Mask::checkerboard1 ? 0 : -1;
      nets.emplace_back("res_net " + std::to_string(bits), res_net<T>(pass, out, config));
    }
    return nets;
  }

  std::vector<Case<T>> cases_;
};

int64_t wanted_pairs() {
  const char* text = std::getenv("EVENFLOW_CONTRACT_PAIRS");
  return text ? std::atoll(text) : 80000;
}

template <class T>
void check_contract(int64_t pairs) {
  std::vector<Case<T>> cases = Cases<T>().all();
  const int64_t each = (pairs + static_cast<int64_t>(cases.size()) - 1) / static_cast<int64_t>(cases.size());
  int64_t done = 0, inside = 0, errors = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::string name = cases[i].name;
    Contract<T> contract(std::move(cases[i]), 100 + i);
    for (int64_t k = 0; k < each; ++k) contract.pair();
    // The promise is tried in each case, not only where nothing is promised.
    CHECK_MESSAGE(contract.inside() * 20 >= each, name, ": only ", contract.inside(), " pairs of ", each,
                  " within the contract");
    done += each;
    inside += contract.inside();
    errors += contract.errors();
  }
  MESSAGE(done, " pairs, ", inside, " within the contract, ", errors, " errors");
  CHECK(errors > 0);
}

/// A scaling, then an ActNorm, of two channels.
struct TwoLayers {
  TwoLayers() : flow({0, 1, 1, 2}, Base::gaussian) {
    flow.add("first", scaling<float>({0, 1, 1, 2}));
    flow.add("second", actnorm<float>({0, 1, 1, 2}));
    flow.finalize();
    arena = std::make_unique<ParamArena<float>>(flow.layout());
    set("initialized", 1);
  }
  void set(const std::string& name, float value) {
    for (const ParamLayout::Entry& entry : flow.layout()->entries()) {
      if (entry.name == name) std::fill_n(arena->values() + entry.offset, entry.size, value);
    }
  }
  View<const float> view(const std::vector<float>& x) const { return {x.data(), {2, 1, 1, 2}}; }

  Context ctx{"cpu", 1};
  Flow<float> flow;
  std::unique_ptr<ParamArena<float>> arena;
  std::vector<float> out = std::vector<float>(4);
  double det[2] = {0, 0};
};

TEST_CASE("an error names the layer, the channel and the sample, or the parameter") {
  TwoLayers two;
  const std::vector<float> large = {1, 2, 3, 3e38F};  // sample 1, channel 1
  two.set("second.logs", 0.5F);
  CHECK_THROWS_WITH_AS(
      two.flow.forward(two.ctx, *two.arena, two.view(large), nullptr, two.out.data(), two.det),
      "[forward] expected finite values, got inf from layer second, channel 1, for sample 1", NumericError);
  CHECK_THROWS_WITH_AS(
      two.flow.log_prob(two.ctx, *two.arena, two.view(large), nullptr, two.det),
      "[log_prob] expected finite values, got inf from layer second, channel 1, for sample 1", NumericError);
  const View<float> x(two.out.data(), {2, 1, 1, 2});
  CHECK_NOTHROW(two.flow.inverse(two.ctx, *two.arena, large.data(), 2, nullptr, x, two.det));
  two.set("first.logs", -0.1F);
  two.set("second.logs", 0);
  CHECK_THROWS_WITH_AS(two.flow.inverse(two.ctx, *two.arena, std::vector<float>{1, 2, 3.3e38F, 3}.data(), 2,
                                        nullptr, x, two.det),
                       "[inverse] expected finite values, got inf from layer first, channel 0, for sample 1",
                       NumericError);
  two.set("first.logs", 0);
  two.set("second.logs", -0.1F);  // the one that is inverted first
  CHECK_THROWS_WITH_AS(two.flow.inverse(two.ctx, *two.arena, std::vector<float>{1, 2, 3.3e38F, 3}.data(), 2,
                                        nullptr, x, two.det),
                       "[inverse] expected finite values, got inf from layer second, channel 0, for sample 1",
                       NumericError);
  two.set("second.logs", 0);
  two.set("first.logs", -HUGE_VALF);
  {
    const RowsScope counted(two.ctx, 40);
    CHECK_THROWS_WITH_AS(
        two.flow.log_prob(two.ctx, *two.arena, two.view({1, 2, 3, 4}), nullptr, two.det),
        "[log_prob] expected finite values, got log-determinant -inf from layer first, for sample 40",
        NumericError);
  }
  two.set("first.logs", -200);
  CHECK_THROWS_WITH_AS(two.flow.sample(two.ctx, *two.arena, 0, 1, 0, nullptr, x),
                       doctest::Contains("2 of 2 that are not, first "), NumericError);
  CHECK_THROWS_WITH_AS(
      two.flow.sample(two.ctx, *two.arena, 0, 1, 0, nullptr, x),
      doctest::Contains("from layer first, channel 0, for sample 0; try a lower temperature"), NumericError);
  two.set("first.logs", 0);
  const std::vector<float> far = {0, 0, 0, 1e20F};
  CHECK_THROWS_WITH_AS(two.flow.log_prob(two.ctx, *two.arena, two.view(far), nullptr, two.det),
                       doctest::Contains("latents too large for the base distribution"), NumericError);

  // A log-likelihood in range, the derivative by log scales out of it; gradients stay what they were.
  two.arena->grads()[0] = 7;
  const std::vector<float> edge = {0, 0, 0, 1.8e19F};
  CHECK_THROWS_WITH_AS(
      two.flow.loss_and_grad(two.ctx, *two.arena, two.view(edge), nullptr, 0, 2),
      doctest::Contains("[loss_and_grad] expected finite gradients, got inf for second.logs, value 1"),
      NumericError);
  CHECK(two.arena->grads()[0] == 7);
}

TEST_CASE("the contract, on random parameters and inputs of every layer: float32") {
  check_contract<float>(wanted_pairs() / 4 * 3);
}

TEST_CASE("the contract, on random parameters and inputs of every layer: float64") {
  check_contract<double>(wanted_pairs() / 4);
}

}  // namespace
}  // namespace evenflow::test
