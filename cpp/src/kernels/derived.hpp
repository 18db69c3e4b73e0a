#pragma once

#include <cstdint>
#include <vector>

#include "evenflow/params.hpp"

// What layers compute from parameters alone. On a device a pass begins with it, for all layers together in a
// few kernels: layer by layer they would be kernels of a few microseconds each, that wait for one another.

namespace evenflow {

/// exp(kLogScale * logs) of some channels. Plain data, so that a list of them is a kernel's argument.
struct DerivedScale {
  int64_t logs;  ///< a parameter's id, in a complete plan its offset
  int64_t count;
  int64_t at;     ///< of the first in Derived::scales; -1: nobody asks for them
  double weight;  ///< of the sum of logs in a sample's log-determinant
};

/// W = P L U of a 1x1 convolution; plain data as well.
struct DerivedMatrix {
  int64_t lower, upper, logs, sign, permutation;  ///< parameters' ids, in a complete plan their offsets
  int64_t n;
  int64_t at;     ///< in Derived::matrices
  int64_t rows;   ///< of the matrices before
  double pixels;  ///< of a sample
};

/// Layers add to it when they are declared.
struct DerivedPlan {
  std::vector<DerivedScale> scales;
  std::vector<DerivedMatrix> matrices;
  int64_t scale_values = 0;
  int64_t matrix_values = 0;
  int64_t matrix_rows = 0;

  bool empty() const { return scales.empty(); }  ///< a matrix has its logs among the scales
  /// All layers are declared: ids become offsets.
  void complete(const ParamLayout& layout);
};

/// What a plan comes to in one pass; arrays are the device's.
template <class T>
struct Derived {
  const DerivedPlan* plan = nullptr;
  T* scales = nullptr;
  T* matrices = nullptr;        ///< W, (n, n) each
  T* inverses = nullptr;        ///< W^-1 alike, or null
  double* log_det = nullptr;    ///< (1): of a sample, all that the plan knows
  double* dmatrices = nullptr;  ///< gradients by W, which the pass takes to the parameters; null: layers do
  const double* dlogdet = nullptr;  ///< (1): in backward, the sum over samples

  const T* scale(int number) const { return scales + plan->scales[static_cast<size_t>(number)].at; }
  /// Of one of the three arrays, or null.
  template <class U>
  U* matrix(U* all, int number) const {
    return all ? all + plan->matrices[static_cast<size_t>(number)].at : nullptr;
  }
};

// For the plan of the flow that a layer is declared for: the number of what is added, -1 without a plan.

/// pixels: in whose log-determinant the logs are; 0: in none.
int add_derived_scale(const Scope&, ParamId logs, int64_t count, double pixels);
int add_derived_matrix(const Scope&, DerivedMatrix of);

}  // namespace evenflow
