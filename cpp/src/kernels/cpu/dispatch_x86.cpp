#include <cpuid.h>

#include "evenflow/error.hpp"
#include "kernels/cpu/choose_isa.hpp"
#include "kernels/cpu/isa.hpp"
#include "kernels/cpu/kernels.hpp"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

/// Instruction sets of the processor that the system keeps the registers of. Some runtime libraries that come
/// with compilers leave __builtin_cpu_supports false.
struct Processor {
  bool intel = false, avx2 = false, avx512 = false, bf16 = false, amx = false;

  Processor() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx)) return;
    intel = ebx == 0x756e6547;  // "Genu"
    __get_cpuid(1, &eax, &ebx, &ecx, &edx);
    constexpr unsigned kFma = 1u << 12, kSaved = 1u << 27;
    if (!(ecx & kSaved)) return;
    const bool fma = ecx & kFma;
    unsigned saved, high;
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
    constexpr unsigned kAvxSaved = 6, kAvx512Saved = 0xe6;
    constexpr unsigned kAvx2 = 1u << 5, kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    constexpr unsigned kAmx = 1u << 22 | 1u << 24;                                            // BF16, TILE
    avx2 = fma && (ebx & kAvx2) && (saved & kAvxSaved) == kAvxSaved;
    avx512 = avx2 && (ebx & kAvx512) == kAvx512 && (saved & kAvx512Saved) == kAvx512Saved;
    amx = (edx & kAmx) == kAmx;
    constexpr unsigned kBf16 = 1u << 5;
    bf16 = avx512 && eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kBf16);
  }
};

const Processor& processor() {
  static const Processor found;
  return found;
}

/// Whether the system lets this process use AMX. Linux reserves its 8 kB of state per thread only on request.
bool may_use_amx() {
#if defined(__linux__)
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace

bool is_intel() {
  return processor().intel;
}

IsaLevel best_isa(IsaLevel wanted) {
  const Processor& cpu = processor();
  IsaSupport has;
  has.avx2 = cpu.avx2 && kernels_avx2_f32;
  has.avx512 = has.avx2 && cpu.avx512 && kernels_avx512_f32;
  const bool bf16 = has.avx512 && cpu.bf16;
  has.avx512_bf16 = bf16 && stacks_avx512_bf16;
  has.slow_pairs = cpu.intel;
  has.amx = wanted >= IsaLevel::amx && bf16 && stacks_amx && cpu.amx && may_use_amx();
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
