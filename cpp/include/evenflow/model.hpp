#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "evenflow/context.hpp"
#include "evenflow/trainable.hpp"

namespace evenflow {

/// What a call may be given besides its batch.
struct CallOptions {
  const int32_t* labels = nullptr;  ///< (n,): classes of the rows, for class-conditional models alone
  uint64_t seed = 0;                ///< of samples, and of the dequantisation noise of uint8 images
  int64_t first = 0;                ///< number of the first row: row i draws from (seed, first + i) alone
  double temperature = 1;           ///< of samples: multiplies the base draw
  const double* context = nullptr;  ///< (n, Model::context()), for models with a context alone
};

/// What Model::verify found; errors are relative to max(1, size of the exact quantity).
struct VerifyReport {
  int64_t samples = 0;
  bool finite = false;  ///< no value on the way was NaN or infinity; else `error` says what was
  std::string error;
  double round_trip_x = 0;  ///< max |inverse(forward(x)) - x|
  double round_trip_z = 0;  ///< max |forward(inverse(z)) - z|, z drawn from the base; 0 where T resolves
                            ///< the distance of none of their samples from the columns' bounds
  double logdet_sum = 0;    ///< max |logdet of forward + logdet of inverse|
  double precision = 0;     ///< max |log_prob - log_prob of a float64 copy|
  bool probed = false;      ///< whether `jacobian` was measured: with up to 512 dimensions
  double jacobian = 0;      ///< |logdet - log |det dz/dx|| of the float64 copy, from unit vectors
  bool ok = false;          ///< finite, and all within the bounds of docs/embedding.md
};

/// A trained flow, ready to score and to sample; immutable, and cheap to copy.
///
/// Any number of threads may use one model at once, each with a Context of its own: a context serves one call
/// at a time, and decides how many threads a large batch is spread over. A model's call on a context that
/// another call of a model is using is a ConfigError; a Flow's own calls don't look. Once a context has seen
/// a batch size, calls of that size on one thread allocate nothing.
///
/// Arrays are the caller's, contiguous, row after row; those of one call may not overlap. X is T, the model's
/// own type, or uint8_t for images; T is float or double as dtype() says (ConfigError otherwise). x has
/// sample_shape() values a row (NHWC), z has dims(). The same file, inputs and seed give the same bits as in
/// Python, whatever n and the threads.
///
/// Everywhere: ShapeError for an empty batch, or one beyond any memory, NumericError for NaN or infinity in
/// the input (with its place) or in a result, ConfigError for labels, a context or options that do not fit.
class EVENFLOW_API Model {
 public:
  explicit Model(Trainable<float> model);
  explicit Model(Trainable<double> model);

  /// The settings, as JSON.
  const std::string& config() const;
  Dtype dtype() const;
  Shape sample_shape() const;  ///< n is 0; a table of D columns is (0, 1, 1, D)
  int64_t dims() const;
  int64_t classes() const;  ///< 0: takes no labels
  int64_t context() const;  ///< numbers that a row's density is given; 0: none
  int64_t bits() const;     ///< images: bits a channel, x in 0 ... 2^bits; tables: 0

  /// x -> z and logdet (n) = log |det dz/dx|. uint8 images get no noise.
  template <class X, class T>
  void forward(Context&, const X* x, int64_t n, T* z, double* logdet, const CallOptions& = {}) const;
  /// z -> x and logdet (n) = log |det dx/dz|.
  template <class T>
  void inverse(Context&, const T* z, int64_t n, T* x, double* logdet, const CallOptions& = {}) const;
  /// forward and inverse without the log-determinant: decode(encode(x)) is x.
  template <class X, class T>
  void encode(Context&, const X* x, int64_t n, T* z, const CallOptions& = {}) const;
  template <class T>
  void decode(Context&, const T* z, int64_t n, T* x, const CallOptions& = {}) const;
  /// log p(x) (n), nats of the density in the units of x. uint8 images get uniform noise from the seed.
  template <class X>
  void log_prob(Context&, const X* x, int64_t n, double* out, const CallOptions& = {}) const;
  /// -log2 p(x) / dims() (n).
  template <class X>
  void bits_per_dim(Context&, const X* x, int64_t n, double* out, const CallOptions& = {}) const;
  /// n samples; images in level units.
  template <class T>
  void sample(Context&, int64_t n, T* x, const CallOptions& = {}) const;

  /// Tests the model on the first 16 rows of x, or fewer. NumericError on the way ends up in the report.
  template <class T>
  VerifyReport verify(Context&, const T* x, int64_t n, const CallOptions& = {}) const;

 private:
  struct Impl;
  template <class T>
  const Trainable<T>& as(const char* call) const;

  std::shared_ptr<const Impl> impl_;
};

/// The model in a file that `save` here or in Python wrote. Nothing in the file is trusted. IoError says what
/// was expected of one that is missing, truncated, foreign or of another format, or whose tensors are not
/// exactly those of its settings.
EVENFLOW_API Model load(const std::string& path);
/// The same of such a file's bytes, which are needed during the call alone, at any address. Errors call them
/// by `name`. ConfigError for a null pointer.
EVENFLOW_API Model load(const void* bytes, size_t size, const std::string& name = "bytes in memory");

}  // namespace evenflow
