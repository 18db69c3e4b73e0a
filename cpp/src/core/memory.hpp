#pragma once

#include <cstddef>

namespace evenflow {

/// Zeros, aligned to 64 bytes, for `deallocate` with the same size. Large blocks come from the system itself,
/// which has them back at once then (the C library would keep them), and gives their pages on first touch.
/// The largest ask for huge pages: rows of wide activations and weights lie a page or more apart.
/// std::bad_alloc where there is none.
void* allocate(size_t bytes);
void deallocate(void* memory, size_t bytes) noexcept;

}  // namespace evenflow
