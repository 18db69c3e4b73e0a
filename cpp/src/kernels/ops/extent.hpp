#pragma once

#include "evenflow/types.hpp"

namespace evenflow::ops {

/// The loop over all values of views of one shape: a single long row if no view has gaps, which keeps vectors
/// full; else a row per pixel.
struct Extent {
  int64_t rows, cols;
};

template <class T, class... Views>
Extent extent_of(View<T> first, const Views&... others) {
  if (first.contiguous() && (others.contiguous() && ...)) return {1, first.shape.size()};
  return {first.shape.pixels(), first.shape.c};
}

}  // namespace evenflow::ops
