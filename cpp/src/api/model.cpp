#include "evenflow/model.hpp"

#include <algorithm>
#include <limits>

#include "api/calls.hpp"
#include "api/model_file.hpp"
#include "evenflow/error.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

/// Calls process blocks of about this many values, so their memory does not grow with n.
constexpr int64_t kBlockValues = int64_t{1} << 22;

template <class Config>
int64_t bits_of(const Config& c) {
  return c.bits;
}
int64_t bits_of(const NiceConfig& c) {
  return c.is_image() ? c.bits : 0;
}
int64_t bits_of(const CouplingFlowConfig&) {
  return 0;
}

}  // namespace

struct Model::Impl {
  template <class T>
  explicit Impl(Trainable<T> model)
      : dims(model.flow.dims()),
        classes(model.flow.classes()),
        context(model.flow.context()),
        shape(model.flow.sample_shape()),
        config(to_json(model.config)),
        dtype(model.config.dtype),
        bits(std::visit([](const auto& c) { return bits_of(c); }, model.config.model)),
        trained(std::move(model)) {}

  template <class T>
  const Trainable<T>& as(const char* call) const {
    if (dtype != dtype_of<T>()) {
      fail<ConfigError>(call, "expected ", to_string(dtype), " values, as the model has, got ",
                        to_string(dtype_of<T>()));
    }
    return std::get<Trainable<T>>(trained);
  }

  /// Image nets read the context at every pixel, so it counts once per pixel.
  int64_t rows_of_a_block() const {
    return std::max<int64_t>(1, kBlockValues / std::max(dims, context * shape.pixels_per_sample()));
  }

  /// Checks a call and runs f(model, first row, number of rows, their labels or context) for each block.
  template <class T, class F>
  void for_blocks(const char* call, Context& ctx, int64_t n, const CallOptions& options, const F& f,
                  T* dcontext = nullptr) const {
    const Trainable<T>& model = as<T>(call);
    const ContextUse use(call, ctx);
    check_batch(call, n, model.flow, options);
    const int64_t rows = rows_of_a_block();
    for (int64_t a = 0; a < n; a += rows) {
      const int64_t count = std::min(rows, n - a);
      const RowsScope counted(ctx, a);
      WorkspaceScope scope(ctx);
      f(model, a, count, given_of(call, scope, model.flow, options, a, count, dcontext));
    }
  }

  /// The same for a call that takes values x or z: f also gets a block's values as contiguous T.
  template <class T, class X, class F>
  void for_values(const char* call, Context& ctx, const X* in, int64_t stride, int64_t n, bool noise,
                  const CallOptions& options, const F& f, T* dcontext = nullptr) const {
    constexpr bool levels = !std::is_same<X, T>::value;
    if (levels && bits == 0) {
      fail<ConfigError>(call, "expected ", to_string(dtype), " values in a model of tables, got uint8");
    }
    const auto block = [&](const Trainable<T>& model, int64_t a, int64_t count, const Given<T>& given) {
      const X* values = in + a * stride;
      if constexpr (!levels) check_finite(call, values, count, dims, stride, a);
      WorkspaceScope scope(ctx);
      if (stride != dims) {
        X* packed = scope.take<X>(count * dims);
        copy_rows(values, stride, count, dims, packed, dims);
        values = packed;
      }
      if constexpr (levels) {
        T* converted = scope.take<T>(count * dims);
        ctx.kernels<T>().prior.dequantize(ctx, count, dims, values, static_cast<int>(bits), noise,
                                          options.seed, static_cast<uint64_t>(options.first + a), converted);
        f(model, a, count, given, static_cast<const T*>(converted));
      } else {
        f(model, a, count, given, values);
      }
    };
    for_blocks<T>(call, ctx, n, options, block, dcontext);
  }

  int64_t stride_of_x(const char* call, const CallOptions& options) const {
    return stride_of(call, "x", options.x_stride, dims, dims);
  }

  /// Calls f(view), which fills rows [a, a + count) of x.
  template <class T, class F>
  void fill_rows(Context& ctx, T* x, int64_t stride, int64_t a, int64_t count, const F& f) const {
    if (stride == dims) return f(view(x + a * dims, count));
    WorkspaceScope scope(ctx);
    T* packed = scope.take<T>(count * dims);
    f(view(packed, count));
    copy_rows(packed, dims, count, dims, x + a * stride, stride);
  }

  // `call` is the name of the call in error texts.

  /// logdet may be null.
  template <class T, class X>
  void forward(const char* call, Context& ctx, const X* x, int64_t n, T* z, double* logdet,
               const CallOptions& options) const {
    for_values<T>(call, ctx, x, stride_of_x(call, options), n, false, options,
                  [&](const auto& model, int64_t a, int64_t count, const Given<T>& given, const T* block) {
                    WorkspaceScope scope(ctx);
                    model.flow.forward(ctx, model.arena, view(block, count), given, z + a * dims,
                                       logdet ? logdet + a : scope.take<double>(count), call);
                  });
  }

  /// logdet may be null.
  template <class T>
  void inverse(const char* call, Context& ctx, const T* z, int64_t n, T* x, double* logdet,
               const CallOptions& options) const {
    const int64_t stride = stride_of_x(call, options);
    for_values<T>(call, ctx, z, dims, n, false, options,
                  [&](const auto& model, int64_t a, int64_t count, const Given<T>& given, const T* block) {
                    WorkspaceScope scope(ctx);
                    double* det = logdet ? logdet + a : scope.take<double>(count);
                    fill_rows(ctx, x, stride, a, count, [&](View<T> rows) {
                      model.flow.inverse(ctx, model.arena, block, count, given, rows, det, call);
                    });
                  });
  }

  template <class X>
  void log_prob(const char* call, Context& ctx, const X* x, int64_t n, double* out,
                const CallOptions& options) const {
    const auto run = [&](auto t) {
      using T = decltype(t);
      for_values<T>(call, ctx, x, stride_of_x(call, options), n, true, options,
                    [&](const auto& model, int64_t a, int64_t count, const Given<T>& given, const T* block) {
                      model.flow.log_prob(ctx, model.arena, view(block, count), given, out + a, call);
                    });
    };
    if constexpr (std::is_floating_point<X>::value) {
      run(X());
    } else if (dtype == Dtype::float32) {
      run(float());
    } else {
      run(double());
    }
  }

  /// log_prob may be null.
  template <class T>
  void sample(const char* call, Context& ctx, int64_t n, T* x, double* log_prob,
              const CallOptions& options) const {
    const int64_t stride = stride_of_x(call, options);
    for_blocks<T>(call, ctx, n, options,
                  [&](const auto& model, int64_t a, int64_t count, const Given<T>& given) {
                    fill_rows(ctx, x, stride, a, count, [&](View<T> block) {
                      model.flow.sample(ctx, model.arena, options.first + a, options.temperature,
                                        options.seed, given, block, log_prob ? log_prob + a : nullptr);
                    });
                  });
  }

  template <class T>
  View<T> view(T* x, int64_t n) const {
    return View<T>(x, shape.with_batch(n));
  }

  int64_t dims;
  int64_t classes;
  int64_t context;
  Shape shape;
  std::string config;
  Dtype dtype;
  int64_t bits;
  std::variant<Trainable<float>, Trainable<double>> trained;
};

Model::Model(Trainable<float> model) : impl_(std::make_shared<const Impl>(std::move(model))) {}
Model::Model(Trainable<double> model) : impl_(std::make_shared<const Impl>(std::move(model))) {}

const std::string& Model::config() const {
  return impl_->config;
}
Dtype Model::dtype() const {
  return impl_->dtype;
}
Shape Model::sample_shape() const {
  return impl_->shape;
}
int64_t Model::dims() const {
  return impl_->dims;
}
int64_t Model::classes() const {
  return impl_->classes;
}
int64_t Model::context() const {
  return impl_->context;
}
int64_t Model::bits() const {
  return impl_->bits;
}

template <class T>
const Trainable<T>& Model::as(const char* call) const {
  return impl_->as<T>(call);
}

template <class X, class T>
void Model::forward(Context& ctx, const X* x, int64_t n, T* z, double* logdet,
                    const CallOptions& options) const {
  impl_->forward("forward", ctx, x, n, z, logdet, options);
}

template <class T>
void Model::inverse(Context& ctx, const T* z, int64_t n, T* x, double* logdet,
                    const CallOptions& options) const {
  impl_->inverse("inverse", ctx, z, n, x, logdet, options);
}

template <class X, class T>
void Model::encode(Context& ctx, const X* x, int64_t n, T* z, const CallOptions& options) const {
  impl_->forward("encode", ctx, x, n, z, nullptr, options);
}

template <class T>
void Model::decode(Context& ctx, const T* z, int64_t n, T* x, const CallOptions& options) const {
  impl_->inverse("decode", ctx, z, n, x, nullptr, options);
}

template <class X>
void Model::log_prob(Context& ctx, const X* x, int64_t n, double* out, const CallOptions& options) const {
  impl_->log_prob("log_prob", ctx, x, n, out, options);
}

template <class X>
void Model::bits_per_dim(Context& ctx, const X* x, int64_t n, double* out, const CallOptions& options) const {
  impl_->log_prob("bits_per_dim", ctx, x, n, out, options);
  constexpr double kLn2 = 0.693147180559945309417;
  for (int64_t i = 0; i < n; ++i) out[i] /= static_cast<double>(-impl_->dims) * kLn2;
}

template <class T>
void Model::log_prob_and_grad(Context& ctx, const T* x, int64_t n, double* out, Deduced<T>* dx,
                              Deduced<T>* dcontext, const CallOptions& options) const {
  const char* call = "log_prob_and_grad";
  if (dcontext && !impl_->context)
    fail<ConfigError>(call, "a dcontext was given, but the model has no context");
  const int64_t dims = impl_->dims;
  const auto block = [&](const Trainable<T>& model, int64_t a, int64_t count, const Given<T>& given,
                         const T* rows) {
    WorkspaceScope scope(ctx);
    T* gradient = dx ? dx + a * dims : scope.take<T>(count * dims);
    model.flow.log_prob_and_grad(ctx, model.arena, impl_->view(rows, count), given, out + a,
                                 impl_->view(gradient, count));
  };
  impl_->for_values<T>(call, ctx, x, impl_->stride_of_x(call, options), n, false, options, block, dcontext);
}

template <class T>
void Model::sample(Context& ctx, int64_t n, T* x, const CallOptions& options) const {
  impl_->sample<T>("sample", ctx, n, x, nullptr, options);
}

template <class T>
void Model::sample_and_log_prob(Context& ctx, int64_t n, T* x, double* log_prob,
                                const CallOptions& options) const {
  impl_->sample<T>("sample_and_log_prob", ctx, n, x, log_prob, options);
}

Model load_model(Bytes file, const Site& site) {
  const ModelFile model = view_model(file, site);
  if (model.config.dtype == Dtype::float32) return Model(restore<float>(model, site));
  return Model(restore<double>(model, site));
}

Model load_file(const Site& site) {
  const MappedFile file(site);
  Model model = load_model(file.bytes(), site);
  file.check_length();
  return model;
}

Model load_bytes(const void* bytes, size_t size, const Site& site) {
  if (!bytes) fail<ConfigError>(site.where, "expected the bytes of a model file, got a null pointer");
  constexpr auto kMost = static_cast<size_t>(std::numeric_limits<int64_t>::max());
  if (size > kMost) reject(site, "expected at most ", kMost, " bytes, got ", size);
  return load_model({static_cast<const char*>(bytes), static_cast<int64_t>(size)}, site);
}

Model load(const std::string& path) {
  const Site site{"load", path};
  return with_memory(site, "the model", [&] { return load_file(site); });
}

Model load(const void* bytes, size_t size, const std::string& name) {
  const Site site{"load", name};
  return with_memory(site, "the model", [&] { return load_bytes(bytes, size, site); });
}

template const Trainable<float>& Model::as(const char*) const;
template void Model::forward(Context&, const float*, int64_t, float*, double*, const CallOptions&) const;
template void Model::encode(Context&, const float*, int64_t, float*, const CallOptions&) const;
template void Model::forward(Context&, const uint8_t*, int64_t, float*, double*, const CallOptions&) const;
template void Model::encode(Context&, const uint8_t*, int64_t, float*, const CallOptions&) const;
template void Model::inverse(Context&, const float*, int64_t, float*, double*, const CallOptions&) const;
template void Model::decode(Context&, const float*, int64_t, float*, const CallOptions&) const;
template void Model::log_prob_and_grad(Context&, const float*, int64_t, double*, float*, float*,
                                       const CallOptions&) const;
template void Model::sample(Context&, int64_t, float*, const CallOptions&) const;
template void Model::sample_and_log_prob(Context&, int64_t, float*, double*, const CallOptions&) const;
template const Trainable<double>& Model::as(const char*) const;
template void Model::forward(Context&, const double*, int64_t, double*, double*, const CallOptions&) const;
template void Model::encode(Context&, const double*, int64_t, double*, const CallOptions&) const;
template void Model::forward(Context&, const uint8_t*, int64_t, double*, double*, const CallOptions&) const;
template void Model::encode(Context&, const uint8_t*, int64_t, double*, const CallOptions&) const;
template void Model::inverse(Context&, const double*, int64_t, double*, double*, const CallOptions&) const;
template void Model::decode(Context&, const double*, int64_t, double*, const CallOptions&) const;
template void Model::log_prob_and_grad(Context&, const double*, int64_t, double*, double*, double*,
                                       const CallOptions&) const;
template void Model::sample(Context&, int64_t, double*, const CallOptions&) const;
template void Model::sample_and_log_prob(Context&, int64_t, double*, double*, const CallOptions&) const;
template void Model::log_prob(Context&, const float*, int64_t, double*, const CallOptions&) const;
template void Model::bits_per_dim(Context&, const float*, int64_t, double*, const CallOptions&) const;
template void Model::log_prob(Context&, const double*, int64_t, double*, const CallOptions&) const;
template void Model::bits_per_dim(Context&, const double*, int64_t, double*, const CallOptions&) const;
template void Model::log_prob(Context&, const uint8_t*, int64_t, double*, const CallOptions&) const;
template void Model::bits_per_dim(Context&, const uint8_t*, int64_t, double*, const CallOptions&) const;

}  // namespace evenflow
