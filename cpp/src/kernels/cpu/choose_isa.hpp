#pragma once

#include "kernels/kernel_set.hpp"

namespace evenflow {

/// Instruction sets that both the machine and this build support.
struct IsaSupport {
  bool avx2 = false;
  bool avx512 = false;
  bool avx512_bf16 = false;
  bool amx = false;
  /// Intel's processors multiply bfloat16 pairs at a quarter of AMD's rate, more slowly than they widen them
  /// to float32.
  bool slow_pairs = false;
};

/// The fastest supported level up to `wanted`. Slow pairs are chosen only if asked for by name.
inline IsaLevel choose_isa(IsaLevel wanted, const IsaSupport& has) {
  const bool pairs = has.avx512_bf16 && (!has.slow_pairs || wanted == IsaLevel::avx512_bf16);
  if (wanted >= IsaLevel::amx && has.amx) return IsaLevel::amx;
  if (wanted >= IsaLevel::avx512_bf16 && pairs) return IsaLevel::avx512_bf16;
  if (wanted >= IsaLevel::avx512 && has.avx512) return IsaLevel::avx512;
  if (wanted >= IsaLevel::avx2 && has.avx2) return IsaLevel::avx2;
  return IsaLevel::baseline;
}

}  // namespace evenflow
