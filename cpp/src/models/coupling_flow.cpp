#include <algorithm>
#include <set>

#include "models/options.hpp"

namespace evenflow {
namespace {

/// Adds the layers of a `permutation` setting, which mix the columns in front of coupling `index`.
template <class T>
void add_mixing(Flow<T>& flow, const std::string& kind, const std::string& index) {
  const Shape shape = flow.output_shape();
  if (shape.c == 1) return;  // nothing to mix
  const std::string name = "permutation" + index;
  if (kind == "lu") {
    flow.add(name, lu_conv1x1<T>(shape));
  } else if (kind == "lu-shuffle") {
    // The matrix starts as the identity, so that the shuffle alone decides which columns meet at first.
    flow.add("shuffle" + index, permutation<T>(shape, Order::shuffle));
    flow.add(name, lu_conv1x1<T>(shape, MatrixStart::identity));
  } else if (kind != "none") {
    flow.add(name, permutation<T>(shape, order_of(kind)));
  }
}

/// ConfigError for settings that would lead out of the box of a uniform base.
void check_box(const CouplingFlowConfig& config) {
  const auto expect = [](bool fits, const char* wanted, const char* why) {
    if (!fits) fail<ConfigError>("CouplingFlow", "base uniform takes ", wanted, ": ", why);
  };
  const char* leaves = "data and latents lie in [0, 1]";
  expect(config.law == "spline", "law spline", "other laws lead out of [0, 1]");
  expect(config.bound == CouplingFlowConfig().bound, "no bound", "its splines lie on [0, 1]");
  expect(config.preprocess == "none", "preprocess none", leaves);
  expect(config.bounds.empty(), "no bounds", leaves);
  const std::set<std::string> orders{"none", "reverse", "shuffle"};
  expect(orders.count(config.permutation) == 1, "permutation none, reverse or shuffle", leaves);
  expect(!config.batch_norm && !config.actnorm, "no batch_norm and no actnorm", leaves);
}

/// The columns that are not in a list.
std::vector<int64_t> others(const std::vector<int64_t>& columns, int64_t dims) {
  std::vector<int64_t> out;
  for (int64_t c = 0; c < dims; ++c) {
    if (!std::binary_search(columns.begin(), columns.end(), c)) out.push_back(c);
  }
  return out;
}

/// The net of a coupling, whose input ends with the context.
template <class T>
std::unique_ptr<Conditioner<T>> net_of(const CouplingFlowConfig& config, Shape in, int64_t outputs) {
  const Activation activation = activation_of(config.activation);
  if (config.net == "mlp")
    return mlp<T>(in, outputs, config.hidden, MlpInit::uniform_zero, config.conditioner, activation,
                  config.dropout);
  return residual_net<T>(in, outputs,
                         {config.hidden[0], static_cast<int64_t>(config.hidden.size()), config.context,
                          activation, config.conditioner, config.dropout});
}

void check_net(const CouplingFlowConfig& config) {
  if (config.net != "residual") return;
  const std::vector<int64_t>& widths = config.hidden;
  if (widths.empty()) {
    fail<ConfigError>(
        "CouplingFlow",
        "expected a width for each block of a residual net in hidden, got none; net mlp takes none");
  }
  for (const int64_t width : widths) {
    if (width != widths[0]) {
      fail<ConfigError>("CouplingFlow",
                        "expected equal widths for the blocks of a residual net in hidden, got ", widths[0],
                        " and ", width, "; net mlp takes any");
    }
  }
}

}  // namespace

template <class T>
Flow<T> coupling_flow(const CouplingFlowConfig& given, const ParamLimit& limit) {
  check("CouplingFlow", {given});
  const ModelConfig all = resolved({given});
  const auto& config = std::get<CouplingFlowConfig>(all.model);
  const bool in_box = base_of(config.base) == Base::uniform;
  if (in_box) check_box(config);
  CouplingOptions options;
  options.law = law_of(config);
  check_net(config);
  // Columns and layers are listed before their tensors are declared.
  expect_in("CouplingFlow", "dims", config.dims, 1, limit.values);
  expect_in("CouplingFlow", "the number of hidden layers", static_cast<int64_t>(config.hidden.size()), 0,
            limit.tensors);
  const Shape shape{0, 1, 1, config.dims};
  Flow<T> flow(shape, base_of(config.base), limit);
  flow.set_context(config.context);
  if (in_box) flow.add("box", unit_box<T>(shape));
  if (!config.bounds.empty()) flow.add("bounds", unbound<T>(shape, config.bounds));
  if (auto layer = preprocess_of<T>(config.preprocess, shape)) flow.add("preprocess", std::move(layer));
  for (int64_t i = 0; i < config.couplings; ++i) {
    const std::string index = std::to_string(i);
    if (i > 0) add_mixing(flow, config.permutation, index);
    const std::vector<int64_t> changed = changed_columns(config, i);
    const int64_t change = static_cast<int64_t>(changed.size()), pass = config.dims - change;
    if (has_net(config)) {
      auto net =
          net_of<T>(config, shape.with_channels(pass + config.context), change * numbers_of_law(options.law));
      flow.add("coupling" + index, coupling<T>(shape, changed, std::move(net), options));
    } else {
      flow.add("coupling" + index, elementwise<T>(shape, changed, options.law));
    }
    if (config.unconditional && pass > 0) {
      flow.add("unconditional" + index, elementwise<T>(shape, others(changed, config.dims), options.law));
    }
    if (config.batch_norm) flow.add("batch_norm" + index, batch_norm<T>(shape, changed));
    if (config.actnorm) flow.add("actnorm" + index, actnorm<T>(shape));
  }
  if (config.mix_last) add_mixing(flow, config.permutation, std::to_string(config.couplings));
  flow.finalize();
  return flow;
}

template Flow<float> coupling_flow<float>(const CouplingFlowConfig&, const ParamLimit&);
template Flow<double> coupling_flow<double>(const CouplingFlowConfig&, const ParamLimit&);

}  // namespace evenflow
