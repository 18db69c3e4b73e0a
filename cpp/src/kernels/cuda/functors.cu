// Instantiates every functor of ops/ on the device, so that what the CPU tests is what nvcc compiles.

#include "kernels/cuda/exec.cuh"
#include "kernels/ops/channel.hpp"
#include "kernels/ops/coupling.hpp"
#include "kernels/ops/element.hpp"
#include "kernels/ops/net.hpp"
#include "kernels/ops/optim.hpp"

namespace evenflow::cuda {
namespace {

/// Launches a default functor of each kind; never called, only compiled.
template <class T>
struct Instantiate {
  cudaStream_t stream;
  double* out;

  template <class F>
  void each(F f = {}) const {
    CudaExec::for_each(stream, 1, 1, f);
  }
  template <class F>
  void maps(F f = {}) const {
    CudaExec::map_groups<T>(stream, 1, 1, 1, f, out);
  }
  template <class F>
  void columns(F f = {}) const {
    CudaExec::sum_columns<T>(stream, 1, 1, f, out);
  }

  template <class Law>
  void law() const {
    maps<ops::CouplingForward<T, Law>>();
    maps<ops::CouplingInverse<T, Law>>();
    maps<ops::CouplingBackward<T, Law>>();
  }

  void all() const {
    law<ops::AdditiveLaw>();
    law<ops::GlowLaw>();
    law<ops::RealNvpLaw>();
    law<ops::BoundedLaw>();
    law<ops::GaussianLaw>();
    each<ops::ChannelForward<T>>();
    each<ops::ChannelInverse<T>>();
    columns<ops::ChannelBackward<T>>();
    columns<ops::ColumnSum<T>>();
    columns<ops::ColumnSquares<T>>();
    columns<ops::BatchNormSums<T>>();
    each<ops::BatchNormBackward<T>>();
    columns<ops::EpilogueBackward<T, true>>();
    columns<ops::EpilogueBackward<T, false>>();
    each<ops::NormRelu<T>>();
    columns<ops::NormReluSums<T>>();
    each<ops::NormReluBackward<T>>();
    each<ops::ConcatRelu<T>>();
    each<ops::ConcatReluBackward<T>>();
    each<ops::MaskPixels<T>>();
    columns<ops::NormSquares<T>>();
    each<ops::ScaleColumns<T>>();
    columns<ops::ColumnDots<T>>();
    each<ops::WeightNormBackward<T>>();
    each<ops::Copy<T>>();
    each<ops::Add<T>>();
    each<ops::GatherChannels<T>>();
    each<ops::Squeeze<T>>();
    maps<ops::LogitForward<T>>();
    maps<ops::LogitInverse<T>>();
    each<ops::LogitBackward<T>>();
    maps<ops::BaseLogProb<T, true>>();
    maps<ops::BaseLogProb<T, false>>();
    each<ops::FillNoise<T>>();
    each<ops::Dequantize<T>>();
    each<ops::Sgd<T>>();
    each<ops::RmsProp<T>>();
    each<ops::Adam<T>>();
    each<ops::Adamax<T>>();
    each<ops::Average<T>>();
    each<ops::ScaleAll<T>>();
    each<ops::Zero<T>>();
    CudaExec::sum(stream, 1, 1, ops::SumSquares<T>{}, out);
  }
};

}  // namespace

template struct Instantiate<float>;
template struct Instantiate<double>;

}  // namespace evenflow::cuda
