#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "evenflow/config.hpp"
#include "evenflow/error.hpp"
#include "models/masks.hpp"

// The only declaration of the models' settings. Files, checks, the Python package, the command line and the
// documentation's tables are generated from it. Defaults are the member initialisers in evenflow/models.hpp.

namespace evenflow {

// Limits that exceed any real model, yet are small enough that the product of two of them and a kernel size
// does not overflow. Files and programs share them, so every model that can be saved can be loaded.
constexpr int64_t kMaxLayers = 1 << 16, kMaxWidth = 1 << 20, kMaxDims = 1 << 27, kMaxLevels = 30;

/// The valid values of a setting.
struct Limits {
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

  int64_t low = 0, high = kNone;          ///< range of a number, or of each number in a list
  std::vector<std::string> choices = {};  ///< valid texts
  /// Files omit the setting if it is 0, empty or the first of its choices.
  bool optional = false;
  std::vector<std::string> laws = {};  ///< the coupling laws that have the setting; empty: all
};

inline Limits in(int64_t low, int64_t high) {
  Limits limits;
  limits.low = low;
  limits.high = high;
  return limits;
}

inline Limits one_of(std::vector<std::string> choices) {
  Limits limits;
  limits.choices = std::move(choices);
  return limits;
}

inline Limits of_laws(std::vector<std::string> laws, Limits limits) {
  limits.laws = std::move(laws);
  return limits;
}

inline Limits optional(Limits limits) {
  limits.optional = true;
  return limits;
}

/// The model's name in a file.
inline const char* name_of(const NiceConfig&) {
  return "NICE";
}
inline const char* name_of(const RealNvpConfig&) {
  return "RealNVP";
}
inline const char* name_of(const CouplingFlowConfig&) {
  return "CouplingFlow";
}
inline const char* name_of(const GlowConfig&) {
  return "Glow";
}

// Calls a visitor `v` with every setting of a model, in the order of files:
//   v(name, value, limits, help)   value: a reference to the member, which a reader sets
//   v.shape(shape, image, help)    the shape of a sample: (H, W, C) of an image, else (1, 1, D) for D columns
//   v.shape(columns, help)
//   V::kAll                        whether to visit settings that do not apply to this model, too
// `model` holds the settings that all models have.

template <class V>
void visit_seed(V& v, ModelConfig& model) {
  v("seed", model.seed, in(0, Limits::kNone), "seed of the initial parameters");
}

template <class V>
void visit_dtype(V& v, ModelConfig& model) {
  v("dtype", model.dtype, one_of({"float32", "float64"}), "number type of the flow");
}

template <class V>
void visit_conditioner(V& v, NetDtype& conditioner) {
  v("conditioner_dtype", conditioner, one_of({"float32", "float64", "bfloat16"}),
    "arithmetic inside the nets; float32 stands for dtype");
}

template <class V>
void visit_bits(V& v, int64_t& bits) {
  v("bits", bits, in(1, 8), "bits a channel");
}

template <class V>
void visit_context(V& v, int64_t& context) {
  v("context", context, optional(in(0, kMaxWidth)),
    "size of the context c of a density p(x | c); 0: no context");
}

template <class V>
void visit_bounds(V& v, std::vector<Bounds>& bounds) {
  v("bounds", bounds, optional({}), "(low, high) of every column, None for an open end");
}

template <class V>
void visit_preprocess(V& v, std::string& preprocess) {
  v("preprocess", preprocess, one_of({"none", "standardize", "zca", "whiten"}),
    "linear map of the data, fitted by init");
}

template <class V>
void visit_settings(V& v, NiceConfig& c, ModelConfig& model) {
  v.shape(c.shape, c.is_image(), c.is_image() ? "(H, W, C) of an image" : "number of columns");
  v("couplings", c.couplings, in(1, kMaxLayers), "number of couplings");
  v("hidden", c.hidden, in(1, kMaxWidth), "widths of the nets' hidden layers");
  v("prior", c.prior, one_of({"gaussian", "logistic"}), "distribution of the latents");
  v("permutation", c.permutation, one_of({"tile", "shuffle", "reverse", "none"}),
    "order of the dimensions at the first coupling; tile puts even ones before odd ones");
  visit_preprocess(v, c.preprocess);
  visit_seed(v, model);
  visit_conditioner(v, c.conditioner);
  if (!c.is_image()) visit_bounds(v, c.bounds);
  if (c.is_image()) visit_bits(v, c.bits);
  visit_dtype(v, model);
}

template <class V>
void visit_settings(V& v, RealNvpConfig& c, ModelConfig& model) {
  v.shape(c.shape, true, "(H, W, C) of an image");
  v("levels", c.levels, in(1, kMaxLevels), "number of scales");
  v("base_dim", c.base_dim, in(1, kMaxWidth), "channels of the nets at the finest scale");
  v("residual_blocks", c.residual_blocks, in(0, kMaxLayers), "residual blocks of each net");
  v("bottleneck", c.bottleneck, {}, "residual blocks with a bottleneck");
  v("skip", c.skip, {}, "nets with skip connections from every block to the output");
  v("batch_norm", c.batch_norm, {},
    "batch norm in the nets and between couplings; in Python off by default with a context");
  v("weight_norm", c.weight_norm, {}, "weight norm in the nets");
  v("recursion", c.recursion, in(1, 4),
    "share factored out at each scale: 1 none, 2 half, 3 three quarters, 4 as 3 with nets of equal width");
  visit_bits(v, c.bits);
  visit_context(v, c.context);
  v("coupling", c.coupling, one_of({"affine", "additive"}), "law of the couplings");
  visit_seed(v, model);
  visit_dtype(v, model);
}

template <class V>
void visit_settings(V& v, CouplingFlowConfig& c, ModelConfig& model) {
  v.shape(c.dims, "number of columns");
  visit_context(v, c.context);
  v("couplings", c.couplings, in(1, kMaxLayers), "number of couplings");
  v("law", c.law, one_of(table_law_names()), "law of the couplings");
  const std::vector<std::string> laws = laws_with_settings();
  if (V::kAll || std::find(laws.begin(), laws.end(), c.law) != laws.end()) {
    v("bins", c.bins, of_laws(laws, in(1, LawOptions::kMostBins)), "number of bins of a spline");
    v("bound", c.bound, of_laws(laws, in(0, Limits::kNone)),
      "a spline's bins lie on [-bound, bound], in units after preprocess; above 0");
    v("unconditional", c.unconditional, of_laws(laws, optional({})),
      "splines of their own, which no net gives, for the columns that pass");
  }
  v("net", c.net, optional(one_of({"mlp", "residual"})),
    "nets inside couplings: dense layers, or residual blocks of two, each with an entry in hidden");
  v("hidden", c.hidden, in(1, kMaxWidth), "widths of the nets' hidden layers");
  v("activation", c.activation, optional(one_of({"relu", "leaky_relu", "tanh", "silu", "elu"})),
    "what the nets' hidden units compute");
  v("dropout", c.dropout, optional(in(0, Limits::kNone)),
    "share of hidden units set to 0 in each training step: after each hidden layer of an mlp, between the "
    "two "
    "layers of a residual block; below 1");
  v("mask", c.mask, one_of(mask_schemes()), "columns that couplings change, by a scheme or listed for each");
  v("permutation", c.permutation, one_of({"none", "reverse", "shuffle", "lu", "lu-shuffle", "auto"}),
    "mixing of the columns between couplings; lu learns a matrix, lu-shuffle one after a fixed shuffle; "
    "auto: "
    "lu-shuffle, but shuffle for more than 256 columns and for a uniform base, none for one column");
  v("mix_last", c.mix_last, optional({}), "mixing after the last coupling, too, as in sbi's nsf");
  v("batch_norm", c.batch_norm, {}, "batch norm between couplings");
  v("actnorm", c.actnorm, {}, "actnorm between couplings");
  v("base", c.base, one_of({"gaussian", "logistic", "uniform", "auto"}),
    "distribution of the latents; uniform: data and latents lie in [0, 1]; auto: logistic with a learned "
    "matrix between couplings and without a context, else gaussian");
  v("preprocess", c.preprocess, one_of({"none", "standardize", "zca", "whiten", "auto"}),
    "linear map of the data, fitted by init; auto: standardize, but none for a uniform base");
  visit_bounds(v, c.bounds);
  visit_seed(v, model);
  visit_dtype(v, model);
  visit_conditioner(v, c.conditioner);
}

template <class V>
void visit_settings(V& v, GlowConfig& c, ModelConfig& model) {
  v.shape(c.shape, true, "(H, W, C) of an image");
  v("levels", c.levels, in(1, kMaxLayers), "number of scales");
  v("steps", c.steps, in(1, kMaxLayers), "steps of flow at each scale");
  v("hidden", c.hidden, in(1, kMaxWidth), "channels inside the nets");
  v("coupling", c.coupling, one_of({"affine", "additive", "bounded"}), "law of the couplings");
  v("permutation", c.permutation, one_of({"lu", "plain", "shuffle", "reverse"}),
    "mixing of the channels in each step; lu and plain learn a matrix");
  v("learn_top", c.learn_top, {}, "learned mean and scale of the coarsest latents");
  v("classes", c.classes, in(0, kMaxWidth), "number of classes y of a density p(x | y); 0: no classes");
  v("class_weight", c.class_weight, in(0, Limits::kNone),
    "weight of a classification loss on the coarsest latents, in nats a sample");
  visit_bits(v, c.bits);
  visit_seed(v, model);
  visit_conditioner(v, c.conditioner);
  visit_context(v, c.context);
  visit_dtype(v, model);
}

inline void expect_in(const char* model, const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    fail<ConfigError>(model, "expected ", name, " in ", low, " ... ", high, ", got ", value);
  }
}

/// ConfigError unless the value is one of the choices: "expected coupling affine or additive, got 'x'".
void expect_choice(const char* where, const char* name, const std::string& value,
                   const std::vector<std::string>& choices);

/// ConfigError for a setting outside its limits, ShapeError for a shape with a size below 1 or fewer than 2
/// dimensions. `where` begins the error text. The model's builder checks whether the settings fit together.
void check(const char* where, ModelConfig config);

/// The settings with what "auto" stands for in its place. Files of version 0.1.0 hold "auto", so its meaning
/// must not change.
ModelConfig resolved(ModelConfig config);

/// A JSON list of the declared settings: model, kind ("image" or "table"), name, type ("int", "float",
/// "bool", "str", "ints", "bounds", "shape" or "seed": 64 bits without a sign), default, low, high, choices,
/// optional, laws, help. Limits that a setting doesn't have are null, and so are the defaults of shapes and
/// bounds.
EVENFLOW_API std::string settings_as_json();

}  // namespace evenflow
