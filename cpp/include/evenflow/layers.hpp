#pragma once

#include <memory>
#include <string>
#include <vector>

#include "evenflow/conditioner.hpp"
#include "evenflow/layer.hpp"

namespace evenflow {

/// Which part of its input a coupling changes; the rest passes through and feeds the conditioner.
enum class Mask {
  second_half,    ///< changes channels [ceil(C/2), C)
  first_half,     ///< changes channels [0, ceil(C/2))
  odd,            ///< changes channels 1, 3, 5, ...
  even,           ///< changes channels 0, 2, 4, ...
  checkerboard0,  ///< changes pixels with (i + j) % 2 == 0
  checkerboard1   ///< changes pixels with (i + j) % 2 == 1
};

/// Number of channels that condition, and number of conditioner outputs for `parts` per changed channel.
struct MaskSizes {
  int64_t pass = 0;
  int64_t change = 0;
};
EVENFLOW_API MaskSizes mask_sizes(Mask mask, int64_t channels);
EVENFLOW_API bool is_checkerboard(Mask mask);

/// A coupling law: how a coupling maps each value by numbers of its net. docs/math/ has a page of each.
struct LawOptions {
  static constexpr int64_t kMostBins = 64;
  std::string name = "affine";  ///< one of law_names()
  int64_t bins = 8;             ///< spline: number of bins, 1 to kMostBins
  double bound = 4;             ///< spline: bins lie on [-bound, bound], and y = x outside
  bool unit_interval = false;   ///< spline: bins lie on [0, 1] instead, with learned slopes at both ends
};
/// All laws, and those that flows of tables offer.
EVENFLOW_API std::vector<std::string> law_names();
EVENFLOW_API std::vector<std::string> table_law_names();
/// Laws that have settings besides their name.
EVENFLOW_API std::vector<std::string> laws_with_settings();
/// How many numbers a law takes for each changed value: a net has so many outputs for it. ConfigError for a
/// name or a setting that no law has.
EVENFLOW_API int64_t numbers_of_law(const LawOptions& law);

/// A number that all values of a layer share, as Real NVP's gain and offset.
struct SharedOptions {
  double start = 0;
  bool decay = false;   ///< whether it is in the decay group
  bool learned = true;  ///< else it stays at the law's default
};

struct CouplingOptions {
  LawOptions law;
  bool interleaved = false;  ///< the net gives all numbers of a value, then those of the next; else by kind
  std::vector<SharedOptions> shared;  ///< one for each shared number of the law; empty: as the law has them
};

/// A coupling: part of x passes and feeds the net, whose outputs change the other part by the law. The net
/// may take more channels than pass: behind them, at every pixel, it then sees the numbers that the density
/// is given, Flow::set_context() of them.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> coupling(Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net,
                                                const CouplingOptions& options);

/// y = (x + bias) exp(3 logs) per channel, set by init_from_data to mean 0, std 1 (Glow 3.1).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> actnorm(Shape in);

/// y = (x - mean) / sqrt(var + 1e-4) on the pixels or channels that `mask` changes. In training the moments
/// of the batch are used, taken over the masked array including its zeros on checkerboards, and running
/// averages (rate 0.1) elsewhere (Real NVP 3.7).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> batch_norm(Shape in, Mask mask);

/// z = x W per pixel, W = P L (U + diag(sign exp(logs))), P and sign fixed (Glow 3.2).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> lu_conv1x1(Shape in);
/// z = x W per pixel, W free; NumericError where W becomes singular.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> plain_conv1x1(Shape in);

enum class Order {
  reverse,    ///< C-1, ..., 1, 0
  shuffle,    ///< fixed random order
  even_first  ///< 0, 2, 4, ..., 1, 3, 5, ... (NICE)
};
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> permutation(Shape in, Order order);

/// z = x exp(logs) per channel (NICE 3.3).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> scaling(Shape in);

enum class SqueezeOrder {
  raster,   ///< out channel = 4 c + 2 dy + dx (Glow, Real NVP's channel couplings)
  diagonal  ///< sub-positions (0,0), (1,1), (0,1), (1,0), each with all channels (Real NVP's factoring out)
};
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> squeeze(Shape in, SqueezeOrder order);
/// The inverse of `squeeze` as a layer; `in` is the squeezed shape.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> unsqueeze(Shape in, SqueezeOrder order);

/// (N, H, W, C) -> (N, 1, 1, HWC).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> flatten(Shape in);

/// y = (x - offset) / width, constants. Images of `bits` bits: offset = 2^bits / 2, width = 2^bits.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> rescale(Shape in, double offset, double width);

/// y = logit((1 + c (2 u - 1)) / 2), c = 0.9, u on [0, 1] (Real NVP 4.1, in the form of the official code).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> logit(Shape in);

/// y = (x - mean) / std per column, from init_from_data.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> standardize(Shape in);

/// y = log(x - low) - log(high - x) per column, without the logarithm of an open end; a column with none
/// stays. The inverse gives numbers strictly between. ConfigError for ends that are not one pair a column,
/// not low < high, or that T does not tell apart.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> unbound(Shape in, const std::vector<Bounds>& bounds);

enum class Whitening {
  zca,        ///< y = (x - mean) (C + 1e-3 I)^(-1/2), symmetric
  covariance  ///< y = (x - mean) L^-T, C = L L^T: a full-covariance Gaussian (NICE, appendix B)
};
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> whiten(Shape in, Whitening kind);

/// The top prior: y = (x - mean) exp(-logs), where mean and logs depend on the position relative to the
/// border (a zero-initialised 3x3 convolution of an empty image) and, with classes > 0, on the label.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> top_prior(Shape in, bool learned, int64_t classes);

}  // namespace evenflow
