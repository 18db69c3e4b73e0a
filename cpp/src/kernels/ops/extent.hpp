#pragma once

#include "evenflow/types.hpp"

namespace evenflow::ops {

/// Rows and columns of work on each value of views of one shape: one long row where no view has gaps, since a
/// short row's last values don't fill a vector.
struct Extent {
  int64_t rows, cols;
};

template <class T, class... Views>
Extent extent_of(View<T> first, const Views&... others) {
  if (first.contiguous() && (others.contiguous() && ...)) return {1, first.shape.size()};
  return {first.shape.pixels(), first.shape.c};
}

}  // namespace evenflow::ops
