#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "evenflow/error.hpp"
#include "kernels/cpu/choose_isa.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/kernels.hpp"

namespace evenflow {

// Weak: a static program may link only some instruction sets. The functions of the others are null.
[[gnu::weak, gnu::visibility("default")]] const KernelSet<float>& kernels_baseline_f32();
[[gnu::weak, gnu::visibility("default")]] const KernelSet<double>& kernels_baseline_f64();
[[gnu::weak, gnu::visibility("default")]] const KernelSet<float>& kernels_avx2_f32();
[[gnu::weak, gnu::visibility("default")]] const KernelSet<double>& kernels_avx2_f64();
[[gnu::weak, gnu::visibility("default")]] const KernelSet<float>& kernels_avx512_f32();
[[gnu::weak, gnu::visibility("default")]] const KernelSet<double>& kernels_avx512_f64();
[[gnu::weak, gnu::visibility("default")]] const KernelSet<float>& kernels_avx512_bf16_f32();
[[gnu::weak, gnu::visibility("default")]] const KernelSet<float>& kernels_amx_f32();
[[gnu::weak, gnu::visibility("default")]] const Bf16Stacks& stacks_avx512_bf16();
[[gnu::weak, gnu::visibility("default")]] const Bf16Stacks& stacks_amx();

namespace {

/// Whether the processor has AMX for bfloat16 and the system lets this process use it. Linux reserves its 8
/// kB of state per thread only on request.
bool may_use_amx() {
#if defined(__linux__)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;  // CPUID 7.0, EDX
  constexpr int kRequest = 0x1023, kTileData = 18;        // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = [] {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
    if ((edx & (kBf16 | kTile)) != (kBf16 | kTile)) return false;
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  return granted;
#else
  return false;
#endif
}

}  // namespace

bool is_intel() {
  static const bool intel = __builtin_cpu_is("intel");
  return intel;
}

IsaLevel best_isa(IsaLevel wanted) {
  IsaSupport has;
  has.avx2 = kernels_avx2_f32 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  has.avx512 = has.avx2 && kernels_avx512_f32 && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw");
  const bool bf16 = has.avx512 && __builtin_cpu_supports("avx512bf16");
  has.avx512_bf16 = bf16 && stacks_avx512_bf16;
  has.slow_pairs = is_intel();
  has.amx = wanted >= IsaLevel::amx && bf16 && stacks_amx && may_use_amx();
  const IsaLevel level = choose_isa(wanted, has);
  if (level != IsaLevel::baseline) return level;
  if (!kernels_baseline_f32 && !kernels_avx2_f32) {
    fail<DeviceError>("context", "expected kernels in this program, got none; link the CMake target ",
                      "evenflow::static, or libevenflow.a with -Wl,--whole-archive");
  }
  if (!kernels_baseline_f32) {
    fail<DeviceError>("context", "expected AVX2 and FMA, for which alone this program was linked, got ",
                      wanted == IsaLevel::baseline ? "EVENFLOW_ISA=baseline" : "an older processor");
  }
  return IsaLevel::baseline;
}

template <>
const KernelSet<float>& cpu_kernels<float>(IsaLevel level) {
  switch (level) {
    case IsaLevel::amx:
      return kernels_amx_f32();
    case IsaLevel::avx512_bf16:
      return kernels_avx512_bf16_f32();
    case IsaLevel::avx512:
      return kernels_avx512_f32();
    case IsaLevel::avx2:
      return kernels_avx2_f32();
    default:
      return kernels_baseline_f32();
  }
}

template <>
const KernelSet<double>& cpu_kernels<double>(IsaLevel level) {
  switch (level) {
    case IsaLevel::amx:
    case IsaLevel::avx512_bf16:
    case IsaLevel::avx512:
      return kernels_avx512_f64();
    case IsaLevel::avx2:
      return kernels_avx2_f64();
    default:
      return kernels_baseline_f64();
  }
}

}  // namespace evenflow
