#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>

#include "api/model_file.hpp"
#include "evenflow/error.hpp"
#include "evenflow/evenflow.h"
#include "evenflow/model.hpp"

struct evenflow_model {
  evenflow::Model model;
};

struct evenflow_context {
  explicit evenflow_context(int threads) : context("cpu", threads) {}
  evenflow::Context context;
};

namespace evenflow {
namespace {

// A plain array has no destructor: a thread may end after the library has been unloaded.
thread_local char last_error[1024];

/// Stores the text for evenflow_last_error(). A long text is cut between UTF-8 characters.
evenflow_status failed(evenflow_status status, const char* text) {
  constexpr size_t kMost = sizeof last_error - 1;
  size_t size = strnlen(text, kMost + 1);
  if (size > kMost) {
    const auto continues = [&] { return (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80; };
    size = kMost;
    while (size > kMost - 3 && continues()) --size;  // bounded: a path may not be UTF-8
  }
  std::memcpy(last_error, text, size);
  last_error[size] = 0;
  return status;
}

/// Runs f and converts its exceptions to a status and a text.
template <class F>
evenflow_status guarded(const F& f) noexcept {
  try {
    f();
    return EVENFLOW_OK;
  } catch (const ShapeError& e) {
    return failed(EVENFLOW_SHAPE_ERROR, e.what());
  } catch (const ConfigError& e) {
    return failed(EVENFLOW_CONFIG_ERROR, e.what());
  } catch (const DeviceError& e) {
    return failed(EVENFLOW_DEVICE_ERROR, e.what());
  } catch (const IoError& e) {
    return failed(EVENFLOW_IO_ERROR, e.what());
  } catch (const NumericError& e) {
    return failed(EVENFLOW_NUMERIC_ERROR, e.what());
  } catch (const std::bad_alloc&) {
    return failed(EVENFLOW_MEMORY_ERROR, "[evenflow] expected memory, got none");
  } catch (const std::exception& e) {
    return failed(EVENFLOW_INTERNAL_ERROR, e.what());
  } catch (...) {
    return failed(EVENFLOW_INTERNAL_ERROR, "[evenflow] expected no error of an unknown kind, got one");
  }
}

void expect(const char* call, const char* what, const void* pointer) {
  if (!pointer) fail<ConfigError>(call, "expected ", what, ", got a null pointer");
}

/// The size of the caller's struct, which may have more or fewer members than ours. least: the size of those
/// that every caller has.
template <class Struct>
size_t size_of(const char* call, const Struct& caller, size_t least) {
  constexpr size_t kMost = 4096;
  const size_t size = caller.struct_size;
  if (size < least || size > kMost) {
    fail<ConfigError>(call, "expected struct_size in ", least, " ... ", kMost, ", got ", size,
                      "; use the _INIT macro");
  }
  return size;
}

/// Fills the members that the caller's struct has.
template <class Struct>
void fill(const char* call, Struct source, size_t least, Struct* caller) {
  expect(call, "a struct to fill", caller);
  source.struct_size = size_of(call, *caller, least);
  std::memcpy(caller, &source, std::min(source.struct_size, sizeof source));
}

/// Members that the caller's struct lacks keep their defaults. Members that we do not know must be zero.
CallOptions options_of(const char* call, const evenflow_options* caller) {
  evenflow_options o = EVENFLOW_OPTIONS_INIT;
  if (caller) {
    const char* bytes = reinterpret_cast<const char*>(caller);
    const size_t size = size_of(call, *caller, offsetof(evenflow_options, context));
    const size_t known = std::min(size, sizeof o);
    if (std::any_of(bytes + known, bytes + size, [](char b) { return b != 0; })) {
      fail<ConfigError>(call, "expected options that version ", evenflow_version(), " knows, got newer ones");
    }
    std::memcpy(&o, caller, known);
  }
  CallOptions options{o.labels, o.seed, o.first, o.temperature, {}, o.x_stride};
  if (o.context_dtype == EVENFLOW_FLOAT32) {
    options.context = {static_cast<const float*>(o.context), o.context_stride};
  } else if (o.context_dtype == EVENFLOW_FLOAT64) {
    options.context = {static_cast<const double*>(o.context), o.context_stride};
  } else {
    fail<ConfigError>(call, "expected a context_dtype EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64, got ",
                      o.context_dtype);
  }
  return options;
}

/// What a call is given, checked.
struct Call {
  const Model& model;
  Context& context;
  CallOptions options;

  /// Calls f with z, which is of the model's type: in's, or for uint8 images the one that the model says.
  template <class X, class F>
  void with_latents(const X*, void* z, const F& f) const {
    if constexpr (std::is_floating_point<X>::value) {
      f(static_cast<X*>(z));
    } else if (model.dtype() == Dtype::float32) {
      f(static_cast<float*>(z));
    } else {
      f(static_cast<double*>(z));
    }
  }
};

/// Calls f(call, x) with x of the type that `dtype` says. takes_levels: it may be uint8, in a model of
/// images.
template <bool takes_levels = false, class F>
evenflow_status run(const char* name, const evenflow_model* model, evenflow_context* context,
                    evenflow_dtype dtype, const void* x, const void* out, const evenflow_options* options,
                    const F& f) noexcept {
  return guarded([&] {
    expect(name, "a model", model);
    expect(name, "a context", context);
    expect(name, "an output", out);
    expect(name, "an input", x);
    const Call call{model->model, context->context, options_of(name, options)};
    if (dtype == EVENFLOW_FLOAT32) return f(call, static_cast<const float*>(x));
    if (dtype == EVENFLOW_FLOAT64) return f(call, static_cast<const double*>(x));
    if constexpr (takes_levels) {
      if (dtype == EVENFLOW_UINT8) return f(call, static_cast<const uint8_t*>(x));
    }
    fail<ConfigError>(name, "expected dtype ",
                      takes_levels && model->model.bits()
                          ? "EVENFLOW_FLOAT32, EVENFLOW_FLOAT64 or EVENFLOW_UINT8"
                          : "EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64",
                      ", got ", dtype);
  });
}

/// out as an array of the other argument's type.
template <class T>
T* typed(const T*, void* out) {
  return static_cast<T*>(out);
}

}  // namespace
}  // namespace evenflow

using namespace evenflow;

const char* evenflow_last_error(void) {
  return last_error;
}

evenflow_status evenflow_load(const char* path, evenflow_model** model) {
  return guarded([&] {
    expect("load", "a place for the model", model);
    *model = nullptr;
    expect("load", "a path", path);
    *model = new evenflow_model{load_file({"load", path})};
  });
}

evenflow_status evenflow_load_bytes(const void* bytes, size_t size, evenflow_model** model) {
  return guarded([&] {
    expect("load_bytes", "a place for the model", model);
    *model = nullptr;
    *model = new evenflow_model{load_bytes(bytes, size, {"load_bytes", "bytes in memory"})};
  });
}

void evenflow_model_free(evenflow_model* model) {
  delete model;
}

evenflow_status evenflow_model_get_info(const evenflow_model* model, evenflow_info* info) {
  return guarded([&] {
    expect("model_get_info", "a model", model);
    const Model& m = model->model;
    const Shape shape = m.sample_shape();
    const evenflow_info result = {0,
                                  m.dtype() == Dtype::float32 ? EVENFLOW_FLOAT32 : EVENFLOW_FLOAT64,
                                  static_cast<int32_t>(m.bits()),
                                  m.dims(),
                                  shape.h,
                                  shape.w,
                                  shape.c,
                                  m.classes(),
                                  m.context()};
    fill("model_get_info", result, offsetof(evenflow_info, context), info);
  });
}

evenflow_status evenflow_model_get_config(const evenflow_model* model, char* text, size_t* size) {
  return guarded([&] {
    expect("model_get_config", "a model", model);
    expect("model_get_config", "a place for the size", size);
    const std::string& config = model->model.config();
    const size_t needed = config.size() + 1, capacity = *size;
    *size = needed;
    if (!text) return;
    if (capacity < needed)
      fail<ShapeError>("model_get_config", "expected room for ", needed, " bytes, got ", capacity);
    std::memcpy(text, config.c_str(), needed);
  });
}

evenflow_status evenflow_context_create(int32_t threads, evenflow_context** context) {
  return guarded([&] {
    expect("context_create", "a place for the context", context);
    *context = nullptr;
    *context = new evenflow_context(threads);
  });
}

void evenflow_context_free(evenflow_context* context) {
  delete context;
}

evenflow_status evenflow_log_prob(const evenflow_model* model, evenflow_context* context,
                                  evenflow_dtype dtype, const void* x, int64_t n,
                                  const evenflow_options* options, double* out) {
  return run<true>("log_prob", model, context, dtype, x, out, options, [&](const Call& call, const auto* in) {
    call.model.log_prob(call.context, in, n, out, call.options);
  });
}

evenflow_status evenflow_log_prob_and_grad(const evenflow_model* model, evenflow_context* context,
                                           evenflow_dtype dtype, const void* x, int64_t n,
                                           const evenflow_options* options, double* out, void* dx,
                                           void* dcontext) {
  return run("log_prob_and_grad", model, context, dtype, x, out, options,
             [&](const Call& call, const auto* in) {
               call.model.log_prob_and_grad(call.context, in, n, out, typed(in, dx), typed(in, dcontext),
                                            call.options);
             });
}

evenflow_status evenflow_bits_per_dim(const evenflow_model* model, evenflow_context* context,
                                      evenflow_dtype dtype, const void* x, int64_t n,
                                      const evenflow_options* options, double* out) {
  return run<true>("bits_per_dim", model, context, dtype, x, out, options,
                   [&](const Call& call, const auto* in) {
                     call.model.bits_per_dim(call.context, in, n, out, call.options);
                   });
}

evenflow_status evenflow_sample(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                int64_t n, const evenflow_options* options, void* x) {
  return run("sample", model, context, dtype, x, x, options, [&](const Call& call, const auto* in) {
    call.model.sample(call.context, n, typed(in, x), call.options);
  });
}

evenflow_status evenflow_sample_and_log_prob(const evenflow_model* model, evenflow_context* context,
                                             evenflow_dtype dtype, int64_t n, const evenflow_options* options,
                                             void* x, double* log_prob) {
  return run("sample_and_log_prob", model, context, dtype, x, log_prob, options,
             [&](const Call& call, const auto* in) {
               call.model.sample_and_log_prob(call.context, n, typed(in, x), log_prob, call.options);
             });
}

evenflow_status evenflow_forward(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                 const void* x, int64_t n, const evenflow_options* options, void* z,
                                 double* logdet) {
  return run<true>("forward", model, context, dtype, x, z, options, [&](const Call& call, const auto* in) {
    expect("forward", "a place for logdet", logdet);
    call.with_latents(in, z,
                      [&](auto* to) { call.model.forward(call.context, in, n, to, logdet, call.options); });
  });
}

evenflow_status evenflow_inverse(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                 const void* z, int64_t n, const evenflow_options* options, void* x,
                                 double* logdet) {
  return run("inverse", model, context, dtype, z, x, options, [&](const Call& call, const auto* in) {
    expect("inverse", "a place for logdet", logdet);
    call.model.inverse(call.context, in, n, typed(in, x), logdet, call.options);
  });
}

evenflow_status evenflow_encode(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                const void* x, int64_t n, const evenflow_options* options, void* z) {
  return run<true>("encode", model, context, dtype, x, z, options, [&](const Call& call, const auto* in) {
    call.with_latents(in, z, [&](auto* to) { call.model.encode(call.context, in, n, to, call.options); });
  });
}

evenflow_status evenflow_decode(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                const void* z, int64_t n, const evenflow_options* options, void* x) {
  return run("decode", model, context, dtype, z, x, options, [&](const Call& call, const auto* in) {
    call.model.decode(call.context, in, n, typed(in, x), call.options);
  });
}

evenflow_status evenflow_verify(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                const void* x, int64_t n, const evenflow_options* options,
                                evenflow_report* report) {
  return run("verify", model, context, dtype, x, report, options, [&](const Call& call, const auto* in) {
    const VerifyReport r = call.model.verify(call.context, in, n, call.options);
    if (!r.finite) failed(EVENFLOW_OK, r.error.c_str());
    const evenflow_report result = {0,
                                    r.samples,
                                    r.ok,
                                    r.finite,
                                    r.round_trip_x,
                                    r.round_trip_z,
                                    r.resolution,
                                    r.logdet_sum,
                                    r.precision,
                                    r.jacobian,
                                    r.probed,
                                    0};
    fill("verify", result, sizeof result, report);
  });
}
