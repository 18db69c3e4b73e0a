#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace evenflow {

/// Zero-initialised memory, aligned to 64 bytes. Free it with `deallocate` and the same size. Large blocks
/// are mapped directly, so that they return to the system at once (the C library would keep them) and get
/// pages on first touch. Blocks of 2 MB and more ask for huge pages, because rows of wide activations and
/// weights are a page or more apart. std::bad_alloc if there is no memory.
void* allocate(size_t bytes);
void deallocate(void* memory, size_t bytes) noexcept;

/// Bytes that this process may still allocate: the machine's free memory, or less if a control group (a
/// container's or a job's) has a limit. root: in tests, a folder used in place of "/".
int64_t free_memory(const std::string& root = "");

}  // namespace evenflow
