#include "kernels/derived.hpp"

#include "kernels/ops/constants.hpp"

namespace evenflow {

void DerivedPlan::complete(const ParamLayout& layout) {
  const auto to_offset = [&](int64_t& id) { id = layout.offset(static_cast<ParamId>(id)); };
  for (DerivedScale& scale : scales) to_offset(scale.logs);
  for (DerivedMatrix& of : matrices) {
    for (int64_t* id : {&of.lower, &of.upper, &of.logs, &of.sign, &of.permutation}) to_offset(*id);
  }
}

int add_derived_scale(const Scope& scope, ParamId logs, int64_t count, double pixels) {
  DerivedPlan* plan = scope.derived();
  if (!plan) return -1;
  plan->scales.push_back({logs, count, plan->scale_values, kLogScale * pixels});
  plan->scale_values += (count + 15) / 16 * 16;  // each begins where wide accesses may
  return static_cast<int>(plan->scales.size()) - 1;
}

int add_derived_matrix(const Scope& scope, DerivedMatrix of) {
  DerivedPlan* plan = scope.derived();
  if (!plan) return -1;
  of.at = plan->matrix_values;
  of.rows = plan->matrix_rows;
  plan->matrices.push_back(of);
  plan->matrix_values += of.n * of.n;
  plan->matrix_rows += of.n;
  plan->scales.push_back({of.logs, of.n, -1, of.pixels});  // log |det W| is the sum of logs
  return static_cast<int>(plan->matrices.size()) - 1;
}

}  // namespace evenflow
