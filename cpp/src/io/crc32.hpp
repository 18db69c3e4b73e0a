#pragma once

#include <cstddef>
#include <cstdint>

namespace evenflow {

/// CRC-32 as zlib computes it. crc: the checksum of the preceding bytes.
uint32_t crc32(const void* data, size_t size, uint32_t crc = 0);

}  // namespace evenflow
