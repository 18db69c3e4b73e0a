#include "models/model_size.hpp"

#include <limits>
#include <map>

#include "models/options.hpp"

namespace evenflow {
namespace {

/// A non-negative integer whose sums and products saturate at the largest int64_t instead of overflowing.
class Count {
 public:
  Count(int64_t value) : value_(value) {}
  int64_t value() const { return value_; }

  friend Count operator+(Count a, Count b) { return a.value_ > kMax - b.value_ ? kMax : a.value_ + b.value_; }
  friend Count operator*(Count a, Count b) {
    return b.value_ > 0 && a.value_ > kMax / b.value_ ? kMax : a.value_ * b.value_;
  }

 private:
  static constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  int64_t value_;
};

/// Number of weights and biases of a dense net.
Count mlp_values(Count in, const std::vector<int64_t>& hidden, Count out) {
  Count values = 0;
  for (const int64_t width : hidden) {
    values = values + (in + 1) * width;
    in = width;
  }
  return values + (in + 1) * out;
}

/// Number of weights and of biases of as many dense nets.
Count mlp_tensors(Count nets, const std::vector<int64_t>& hidden) {
  return nets * 2 * (Count(static_cast<int64_t>(hidden.size())) + 1);
}

/// Weights and biases of a table's nets, from `in` columns and the context to `out` numbers.
Count net_values(const CouplingFlowConfig& c, Count in, Count out) {
  if (c.net == "mlp") return mlp_values(in + c.context, c.hidden, out);
  const Count blocks = static_cast<int64_t>(c.hidden.size()), context = c.context;
  const Count width = c.hidden.empty() ? 0 : c.hidden[0], gates = c.context > 0 ? 1 : 0;
  const Count block = (width + 1) * width * 2 + gates * (context + 1) * width;
  return (in + context + 1) * width + blocks * block + (width + 1) * out;
}

Count net_tensors(const CouplingFlowConfig& c) {
  if (c.net == "mlp") return mlp_tensors(c.couplings, c.hidden);
  const Count blocks = static_cast<int64_t>(c.hidden.size()), gates = c.context > 0 ? 1 : 0;
  return Count(c.couplings) * 2 * (blocks * (gates + 2) + 2);
}

/// Each coupling's net goes from one half of the columns to an output for each column of the other. The
/// scaling has one value per column.
ModelSize size_of(const NiceConfig& c) {
  const int64_t dims = c.shape.per_sample(), half = dims / 2;
  return {mlp_tensors(c.couplings, c.hidden).value(),
          (Count(c.couplings) * mlp_values(half, c.hidden, half) + dims).value()};
}

ModelSize size_of(const CouplingFlowConfig& c) {
  const Count numbers = numbers_of_law(law_of(c));
  if (!has_net(c)) return {c.couplings, (Count(c.couplings) * numbers * c.dims).value()};
  std::map<int64_t, int64_t>
      alike;  // how many couplings change as many columns: few numbers, and hidden is long
  for (int64_t i = 0; i < c.couplings; ++i) ++alike[changed_count(c, i)];
  Count tensors = net_tensors(c), values = 0;
  for (const auto& [change, couplings] : alike) {
    const Count pass = c.dims - change, own = c.unconditional ? numbers * pass : Count(0);
    values = values + Count(couplings) * (net_values(c, pass, numbers * change) + own);
    if (own.value() > 0) tensors = tensors + couplings;
  }
  return {tensors.value(), values.value()};
}

/// Each coupling has a residual net with at least two convolutions per block, one of them from width to
/// width.
ModelSize size_of(const RealNvpConfig& c) {
  const Count convolutions = Count(2) * c.residual_blocks + 2;
  Count tensors = 0, values = 0, width = c.base_dim;
  for (int64_t s = 0; s < c.scales; ++s) {
    const Count couplings = s + 1 == c.scales ? 4 : 7;
    tensors = tensors + couplings * convolutions;
    values = values + couplings * width * (Count(1) + c.context + Count(c.residual_blocks) * width);
    if (c.recursion < 4) width = width * 2;
  }
  return {tensors.value(), values.value()};
}

/// A step has an ActNorm (2 values per channel), a permutation (at least 1 value per channel) and a net of
/// three convolutions.
ModelSize size_of(const GlowConfig& c) {
  Count tensors = 0, values = 0, channels = Count(4) * c.shape.c;
  for (int64_t l = 0; l < c.levels; ++l) {
    const Count taps = Count(9) * (channels.value() / 2);
    const Count net =
        Count(c.hidden) * (taps * (1 + numbers_of_law(law_of(c))) + Count(9) * c.context + c.hidden);
    tensors = tensors + Count(c.steps) * 12;
    values = values + Count(c.steps) * (channels * 3 + net);
    channels = channels * 2;
  }
  return {tensors.value(), values.value()};
}

}  // namespace

ModelSize least_size(const ModelConfig& config) {
  return std::visit([](const auto& model) { return size_of(model); }, config.model);
}

}  // namespace evenflow
