#pragma once

#include <cstddef>

namespace evenflow {

/// Uninitialised memory for std::free, aligned to 64 bytes. Large blocks ask for huge pages: rows of wide
/// activations and weights lie a page or more apart. std::bad_alloc where there is none.
void* allocate(size_t bytes);

}  // namespace evenflow
