#include "kernels/device/cublaslt.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "evenflow/error.hpp"

namespace evenflow::device {
namespace {

/// What NVIDIA recommends for Hopper, and more than older GPUs need. Only what an algorithm uses is taken.
constexpr uint64_t kMostWorkspace = uint64_t{32} << 20;

constexpr size_t kMostAlgorithms = 4096;

template <class F>
void find(void* library, const char* file, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  if (!function) {
    fail<DeviceError>("cublaslt", "expected ", name, " in ", file, ", got a library without it");
  }
}

/// Bytes to which an address is aligned. No access is wider than sixteen.
uint32_t alignment(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address) | 16;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

/// A descriptor of the library's.
template <class D>
struct Owned {
  D* get = nullptr;
  int (*destroy)(D*);
  explicit Owned(int (*destroy_)(D*)) : destroy(destroy_) {}
  ~Owned() {
    if (get) destroy(get);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
};

}  // namespace

CublasLt::CublasLt(const char* file, void* library) : f_{} {
  find(library, file, "cublasLtCreate", f_.create);
  find(library, file, "cublasLtGetStatusString", f_.status_string);
  find(library, file, "cublasLtMatmulDescCreate", f_.desc_create);
  find(library, file, "cublasLtMatmulDescDestroy", f_.desc_destroy);
  find(library, file, "cublasLtMatmulDescSetAttribute", f_.desc_set);
  find(library, file, "cublasLtMatrixLayoutCreate", f_.layout_create);
  find(library, file, "cublasLtMatrixLayoutDestroy", f_.layout_destroy);
  find(library, file, "cublasLtMatmulPreferenceCreate", f_.preference_create);
  find(library, file, "cublasLtMatmulPreferenceDestroy", f_.preference_destroy);
  find(library, file, "cublasLtMatmulPreferenceSetAttribute", f_.preference_set);
  find(library, file, "cublasLtMatmulAlgoGetHeuristic", f_.heuristic);
  find(library, file, "cublasLtMatmul", f_.matmul);
  check(f_.create(&handle_), "cublasLtCreate");
}

CublasLt* CublasLt::load() {
  const char* const chosen = std::getenv("EVENFLOW_CUBLASLT_LIBRARY");
  if (chosen && std::strcmp(chosen, "none") == 0) return nullptr;
  if (chosen && *chosen) {
    void* const library = dlopen(chosen, RTLD_NOW | RTLD_LOCAL);
    if (library) return new CublasLt(chosen, library);
    const char* problem = dlerror();
    fail<DeviceError>("cublaslt", "expected a library in EVENFLOW_CUBLASLT_LIBRARY, got ", chosen, " (",
                      problem ? problem : "no reason given", ")");
  }
  for (const char* file : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    if (void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL)) return new CublasLt(file, library);
  }
  return nullptr;
}

CublasLt* CublasLt::get() {
  static CublasLt* const lt = load();  // retried after a failure
  return lt;
}

void CublasLt::check(int status, const char* call) const {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail<DeviceError>("cublaslt", "expected ", call, " to succeed, got ", f_.status_string(status));
}

void CublasLt::multiply(Context& ctx, int compute, const Operand& a, const Operand& b, const Operand& d,
                        void* to, bool add, const void* bias, bool relu, void* stream, const Run& run) {
  const bool wide = compute == CUBLAS_COMPUTE_64F;
  int epilogue = (relu ? CUBLASLT_EPILOGUE_RELU : 0) | (bias ? CUBLASLT_EPILOGUE_BIAS : 0);
  if (epilogue == 0) epilogue = CUBLASLT_EPILOGUE_DEFAULT;

  Owned<cublasLtMatmulDesc> operation(f_.desc_destroy);
  check(f_.desc_create(&operation.get, compute, wide ? CUDA_R_64F : CUDA_R_32F), "cublasLtMatmulDescCreate");
  const auto set = [&](int attribute, const auto& value) {
    check(f_.desc_set(operation.get, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, a.operation);
  set(CUBLASLT_MATMUL_DESC_TRANSB, b.operation);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
  if (bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  std::vector<int64_t> key{compute, epilogue, alignment(bias), add};
  Owned<cublasLtMatrixLayout> a_layout(f_.layout_destroy), b_layout(f_.layout_destroy),
      d_layout(f_.layout_destroy);
  const auto lay_out = [&](const Operand& x, Owned<cublasLtMatrixLayout>& layout) {
    check(f_.layout_create(&layout.get, x.type, static_cast<uint64_t>(x.rows), static_cast<uint64_t>(x.cols),
                           x.stride),
          "cublasLtMatrixLayoutCreate");
    key.insert(key.end(), {x.type, x.rows, x.cols, x.stride, x.operation, alignment(x.data)});
  };
  lay_out(a, a_layout);
  lay_out(b, b_layout);
  lay_out(d, d_layout);

  cublasLtMatmulHeuristicResult algorithm{};
  {
    const std::lock_guard<std::mutex> guard(lock_);
    const auto known = algorithms_.find(key);
    if (known != algorithms_.end()) {
      algorithm = known->second;
    } else {
      Owned<cublasLtMatmulPreference> preference(f_.preference_destroy);
      check(f_.preference_create(&preference.get), "cublasLtMatmulPreferenceCreate");
      const auto prefer = [&](int attribute, auto value) {
        check(f_.preference_set(preference.get, attribute, &value, sizeof value),
              "cublasLtMatmulPreferenceSetAttribute");
      };
      prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
      prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(a.data));
      prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(b.data));
      prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(to));
      prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(to));
      int found = 0;
      check(f_.heuristic(handle_, operation.get, a_layout.get, b_layout.get, d_layout.get, d_layout.get,
                         preference.get, 1, &algorithm, &found),
            "cublasLtMatmulAlgoGetHeuristic");
      check(found ? algorithm.state : CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmulAlgoGetHeuristic");
      if (algorithms_.size() == kMostAlgorithms) algorithms_.clear();
      algorithms_[key] = algorithm;
    }
  }

  WorkspaceScope scope(ctx.workspace());
  const size_t bytes = algorithm.workspaceSize;
  char* workspace = scope.take<char>(static_cast<int64_t>(bytes));
  const double one = 1, beta = add;
  const float one_f = 1, beta_f = add;
  run([&] {
    check(f_.matmul(handle_, operation.get, wide ? static_cast<const void*>(&one) : &one_f, a.data,
                    a_layout.get, b.data, b_layout.get, wide ? static_cast<const void*>(&beta) : &beta_f, to,
                    d_layout.get, to, d_layout.get, &algorithm.algo, workspace, bytes, stream),
          "cublasLtMatmul");
  });
}

}  // namespace evenflow::device
