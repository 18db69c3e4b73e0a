#pragma once

#include "evenflow/params.hpp"

namespace evenflow {

/// How one call of a layer runs. A pass over a chain sets it; a call from elsewhere has the defaults.
template <class T>
struct Mode {
  T* batch_stats = nullptr;  ///< training: this batch's moments, laid out like the stats group; null: none
  const MaskSeed* masks = nullptr;  ///< training: of dropout; null: nothing is dropped
  /// Layer::kept_size() values. forward and inverse leave there what backward and inverse_backward would
  /// otherwise compute again. Null: nothing is left.
  T* kept = nullptr;
  /// x of backward, or z of inverse_backward, holds the real value. A layer that reads it leaves it there.
  bool known = false;
  bool overwrite = false;  ///< overwritable gradients hold nothing yet: store, do not add

  bool training() const { return batch_stats != nullptr; }
  T* batch_stat(const ParamLayout& layout, ParamId id) const {
    return batch_stats + (layout.offset(id) - layout.stats_begin());
  }
};

template <class T>
const Mode<T>& mode_of(const Params<T>& params) {
  static const Mode<T> plain;
  return params.mode ? *params.mode : plain;
}

/// The array of a running statistic that a call reads or, in training, leaves: the batch's or the model's.
template <class T>
const T* statistic(const Params<T>& params, ParamId id) {
  const Mode<T>& mode = mode_of(params);
  return mode.training() ? mode.batch_stat(*params.layout, id) : params.value(id);
}

}  // namespace evenflow
