#pragma once

#include <immintrin.h>

#include <cstdint>

namespace evenflow {

/// Gives the thread that constructs it eight matrix registers of 16 rows of 16 words, until it is destroyed.
class MatrixRegisters {
 public:
  static constexpr int size = 16;

  MatrixRegisters() {
    alignas(64) uint8_t config[64] = {1};  // palette 1; bytes per row from offset 16 on, rows from 48 on
    for (int r = 0; r < 8; ++r) {
      config[16 + 2 * r] = 4 * size;
      config[48 + r] = size;
    }
    _tile_loadconfig(config);
  }
  ~MatrixRegisters() { _tile_release(); }
  MatrixRegisters(const MatrixRegisters&) = delete;
  MatrixRegisters& operator=(const MatrixRegisters&) = delete;
};

}  // namespace evenflow
