#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace evenflow {

/// Zeros, aligned to 64 bytes, for `deallocate` with the same size. Large blocks come from the system itself,
/// which has them back at once then (the C library would keep them), and gives their pages on first touch.
/// The largest ask for huge pages: rows of wide activations and weights lie a page or more apart.
/// std::bad_alloc where there is none.
void* allocate(size_t bytes);
void deallocate(void* memory, size_t bytes) noexcept;

/// Bytes that this process may still take: what the machine has free, or less where a control group (of a
/// container, of a job) has a limit. root: in tests a folder that stands for "/".
int64_t free_memory(const std::string& root = "");

}  // namespace evenflow
