#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

#include "evenflow/context.hpp"
#include "evenflow/trainable.hpp"

namespace evenflow {

template <class T>
using Deduced = std::common_type_t<T>;  ///< T of another argument, so that this one may be nullptr

constexpr int64_t kContiguous = -1;  ///< a stride: rows without gaps

/// Context values (n, Model::context()) of float or double, whatever the model's dtype. stride: number of
/// values from one row to the next; 0: all rows share one.
struct ContextRows {
  ContextRows(std::nullptr_t = nullptr) {}
  ContextRows(const double* values_, int64_t stride_ = kContiguous) : values(values_), stride(stride_) {}
  ContextRows(const float* values_, int64_t stride_ = kContiguous)
      : values(values_), dtype(Dtype::float32), stride(stride_) {}

  const void* values = nullptr;
  Dtype dtype = Dtype::float64;
  int64_t stride = kContiguous;
};

/// Optional arguments of a call.
struct CallOptions {
  const int32_t* labels = nullptr;  ///< (n,) class of each row; class-conditional models only
  uint64_t seed = 0;                ///< for samples, and for the dequantisation noise of uint8 images
  int64_t first = 0;       ///< number of the first row: row i's draws depend only on (seed, first + i)
  double temperature = 1;  ///< sampling: multiplies the base draw
  ContextRows context;     ///< models with a context only
  int64_t x_stride = kContiguous;  ///< number of values from one row of x to the next, at least Model::dims()
};

/// Results of Model::verify. Errors are relative to max(1, size of the exact quantity).
struct VerifyReport {
  int64_t samples = 0;
  bool finite = false;  ///< no intermediate value was NaN or infinite; else see `error`
  std::string error;
  double round_trip_x = 0;  ///< max |inverse(forward(x)) - x|
  double round_trip_z = 0;  ///< max |forward(inverse(z)) - z|, z drawn from the base, beyond what the
                            ///< rounding of inverse(z) explains
  double resolution = 0;    ///< how far z moves when the last digit of x changes: the median over the draws
  double logdet_sum = 0;    ///< max |logdet of forward + logdet of inverse|
  double precision = 0;     ///< max |log_prob - log_prob of a float64 copy|
  bool probed = false;      ///< whether `jacobian` was measured (up to 512 dimensions)
  double jacobian = 0;      ///< |logdet - log |det dz/dx|| of the float64 copy, from unit vectors
  bool ok = false;          ///< finite, and all within the bounds of "Embedding" in the documentation
};

/// A trained flow, ready to score and to sample; immutable, and cheap to copy.
///
/// Any number of threads may use one model at once, each with its own Context. A context serves one call at a
/// time and sets how many threads a large batch uses. ConfigError if another model call is using the context;
/// calls of a Flow do not check this. After the first call with a batch size, further calls of that size on
/// one thread allocate nothing, but for log_prob_and_grad.
///
/// The caller owns all arrays. They are contiguous and row-major, but for x and the context, whose rows may
/// have a stride; no value may belong to two of a call. T is float or double and must match dtype()
/// (ConfigError otherwise). X is T, or uint8_t for images. A row of
/// x has sample_shape() values (NHWC), a row of z has dims(). The same file, inputs and seed give the same
/// bits as in Python, for any n and any number of threads.
///
/// All calls throw ShapeError for a batch that is empty or too large for any memory, NumericError for NaN or
/// infinity in the input (with its position) or in a result, and ConfigError for labels, a context or options
/// that do not fit the model.
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
  int64_t context() const;  ///< context values per row; 0: takes no context
  int64_t bits() const;     ///< images: bits per channel, x in 0 ... 2^bits; tables: 0

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
  /// out (n) = log p(x), with its gradients dx (n, dims()) and dcontext (n, context()). Either may be null.
  template <class T>
  void log_prob_and_grad(Context&, const T* x, int64_t n, double* out, Deduced<T>* dx,
                         Deduced<T>* dcontext = nullptr, const CallOptions& = {}) const;
  /// -log2 p(x) / dims() (n).
  template <class X>
  void bits_per_dim(Context&, const X* x, int64_t n, double* out, const CallOptions& = {}) const;
  /// n samples; images in level units.
  template <class T>
  void sample(Context&, int64_t n, T* x, const CallOptions& = {}) const;
  /// The same samples, and log p(x) (n), the density of each at any temperature.
  template <class T>
  void sample_and_log_prob(Context&, int64_t n, T* x, double* log_prob, const CallOptions& = {}) const;

  /// Tests the model on the first 16 rows of x, or on all if there are fewer. A NumericError in a test is
  /// reported, not thrown.
  template <class T>
  VerifyReport verify(Context&, const T* x, int64_t n, const CallOptions& = {}) const;

 private:
  struct Impl;
  template <class T>
  const Trainable<T>& as(const char* call) const;

  std::shared_ptr<const Impl> impl_;
};

/// Loads a model file that `save` wrote, from C++ or Python. The file is not trusted. IoError if it is
/// missing, truncated, foreign or of another format, or if its tensors are not exactly those of its settings.
EVENFLOW_API Model load(const std::string& path);
/// Loads a model from such a file's bytes, of any alignment. They are not used after the call. Error texts
/// call them `name`. ConfigError for a null pointer.
EVENFLOW_API Model load(const void* bytes, size_t size, const std::string& name = "bytes in memory");

}  // namespace evenflow
