#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <type_traits>
#include <vector>

#include "evenflow/context.hpp"
#include "kernels/device/product.hpp"

// cuBLASLt, opened at run time: compiling needs neither its header nor the library, and running without it is
// only slower. The declarations are the used part of NVIDIA's cublasLt.h, names and numbers included.

namespace evenflow::device {

struct cublasLtContext;
struct cublasLtMatmulDesc;
struct cublasLtMatrixLayout;
struct cublasLtMatmulPreference;

struct cublasLtMatmulAlgo {
  uint64_t data[8];
};
struct cublasLtMatmulHeuristicResult {
  cublasLtMatmulAlgo algo;
  size_t workspaceSize;
  int state;
  float wavesCount;
  int reserved[4];
};

enum : int { CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_INVALID_VALUE = 7, CUBLAS_STATUS_NOT_SUPPORTED = 15 };
enum : int { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16BF = 14 };
enum : int { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_64F = 70, CUBLAS_COMPUTE_32F_FAST_TF32 = 77 };
enum : int { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum : int {
  CUBLASLT_MATMUL_DESC_TRANSA = 3,
  CUBLASLT_MATMUL_DESC_TRANSB = 4,
  CUBLASLT_MATMUL_DESC_EPILOGUE = 7,
  CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8
};
enum : int { CUBLASLT_EPILOGUE_DEFAULT = 1, CUBLASLT_EPILOGUE_RELU = 2, CUBLASLT_EPILOGUE_BIAS = 4 };
enum : int {
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
};

struct CublasLtFunctions {
  int (*create)(cublasLtContext**);
  const char* (*status_string)(int);
  int (*desc_create)(cublasLtMatmulDesc**, int compute_type, int scale_type);
  int (*desc_destroy)(cublasLtMatmulDesc*);
  int (*desc_set)(cublasLtMatmulDesc*, int attribute, const void* value, size_t bytes);
  int (*layout_create)(cublasLtMatrixLayout**, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*layout_destroy)(cublasLtMatrixLayout*);
  int (*preference_create)(cublasLtMatmulPreference**);
  int (*preference_destroy)(cublasLtMatmulPreference*);
  int (*preference_set)(cublasLtMatmulPreference*, int attribute, const void* value, size_t bytes);
  int (*heuristic)(cublasLtContext*, cublasLtMatmulDesc*, cublasLtMatrixLayout* a, cublasLtMatrixLayout* b,
                   cublasLtMatrixLayout* c, cublasLtMatrixLayout* d, cublasLtMatmulPreference*, int requested,
                   cublasLtMatmulHeuristicResult* results, int* found);
  int (*matmul)(cublasLtContext*, cublasLtMatmulDesc*, const void* alpha, const void* a,
                cublasLtMatrixLayout* a_layout, const void* b, cublasLtMatrixLayout* b_layout,
                const void* beta, const void* c, cublasLtMatrixLayout* c_layout, void* d,
                cublasLtMatrixLayout* d_layout, const cublasLtMatmulAlgo*, void* workspace,
                size_t workspace_bytes, void* stream);
};

/// The library of this process.
class CublasLt {
 public:
  /// Calls its argument while the device's arrays may be touched.
  using Run = std::function<void(const std::function<void()>&)>;

  /// libcublasLt.so, or the file that EVENFLOW_CUBLASLT_LIBRARY names; null where it does not load, and for
  /// the name "none".
  static CublasLt* get();

  /// Multiplies on the stream. DeviceError, with the library's text, if it refuses to.
  template <class H, class T>
  void multiply(Context& ctx, const Product<H, T>& p, MatmulPrecision precision, void* stream,
                const Run& run) {
    const bool tf32 = std::is_same<H, float>::value && precision == MatmulPrecision::high;
    const int compute = std::is_same<T, double>::value ? CUBLAS_COMPUTE_64F
                        : tf32                         ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                       : CUBLAS_COMPUTE_32F;
    multiply(ctx, compute, operand(p.b, p.k, p.n), operand(p.a, p.m, p.k),
             {p.d, type_of(p.d), p.n, p.m, p.stride, CUBLAS_OP_N}, p.d, p.add, p.bias, p.relu, stream, run);
  }

 private:
  /// The library's arrays lie by columns: it sees the transpose of one of ours.
  struct Operand {
    const void* data;
    int type;
    int64_t rows, cols, stride;
    int operation;
  };
  template <class H>
  static Operand operand(const Matrix<H>& x, int64_t rows, int64_t cols) {
    if (x.transposed) return {x.data, type_of(x.data), rows, cols, x.stride, CUBLAS_OP_T};
    return {x.data, type_of(x.data), cols, rows, x.stride, CUBLAS_OP_N};
  }
  static int type_of(const float*) { return CUDA_R_32F; }
  static int type_of(const double*) { return CUDA_R_64F; }
  static int type_of(const Bf16*) { return CUDA_R_16BF; }

  CublasLt(const char* file, void* library);
  static CublasLt* load();
  void check(int status, const char* call) const;
  /// to (d) = act(a b + bias), or += a b.
  void multiply(Context&, int compute, const Operand& a, const Operand& b, const Operand& d, void* to,
                bool add, const void* bias, bool relu, void* stream, const Run&);

  CublasLtFunctions f_;
  cublasLtContext* handle_ = nullptr;  ///< lives as long as the process
  std::mutex lock_;                    ///< of algorithms_
  std::map<std::vector<int64_t>, cublasLtMatmulHeuristicResult> algorithms_;
};

}  // namespace evenflow::device
