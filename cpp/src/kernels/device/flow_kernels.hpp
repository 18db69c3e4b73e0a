#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/device/derive.hpp"
#include "kernels/device/products.hpp"
#include "kernels/device/step_end.hpp"
#include "kernels/device/whole_flow.hpp"
#include "kernels/flow_program.hpp"

namespace evenflow {

/// FlowKernels by one launch a flow, after those of its matrices where they are learned. Calls are short, so
/// that what the program does around it counts: it reads one array, in one copy.
template <class Launcher, class T>
class DeviceFlows final : public FlowKernels<T> {
 public:
  bool log_prob(Context& ctx, const FlowProgram& program, const DerivedPlan& plan, const T* params,
                View<const T> x, double* out, double* copy) const override {
    const int64_t n = x.shape.n;
    run(ctx, program, plan, params, n, device::FlowDensities<T>{x.data, x.stride, out});
    std::vector<double> own(static_cast<size_t>(copy ? 0 : n));
    if (!copy) copy = own.data();
    return all_of(ctx, out, n, copy, [](double v) { return std::isfinite(v); });
  }

  bool sample(Context& ctx, const FlowProgram& program, const DerivedPlan& plan, const T* params, T scale,
              uint64_t seed, uint64_t first, View<T> x) const override {
    WorkspaceScope scope(ctx.workspace());
    double* bad = scope.take<double>(kMostBlocks);
    const int64_t blocks = run(ctx, reversed(program), plan, params, x.shape.n,
                               device::FlowSamples<T>{x.data, x.stride, bad, scale, seed, first});
    std::vector<double> here(static_cast<size_t>(blocks));
    return all_of(ctx, bad, blocks, here.data(), [](double v) { return v == 0; });
  }

  void derive(Context& ctx, const T* params, const Derived<T>& to) const override {
    device::derive<Launcher>(ctx, params, to);
  }
  void matrix_backward(Context& ctx, const ConvDims& dims, View<const T> z, View<const T> dz, const T* w,
                       const T* inverse, View<T> x, View<T> dx, double* dw) const override {
    DeviceProducts<Launcher, T>::matrix_backward(ctx, dims, z, dz, w, inverse, x, dx, dw);
  }
  void add_matrix_gradients(Context& ctx, const T* params, const Derived<T>& of, T* grads) const override {
    device::add_matrix_gradients<Launcher>(ctx, params, of, grads);
  }

  void finish_step(Context& ctx, const StepEnd<T>& end) const override {
    device::finish_step<Launcher>(ctx, end);
  }

 private:
  static constexpr int64_t kMostBlocks = 1024;
  static constexpr int64_t kAlone = 128;  ///< rows with a block each: about a large GPU's multiprocessors
  static constexpr int kTileRows = 8;

  /// Latent -> data: layers in the other order, a net still before its coupling.
  static FlowSteps reversed(const FlowSteps& program) {
    FlowSteps back = program;
    FlowStep* to = back.steps;
    for (int end = program.count; end > 0;) {
      int begin = end - 1;
      while (begin > 0 && program.steps[begin - 1].op == FlowOp::dense) --begin;
      to = std::copy(program.steps + begin, program.steps + end, to);
      end = begin;
    }
    return back;
  }

  template <class Ends>
  static int64_t run(Context& ctx, const FlowSteps& program, const DerivedPlan& plan, const T* params,
                     int64_t n, const Ends& ends) {
    WorkspaceScope scope(ctx.workspace());
    T* w = nullptr;
    double* log_det = nullptr;
    if (!plan.matrices.empty()) {
      w = scope.take<T>(plan.matrix_values);
      log_det = scope.take<double>(static_cast<int64_t>(plan.matrices.size()));
      device::derive_matrices<Launcher>(ctx, plan, params, w, Ends::inverse ? w : nullptr, log_det);
    }
    if (n <= kAlone)
      return launch(ctx, device::WholeFlow<T, 1, Ends>{program, params, w, log_det, n, 0, 0, ends});
    return launch(ctx, device::WholeFlow<T, kTileRows, Ends>{program, params, w, log_det, n, 0, 0, ends});
  }

  template <class Body>
  static int64_t launch(Context& ctx, Body body) {
    body.blocks = std::min({body.tiles(), Launcher::max_blocks, kMostBlocks});
    body.tile_phases = Body::phases_of(body.program);
    Launcher::launch(ctx, body.blocks, body);
    return body.blocks;
  }

  /// Whether all of the device's values (count) are good, which the program gets in `here`.
  template <class Good>
  static bool all_of(Context& ctx, const double* values, int64_t count, double* here, const Good& good) {
    ctx.device()->to_host(here, values, static_cast<size_t>(count) * sizeof(double));
    return std::all_of(here, here + count, good);
  }
};

}  // namespace evenflow
