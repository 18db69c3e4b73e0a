#include "kernels/cpu/amx.hpp"
#include "kernels/cpu/peak_loops.hpp"

namespace evenflow {
namespace {

constexpr int64_t kProducts = 4;
constexpr int64_t kFlops = 2 * 16 * 32 * 16;  // of matrices of 16 x 32 and 32 x 16

float multiply_add(int64_t rounds) {
  const MatrixRegisters registers;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  alignas(64) float sums[16 * 16];
  _tile_stored(3, sums, 64);
  return sums[0];
}

}  // namespace

PeakLoops peak_loops_amx() {
  return {kFlops * kProducts, &multiply_add, nullptr, nullptr, nullptr};
}

}  // namespace evenflow
