#pragma once

#include <string>
#include <utility>
#include <vector>

#include "evenflow/conditioner.hpp"
#include "evenflow/flow.hpp"

namespace evenflow {

/// NICE (Dinh, Krueger, Bengio 2014): additive couplings on halves, then a diagonal scaling.
struct NiceConfig {
  Shape shape{0, 1, 1, 0};  ///< (0, 1, 1, D) for tables, image shape otherwise
  int64_t couplings = 4;
  std::vector<int64_t> hidden{1000, 1000, 1000, 1000, 1000};
  std::string prior = "logistic";    ///< "logistic" | "gaussian"
  std::string permutation = "tile";  ///< first reordering: "tile" | "shuffle" | "reverse" | "none"
  std::string preprocess = "none";   ///< "none" | "standardize" | "zca" | "whiten"
  int64_t bits = 8;                  ///< images: levels 0 ... 2^bits - 1 are scaled to [0, 1]
  NetDtype conditioner = NetDtype::same;
  bool pixel = false;          ///< a one-pixel image, whose shape is a table's; levels are not scaled
  std::vector<Bounds> bounds;  ///< tables: one per column, applied before preprocess; empty: none
  bool is_image() const { return pixel || shape.pixels_per_sample() > 1; }
};

/// Real NVP (Dinh, Sohl-Dickstein, Bengio 2016) for images: the multi-scale recursion. A context makes the
/// density conditional; every coupling's net reads it at each pixel.
struct RealNvpConfig {
  Shape shape{0, 32, 32, 3};
  int64_t levels = 2;
  int64_t base_dim = 64;
  int64_t residual_blocks = 8;
  bool bottleneck = false;
  bool skip = true;
  bool batch_norm = true;
  bool weight_norm = true;
  /// "affine" | "additive". The last coupling of each group (the third; the fourth at the last scale) is
  /// affine in both.
  std::string coupling = "affine";
  int64_t recursion = 2;  ///< 1: nothing factored out, 2: half, 3: three quarters, 4: 3 with constant width
  int64_t bits = 8;
  int64_t context = 0;  ///< context values per image
};

/// The columns that each coupling of a table changes: those of a scheme, or listed ones.
struct TableMask {
  std::string scheme = "halves";              ///< "halves" | "odd-even" | "log2"; empty: `columns`
  std::vector<std::vector<int64_t>> columns;  ///< those of each coupling, in increasing order

  TableMask() = default;
  TableMask(const char* name) : scheme(name) {}
  TableMask(std::string name) : scheme(std::move(name)) {}
  TableMask(std::vector<std::vector<int64_t>> columns_) : scheme(), columns(std::move(columns_)) {}
};

/// Couplings for tables. A context makes the density conditional; every coupling's net reads it. A single
/// column is mapped by numbers that nets make of the context, or without one by numbers that are parameters.
struct CouplingFlowConfig {
  int64_t dims = 0;
  int64_t couplings = 8;
  std::string net = "residual";         ///< "mlp" | "residual"
  std::vector<int64_t> hidden{64, 64};  ///< "residual": one entry a block, all equal
  std::string activation = "relu";      ///< "relu" | "leaky_relu" | "tanh" | "silu" | "elu"
  double dropout = 0;                   ///< share of hidden units set to 0 in a training step, below 1
  std::string law = "spline";           ///< a law of table_law_names(): "affine" (bounded log-scale) ...
  TableMask mask;
  /// Between couplings: "none" | "reverse" | "shuffle" | "lu" | "lu-shuffle"; "auto" is lu-shuffle, but
  /// shuffle for more than 256 columns and for a uniform base.
  std::string permutation = "auto";
  bool mix_last = false;  ///< mix the columns after the last coupling, too
  /// "none" | "standardize" | "zca" | "whiten"; "auto" is standardize, but none for a uniform base.
  std::string preprocess = "auto";
  bool batch_norm = false;
  bool actnorm = false;
  /// "gaussian" | "logistic" | "uniform": data and latents lie in [0, 1]. "auto" is logistic with a learned
  /// matrix between couplings, which can scale its wide tails, and without a context; else gaussian.
  std::string base = "auto";
  NetDtype conditioner = NetDtype::same;
  int64_t context = 0;         ///< context values per sample
  std::vector<Bounds> bounds;  ///< one per column, applied before preprocess; empty: none
  int64_t bins = 8;            ///< splines: number of bins
  double bound = 4;            ///< splines: bins lie on [-bound, bound], in units after preprocess
  /// Splines: each coupling's passing columns go through splines of their own after its net has read them.
  bool unconditional = false;
};

/// Glow (Kingma, Dhariwal 2018). A context works as in Real NVP.
struct GlowConfig {
  Shape shape{0, 32, 32, 3};
  int64_t levels = 3;
  int64_t steps = 32;
  int64_t hidden = 512;
  /// "affine" | "additive" | "bounded": affine with log-scales within +-2, also of the splits' priors.
  std::string coupling = "affine";
  std::string permutation = "lu";  ///< "lu" | "plain" | "shuffle" | "reverse"
  bool learn_top = true;
  int64_t classes = 0;
  double class_weight = 0;  ///< weight of the classification loss (nats a sample)
  int64_t bits = 8;
  NetDtype conditioner = NetDtype::same;
  int64_t context = 0;  ///< context values per sample; excludes classes
};

template <class T>
EVENFLOW_API Flow<T> nice(const NiceConfig&, const ParamLimit& = {});
template <class T>
EVENFLOW_API Flow<T> real_nvp(const RealNvpConfig&, const ParamLimit& = {});
template <class T>
EVENFLOW_API Flow<T> coupling_flow(const CouplingFlowConfig&, const ParamLimit& = {});
template <class T>
EVENFLOW_API Flow<T> glow(const GlowConfig&, const ParamLimit& = {});

}  // namespace evenflow
