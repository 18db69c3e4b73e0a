#include "models/masks.hpp"

#include <algorithm>
#include <iterator>

#include "evenflow/error.hpp"

namespace evenflow {
namespace {

/// A scheme chooses a set of columns for every even coupling. The odd coupling after it changes the others.
struct Scheme {
  const char* name;
  /// Whether column c of `dims` is in the set of couplings 2 * pair and 2 * pair + 1.
  bool (*holds)(int64_t c, int64_t dims, int64_t pair);
};

/// Bits that tell `dims` columns apart.
int64_t bits_of(int64_t dims) {
  int64_t bits = 1;
  while ((int64_t{1} << bits) < dims) ++bits;
  return bits;
}

constexpr Scheme kSchemes[] = {
    {"halves", [](int64_t c, int64_t dims, int64_t) { return c >= (dims + 1) / 2; }},
    {"odd-even", [](int64_t c, int64_t, int64_t) { return c % 2 == 1; }},
    // Two columns differ in a bit, so that one of them changes and the other passes in the two couplings of
    // it.
    {"log2", [](int64_t c, int64_t dims, int64_t pair) { return (c >> pair % bits_of(dims)) % 2 == 1; }},
};

const Scheme& scheme_of(const TableMask& mask) {
  const auto found = std::find_if(std::begin(kSchemes), std::end(kSchemes),
                                  [&](const Scheme& scheme) { return scheme.name == mask.scheme; });
  if (found == std::end(kSchemes)) fail<ConfigError>("mask", "there is no scheme '", mask.scheme, "'");
  return *found;
}

}  // namespace

std::vector<std::string> mask_schemes() {
  std::vector<std::string> names;
  for (const Scheme& scheme : kSchemes) names.push_back(scheme.name);
  return names;
}

void check_mask(const char* where, const CouplingFlowConfig& config) {
  if (!config.mask.scheme.empty()) return;
  const std::vector<std::vector<int64_t>>& lists = config.mask.columns;
  if (static_cast<int64_t>(lists.size()) != config.couplings) {
    fail<ConfigError>(where, "expected a mask for ", config.couplings, " couplings, got one for ",
                      lists.size());
  }
  std::vector<bool> changed(static_cast<size_t>(config.dims));
  for (size_t i = 0; i < lists.size(); ++i) {
    int64_t before = -1;
    for (const int64_t c : lists[i]) {
      if (c <= before || c >= config.dims) {
        fail<ConfigError>(where, "expected columns in 0 ... ", config.dims - 1,
                          ", in increasing order, in the mask of coupling ", i, ", got ", c);
      }
      changed[static_cast<size_t>(c)] = true;
      before = c;
    }
    if (lists[i].empty()) {
      fail<ConfigError>(
          where, "expected a mask with a column that changes in every coupling, got none in coupling ", i);
    }
    const bool all = static_cast<int64_t>(lists[i].size()) == config.dims;
    if (all && config.context == 0 && has_net(config)) {
      fail<ConfigError>(where,
                        "expected a mask with a column that passes, for the net to read, in every coupling, ",
                        "got none in coupling ", i);
    }
  }
  const auto never = std::find(changed.begin(), changed.end(), false);
  const bool mixes = config.permutation != "none" && (config.couplings > 1 || config.mix_last);
  if (never != changed.end() && !mixes) {
    fail<ConfigError>(where, "expected a mask in which a coupling changes every column, got none for column ",
                      never - changed.begin());
  }
}

bool has_net(const CouplingFlowConfig& config) {
  return config.dims > 1 || config.context > 0;
}

std::vector<int64_t> changed_columns(const CouplingFlowConfig& config, int64_t coupling) {
  if (config.dims == 1) return {0};
  if (config.mask.scheme.empty()) return config.mask.columns[static_cast<size_t>(coupling)];
  const Scheme& scheme = scheme_of(config.mask);
  std::vector<int64_t> columns;
  for (int64_t c = 0; c < config.dims; ++c) {
    const bool first = scheme.holds(c, config.dims, coupling / 2);
    if (first == (coupling % 2 == 0)) columns.push_back(c);
  }
  return columns;
}

}  // namespace evenflow
