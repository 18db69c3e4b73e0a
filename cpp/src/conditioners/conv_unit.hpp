#pragma once

#include "evenflow/conditioner.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {

/// One convolution or dense layer of a conditioner: y = act((conv(x) + bias) exp(3 logs)).
struct ConvUnitConfig {
  Shape in;
  int64_t cout = 0;
  int kernel = 1;
  bool edge = false;
  bool bias = true;
  bool logs = false;     ///< learned output scale exp(3 logs)
  bool actnorm = false;  ///< bias and logs are set from data
  bool relu = false;
  bool weight_norm = false;  ///< w = v / |v| per output, times `magnitude`
  bool magnitude = false;
  bool dense = false;  ///< the weight is declared as (in, out)
};

template <class T>
class ConvUnit {
 public:
  explicit ConvUnit(const ConvUnitConfig& config) : config_(config) { config_.in.n = 0; }

  const ConvUnitConfig& config() const { return config_; }
  Shape output_shape(int64_t n) const { return config_.in.with_batch(n).with_channels(config_.cout); }
  int64_t output_size(int64_t n) const { return output_shape(n).size(); }

  /// overwritable: whether all backward passes are through describe(), once each; see ParamLayout::Entry.
  void declare(const Scope& scope, bool overwritable = false);
  /// The raw weight tensor (v with weight norm), for initialisation.
  T* weight(ParamArena<T>& arena) const { return arena.value(weight_); }
  int64_t weight_size() const { return dims(0).weight_size(); }
  T* bias(ParamArena<T>& arena) const { return arena.value(bias_); }
  T* magnitude(ParamArena<T>& arena) const { return arena.value(magnitude_); }

  /// Sets bias and logs so that the output before ReLU has mean 0, std 1 on x.
  void init_actnorm_from(Context&, ParamArena<T>&, View<const T> x) const;

  void forward(Context&, const Params<T>&, View<const T> x, View<T> y) const;
  /// dy is overwritten. dx: null data means not wanted.
  void backward(Context&, const Params<T>&, View<const T> x, View<const T> y, View<T> dy, View<T> dx,
                bool accumulate) const;

  /// This unit as part of a chain (no weight norm). unit: as constructed.
  void describe(Context&, WorkspaceScope&, const Params<T>&, int64_t n, StackUnit<T>& unit) const;

 private:
  ConvDims dims(int64_t n) const;
  /// The weights that multiply: the parameter itself, or its normalised copy in the workspace.
  const T* effective_weight(Context&, WorkspaceScope&, const Params<T>&, T** norms) const;
  Epilogue<T> epilogue(Context&, WorkspaceScope&, const Params<T>&) const;

  ConvUnitConfig config_;
  std::string name_;
  ParamId weight_ = 0;
  ParamId magnitude_ = 0;
  ParamId bias_ = 0;
  ParamId logs_ = 0;
};

extern template class ConvUnit<float>;
extern template class ConvUnit<double>;

}  // namespace evenflow
