#include "kernels/flow_program.hpp"

#include <algorithm>

#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

void add(const Scope& scope, const FlowStep& step) {
  FlowProgram* program = scope.program();
  if (!program) return;
  if (program->count == FlowProgram::kSteps) {
    program->fits = false;
  } else {
    program->steps[program->count++] = step;
  }
}

void add_matrix(const Scope& scope, int64_t count, int derived, ParamId matrix, ParamId inverse) {
  FlowStep step;
  step.op = FlowOp::matrix;
  step.count = step.width = static_cast<int16_t>(count);
  step.option = static_cast<int16_t>(derived);
  step.at[0] = matrix;
  step.at[1] = inverse;
  add(scope, step);
}

}  // namespace

void FlowProgram::begin(const Shape& sample, Base base, std::shared_ptr<FlowProgram>& program) {
  program.reset();
  if (sample.pixels_per_sample() > 1 || sample.c > kDims) return;
  program = std::make_shared<FlowProgram>();
  program->dims = static_cast<int32_t>(sample.c);
  program->base = base;
}

void FlowProgram::complete(const ParamLayout& layout, ParamId initialized_flag) {
  initialized = layout.offset(initialized_flag);
  for (FlowStep& step : steps) {
    if (step.op == FlowOp::bounds) continue;
    for (int64_t& at : step.at) at = at < 0 ? at : layout.offset(static_cast<ParamId>(at));
  }
}

int step_count(const Scope& scope) {
  return scope.program() ? scope.program()->count : 0;
}

void add_dense(const Scope& scope, int64_t in, int64_t out, int option, ParamId weight, ParamId bias) {
  if (scope.program() && std::max(in, out) > FlowProgram::kWidth) scope.program()->fits = false;
  FlowStep step;
  step.stride = 0;
  step.count = static_cast<int16_t>(in);
  step.width = static_cast<int16_t>(out);
  step.option = static_cast<int16_t>(option);
  step.at[0] = weight;
  step.at[1] = bias;
  add(scope, step);
}

void add_coupling(const Scope& scope, int net_begin, int64_t pass_first, int64_t first,
                  const CouplingDims& dims, ParamId slope, ParamId offset) {
  if (step_count(scope) == net_begin) return;
  FlowStep& net = scope.program()->steps[net_begin];
  net.first = static_cast<int16_t>(pass_first);
  net.stride = 1;
  FlowStep step;
  step.op = FlowOp::coupling;
  step.first = static_cast<int16_t>(first);
  step.count = static_cast<int16_t>(dims.count);
  step.h_step = static_cast<int16_t>(dims.h_step);
  step.r_offset = static_cast<int16_t>(dims.r_offset);
  step.option = static_cast<int16_t>(dims.law);
  step.at[0] = slope;
  step.at[1] = offset;
  add(scope, step);
}

void add_scale(const Scope& scope, FlowOp op, int64_t first, int64_t count, ParamId a, ParamId b,
               double factor) {
  FlowStep step;
  step.op = op;
  step.first = static_cast<int16_t>(first);
  step.count = static_cast<int16_t>(count);
  step.at[0] = a;
  step.at[1] = b;
  step.factor = factor;
  add(scope, step);
}

void add_whitening(const Scope& scope, int64_t count, ParamId mean, ParamId matrix, ParamId inverse,
                   ParamId logdet) {
  add_scale(scope, FlowOp::center, 0, count, mean, logdet, 1);
  add_matrix(scope, count, -1, matrix, inverse);
}

void add_learned_matrix(const Scope& scope, int64_t count, int matrix) {
  add_matrix(scope, count, matrix, -1, -1);
}

void add_permutation(const Scope& scope, int64_t count, ParamId order) {
  add_scale(scope, FlowOp::permutation, 0, count, order, -1, 1);
}

void add_bounds(const Scope& scope, int64_t first, int64_t count, double low, double high, double log_width) {
  FlowStep step;
  step.op = FlowOp::bounds;
  step.first = static_cast<int16_t>(first);
  step.count = static_cast<int16_t>(count);
  step.ends[0] = low;
  step.ends[1] = high;
  step.factor = log_width;
  add(scope, step);
}

void interleave_steps(const Scope& scope, int begin) {
  for (int s = begin; s < step_count(scope); ++s) {
    FlowStep& step = scope.program()->steps[s];
    step.first = step.first > 0;
    step.stride = static_cast<int16_t>(2 * step.stride);
  }
}

}  // namespace evenflow
