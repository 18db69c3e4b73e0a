#pragma once

#include <cstddef>
#include <cstdint>

namespace evenflow {

/// CRC-32 of bytes as zlib computes it; `crc`: of the bytes before these.
uint32_t crc32(const void* data, size_t size, uint32_t crc = 0);

}  // namespace evenflow
