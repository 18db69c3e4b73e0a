#pragma once

#include "kernels/channel/kernels.hpp"
#include "kernels/coupling/kernels.hpp"
#include "kernels/mixing/kernels.hpp"
#include "kernels/move/kernels.hpp"
#include "kernels/net/kernels.hpp"
#include "kernels/optim/kernels.hpp"
#include "kernels/prior/kernels.hpp"

namespace evenflow {

/// All kernels of a device or of an instruction set, by topic. In every topic, views are NHWC and their rows
/// are pixels; outputs are overwritten unless a comment says +=; arrays lie on the context's device.
template <class T>
struct KernelSet {
  const char* isa;
  const ChannelKernels<T>& channel;
  const CouplingKernels<T>& coupling;
  const MixingKernels<T>& mixing;
  const MoveKernels<T>& move;
  const NetKernels<T>& net;
  const OptimKernels<T>& optim;
  const PriorKernels<T>& prior;
};

/// avx512_bf16 and amx differ from avx512 only in products of bfloat16 numbers. best: the fastest of this
/// machine.
enum class IsaLevel { baseline, avx2, avx512, avx512_bf16, amx, best };

/// The kernels of this process for a level that the machine has.
template <class T>
const KernelSet<T>& cpu_kernels(IsaLevel level);

/// The fastest level not above `wanted` that this machine has; see choose_isa().
IsaLevel best_isa(IsaLevel wanted);

}  // namespace evenflow
