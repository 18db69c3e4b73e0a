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

/// Numbers of channels that pass unchanged, and feed the conditioner, and of those that change.
struct MaskSizes {
  int64_t pass = 0;
  int64_t change = 0;
};
EVENFLOW_API MaskSizes mask_sizes(Mask mask, int64_t channels);
EVENFLOW_API bool is_checkerboard(Mask mask);

/// A coupling law: the invertible function that a coupling applies to each changed value, with parameters
/// from its net. docs/math/ has a page on each law.
struct LawOptions {
  static constexpr int64_t kMostBins = 64;
  std::string name = "affine";  ///< one of law_names()
  int64_t bins = 8;             ///< spline: number of bins, 1 to kMostBins
  double bound = 4;             ///< spline: bins lie on [-bound, bound], and y = x outside
  bool unit_interval = false;   ///< spline: bins lie on [0, 1] instead, with learned slopes at both ends
};
/// Names of all laws, and of those that flows of tables offer.
EVENFLOW_API std::vector<std::string> law_names();
EVENFLOW_API std::vector<std::string> table_law_names();
/// Names of the laws that have further settings.
EVENFLOW_API std::vector<std::string> laws_with_settings();
/// Number of parameters that a law takes for each changed value, and so the number of net outputs per value.
/// ConfigError for an unknown name or an invalid setting.
EVENFLOW_API int64_t numbers_of_law(const LawOptions& law);

/// A parameter that all values of a layer share, such as Real NVP's gain and offset.
struct SharedOptions {
  double start = 0;
  bool decay = false;   ///< in the decay group
  bool learned = true;  ///< else it stays at the law's default
};

struct CouplingOptions {
  LawOptions law;
  bool interleaved = false;           ///< net outputs are grouped by value, else by parameter
  std::vector<SharedOptions> shared;  ///< one per shared parameter of the law; empty: its defaults
};

/// A coupling: part of x passes unchanged and feeds the net. The net's outputs are the law's parameters for
/// the other part. If the net takes more channels than pass, the last ones are the flow's context
/// (Flow::set_context()), repeated at every pixel.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> coupling(Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net,
                                                const CouplingOptions& options);
/// The same, changing the channels of a list, which is in increasing order. With a context it may have all.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> coupling(Shape in, const std::vector<int64_t>& changed,
                                                std::unique_ptr<Conditioner<T>> net,
                                                const CouplingOptions& options);

/// y = f(x; p) by a law, for the channels of a list. Each has numbers p of its own, which are parameters and
/// the same for all samples and pixels. A law's shared parameters stay at their defaults.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> elementwise(Shape in, const std::vector<int64_t>& changed,
                                                   const LawOptions& law);

/// y = (x + bias) exp(3 logs) per channel, set by init_from_data to mean 0, std 1 (Glow 3.1).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> actnorm(Shape in);

/// y = (x - mean) / sqrt(var + 1e-4) on the pixels or channels that `mask` changes. Training uses the batch's
/// moments, taken over the masked array including its zeros on checkerboards. All other calls use running
/// averages with rate 0.1 (Real NVP 3.7).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> batch_norm(Shape in, Mask mask);
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> batch_norm(Shape in, const std::vector<int64_t>& changed);

/// What W of a 1x1 convolution is at first.
enum class MatrixStart {
  rotation,  ///< a random orthogonal matrix
  identity
};
/// z = x W per pixel, W = P L (U + diag(sign exp(logs))), P and sign fixed (Glow 3.2).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> lu_conv1x1(Shape in, MatrixStart start = MatrixStart::rotation);
/// z = x W per pixel, W free; NumericError if W is singular.
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

/// y = (x - offset) / width with constant offset and width. Images of `bits` bits: offset = 2^bits / 2, width
/// = 2^bits.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> rescale(Shape in, double offset, double width);

/// y = logit((1 + c (2 u - 1)) / 2), c = 0.9, u on [0, 1] (Real NVP 4.1, in the form of the official code).
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> logit(Shape in);

/// y = (x - mean) / std per column, with mean and std set by init_from_data.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> standardize(Shape in);

/// y = log(x - low) - log(high - x) per column. The term of an infinite bound is left out; a column without
/// bounds is unchanged. The inverse's outputs lie strictly between the bounds. ConfigError unless there is
/// one pair of bounds per column, with low < high and a number of T between them.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> unbound(Shape in, const std::vector<Bounds>& bounds);

/// y = x for data in [0, 1], both ends included. Other values are errors, in both directions.
template <class T>
EVENFLOW_API std::unique_ptr<Layer<T>> unit_box(Shape in);

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
