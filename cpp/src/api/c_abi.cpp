#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>

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

/// The size of the caller's struct, checked. least: its size in the first version of the library.
template <class Struct>
size_t checked_size(const char* call, const Struct* caller, size_t least) {
  constexpr size_t kMost = 4096;
  const size_t size = caller->struct_size;
  if (size < least) {
    fail<ConfigError>(call, "expected struct_size >= ", least, ", got ", size, "; use the _INIT macro");
  }
  if (size > kMost) {
    fail<ConfigError>(call, "expected struct_size <= ", kMost, ", got ", size, "; use the _INIT macro");
  }
  return size;
}

/// Converts the caller's struct to this version's. Members that an older caller lacks keep their values in
/// `out`. Unknown members of a newer caller must be zero.
template <class Struct>
Struct from_caller(const char* call, const Struct* caller, size_t least, Struct out) {
  if (!caller) return out;
  const size_t size = checked_size(call, caller, least);
  const char* bytes = reinterpret_cast<const char*>(caller);
  if (std::any_of(bytes + std::min(size, sizeof out), bytes + size, [](char b) { return b != 0; })) {
    fail<ConfigError>(call, "expected options that version ", evenflow_version(), " knows, got newer ones");
  }
  std::memcpy(&out, bytes, std::min(size, sizeof out));
  return out;
}

/// Copies `source` to the caller's struct, as far as the caller's version reaches.
template <class Struct>
void fill_caller(const char* call, Struct source, size_t least, Struct* caller) {
  expect(call, "a struct to fill", caller);
  const size_t size = checked_size(call, caller, least);
  source.struct_size = size;
  std::memcpy(caller, &source, std::min(size, sizeof source));
}

CallOptions options_of(const char* call, const evenflow_options* caller) {
  const evenflow_options o =
      from_caller<evenflow_options>(call, caller, offsetof(evenflow_options, context), EVENFLOW_OPTIONS_INIT);
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

/// The arguments that all calls share. The constructor checks them.
struct Call {
  Call(const char* name_, const evenflow_model* model_, evenflow_context* context_, const void* in,
       const void* out, const evenflow_options* options_)
      : name(name_) {
    expect(name, "a model", model_);
    expect(name, "a context", context_);
    expect(name, "an output", out);
    expect(name, "an input", in);
    options = options_of(name, options_);
    model = &model_->model;
    context = &context_->context;
  }

  /// Calls f with `in` cast to the type of `dtype`. kinds: the types that the call takes, for the error text.
  template <class F>
  void with_floats(evenflow_dtype dtype, const void* in, const F& f,
                   const char* kinds = "EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64") const {
    if (dtype == EVENFLOW_FLOAT32) {
      f(static_cast<const float*>(in));
    } else if (dtype == EVENFLOW_FLOAT64) {
      f(static_cast<const double*>(in));
    } else {
      fail<ConfigError>(name, "expected dtype ", kinds, ", got ", dtype);
    }
  }
  template <class F>
  void with_any(evenflow_dtype dtype, const void* in, const F& f) const {
    if (dtype == EVENFLOW_UINT8) {
      f(static_cast<const uint8_t*>(in));
    } else {
      with_floats(dtype, in, f, kinds());
    }
  }
  /// Calls f(x, z), with x of any type and z of the model's type.
  template <class F>
  void with_latents(evenflow_dtype dtype, const void* x, void* z, const F& f) const {
    if (dtype == EVENFLOW_UINT8) {
      const auto* levels = static_cast<const uint8_t*>(x);
      if (model->dtype() == Dtype::float32) {
        f(levels, static_cast<float*>(z));
      } else {
        f(levels, static_cast<double*>(z));
      }
      return;
    }
    with_floats(dtype, x, [&](const auto* values) { f(values, same_type(values, z)); }, kinds());
  }

  /// The types of an x that may be uint8.
  const char* kinds() const {
    return model->bits() ? "EVENFLOW_FLOAT32, EVENFLOW_FLOAT64 or EVENFLOW_UINT8"
                         : "EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64";
  }

  template <class T>
  static T* same_type(const T*, void* out) {
    return static_cast<T*>(out);
  }

  const char* name;
  const Model* model;
  Context* context;
  CallOptions options;
};

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
    const evenflow_info result = {sizeof(evenflow_info),
                                  m.dtype() == Dtype::float32 ? EVENFLOW_FLOAT32 : EVENFLOW_FLOAT64,
                                  static_cast<int32_t>(m.bits()),
                                  m.dims(),
                                  shape.h,
                                  shape.w,
                                  shape.c,
                                  m.classes(),
                                  m.context()};
    fill_caller("model_get_info", result, offsetof(evenflow_info, context), info);
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
  return guarded([&] {
    const Call call("log_prob", model, context, x, out, options);
    call.with_any(dtype, x,
                  [&](const auto* in) { call.model->log_prob(*call.context, in, n, out, call.options); });
  });
}

evenflow_status evenflow_log_prob_and_grad(const evenflow_model* model, evenflow_context* context,
                                           evenflow_dtype dtype, const void* x, int64_t n,
                                           const evenflow_options* options, double* out, void* dx,
                                           void* dcontext) {
  return guarded([&] {
    const Call call("log_prob_and_grad", model, context, x, out, options);
    call.with_floats(dtype, x, [&](const auto* in) {
      call.model->log_prob_and_grad(*call.context, in, n, out, Call::same_type(in, dx),
                                    Call::same_type(in, dcontext), call.options);
    });
  });
}

evenflow_status evenflow_bits_per_dim(const evenflow_model* model, evenflow_context* context,
                                      evenflow_dtype dtype, const void* x, int64_t n,
                                      const evenflow_options* options, double* out) {
  return guarded([&] {
    const Call call("bits_per_dim", model, context, x, out, options);
    call.with_any(dtype, x,
                  [&](const auto* in) { call.model->bits_per_dim(*call.context, in, n, out, call.options); });
  });
}

evenflow_status evenflow_sample(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                int64_t n, const evenflow_options* options, void* x) {
  return guarded([&] {
    const Call call("sample", model, context, x, x, options);
    call.with_floats(dtype, x, [&](const auto* typed) {
      call.model->sample(*call.context, n, Call::same_type(typed, x), call.options);
    });
  });
}

evenflow_status evenflow_sample_and_log_prob(const evenflow_model* model, evenflow_context* context,
                                             evenflow_dtype dtype, int64_t n, const evenflow_options* options,
                                             void* x, double* log_prob) {
  return guarded([&] {
    const Call call("sample_and_log_prob", model, context, x, log_prob, options);
    call.with_floats(dtype, x, [&](const auto* typed) {
      call.model->sample_and_log_prob(*call.context, n, Call::same_type(typed, x), log_prob, call.options);
    });
  });
}

evenflow_status evenflow_forward(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                 const void* x, int64_t n, const evenflow_options* options, void* z,
                                 double* logdet) {
  return guarded([&] {
    const Call call("forward", model, context, x, z, options);
    expect("forward", "a place for logdet", logdet);
    call.with_latents(dtype, x, z, [&](const auto* in, auto* out) {
      call.model->forward(*call.context, in, n, out, logdet, call.options);
    });
  });
}

evenflow_status evenflow_inverse(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                 const void* z, int64_t n, const evenflow_options* options, void* x,
                                 double* logdet) {
  return guarded([&] {
    const Call call("inverse", model, context, z, x, options);
    expect("inverse", "a place for logdet", logdet);
    call.with_floats(dtype, z, [&](const auto* in) {
      call.model->inverse(*call.context, in, n, Call::same_type(in, x), logdet, call.options);
    });
  });
}

evenflow_status evenflow_encode(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                const void* x, int64_t n, const evenflow_options* options, void* z) {
  return guarded([&] {
    const Call call("encode", model, context, x, z, options);
    call.with_latents(dtype, x, z, [&](const auto* in, auto* out) {
      call.model->encode(*call.context, in, n, out, call.options);
    });
  });
}

evenflow_status evenflow_decode(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                const void* z, int64_t n, const evenflow_options* options, void* x) {
  return guarded([&] {
    const Call call("decode", model, context, z, x, options);
    call.with_floats(dtype, z, [&](const auto* in) {
      call.model->decode(*call.context, in, n, Call::same_type(in, x), call.options);
    });
  });
}

evenflow_status evenflow_verify(const evenflow_model* model, evenflow_context* context, evenflow_dtype dtype,
                                const void* x, int64_t n, const evenflow_options* options,
                                evenflow_report* report) {
  return guarded([&] {
    const Call call("verify", model, context, x, report, options);
    call.with_floats(dtype, x, [&](const auto* in) {
      const VerifyReport r = call.model->verify(*call.context, in, n, call.options);
      if (!r.finite) failed(EVENFLOW_OK, r.error.c_str());
      const evenflow_report result = {sizeof(evenflow_report),
                                      r.samples,
                                      r.ok,
                                      r.finite,
                                      r.round_trip_x,
                                      r.round_trip_z,
                                      r.logdet_sum,
                                      r.precision,
                                      r.jacobian,
                                      r.probed,
                                      0};
      fill_caller("verify", result, sizeof(evenflow_report), report);
    });
  });
}
