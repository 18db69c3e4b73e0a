#include <cmath>
#include <cstring>
#include <initializer_list>
#include <memory>

#include "kernels/device/cublaslt.hpp"

// Stands in for cuBLASLt: multiplies in the program's memory, and refuses what NVIDIA's manual says that the
// real one refuses ("cuBLASLt API Reference" of the cuBLAS manual, and the comments in cublasLt.h).

namespace evenflow::device {

struct cublasLtContext {};

struct cublasLtMatrixLayout {
  int type;
  int64_t rows, cols, ld;
};

struct cublasLtMatmulDesc {
  int compute_type, scale_type;
  int32_t operation[2] = {CUBLAS_OP_N, CUBLAS_OP_N};
  int32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
};

struct cublasLtMatmulPreference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // the manual's defaults, of A, B, C and D
};

namespace {

cublasLtContext context;

constexpr int kSuccess = CUBLAS_STATUS_SUCCESS, kInvalid = CUBLAS_STATUS_INVALID_VALUE,
              kUnsupported = CUBLAS_STATUS_NOT_SUPPORTED, kNotInitialized = 1;

size_t size_of(int type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}

/// Number (row, column) of an array by columns.
double number(const void* data, const cublasLtMatrixLayout& of, int64_t row, int64_t column) {
  const int64_t i = column * of.ld + row;
  if (of.type == CUDA_R_64F) return static_cast<const double*>(data)[i];
  if (of.type == CUDA_R_32F) return static_cast<double>(static_cast<const float*>(data)[i]);
  return static_cast<double>(to_float(static_cast<const Bf16*>(data)[i]));
}

/// Rounded to the ten bits that TF32 has behind the point.
double to_tf32(double x) {
  int exponent;
  const double significand = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(significand, 11)), exponent - 11);
}

bool aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

/// A whole call, as far as an algorithm depends on it.
struct Call {
  const cublasLtMatmulDesc& of;
  const cublasLtMatrixLayout &a, &b, &c, &d;

  int64_t m() const { return d.rows; }
  int64_t n() const { return d.cols; }
  int64_t k() const { return of.operation[0] == CUBLAS_OP_T ? a.rows : a.cols; }

  int refused() const {
    // CUBLASLT_ORDER_COL: the leading dimension is the distance of columns, at least the number of rows. A
    // layout is not checked before it is used.
    for (const cublasLtMatrixLayout* x : {&a, &b, &c, &d}) {
      if (x->rows < 1 || x->cols < 1 || x->ld < x->rows) return kInvalid;
    }
    // op(A) is (m, k), op(B) (k, n), C and D (m, n).
    const bool a_turned = of.operation[0] == CUBLAS_OP_T, b_turned = of.operation[1] == CUBLAS_OP_T;
    if ((a_turned ? a.cols : a.rows) != m() || (b_turned ? b.cols : b.rows) != k() ||
        (b_turned ? b.rows : b.cols) != n() || c.rows != m() || c.cols != n()) {
      return kInvalid;
    }
    // The table of supported types of cublasLtMatmul(): compute and scale type, A and B, C and D.
    const bool whole = a.type == b.type && c.type == d.type;
    const bool single = (of.compute_type == CUBLAS_COMPUTE_32F ||
                         (of.compute_type == CUBLAS_COMPUTE_32F_FAST_TF32 && a.type == CUDA_R_32F)) &&
                        of.scale_type == CUDA_R_32F && (a.type == CUDA_R_32F || a.type == CUDA_R_16BF) &&
                        (d.type == CUDA_R_32F || (d.type == CUDA_R_16BF && a.type == CUDA_R_16BF));
    const bool twice = of.compute_type == CUBLAS_COMPUTE_64F && of.scale_type == CUDA_R_64F &&
                       a.type == CUDA_R_64F && d.type == CUDA_R_64F;
    if (!whole || !(single || twice)) return kUnsupported;
    // cublasLtEpilogue_t: a bias is a vector of D's type, as long as D has rows. Of float64 we trust none.
    if (of.epilogue != CUBLASLT_EPILOGUE_DEFAULT && twice) return kUnsupported;
    if ((of.epilogue & CUBLASLT_EPILOGUE_BIAS) && (!of.bias || !aligned(of.bias, size_of(d.type)))) {
      return kInvalid;
    }
    return kSuccess;
  }

  /// Tells calls apart for which different algorithms may be the right ones.
  uint64_t fingerprint() const {
    uint64_t all = 14695981039346656037u;
    for (const int64_t part :
         {int64_t{of.compute_type}, int64_t{of.operation[0]}, int64_t{of.operation[1]}, int64_t{of.epilogue},
          int64_t{a.type}, int64_t{d.type}, m(), n(), k(), a.ld, b.ld, c.ld, d.ld}) {
      all = (all ^ static_cast<uint64_t>(part)) * 1099511628211u;
    }
    return all;
  }

  void compute(const void* x, const void* y, double beta, void* z) const {
    const bool tf32 = of.compute_type == CUBLAS_COMPUTE_32F_FAST_TF32;
    for (int64_t j = 0; j < n(); ++j) {
      for (int64_t i = 0; i < m(); ++i) {
        double sum = 0;
        for (int64_t l = 0; l < k(); ++l) {
          const double left = of.operation[0] == CUBLAS_OP_T ? number(x, a, l, i) : number(x, a, i, l);
          const double right = of.operation[1] == CUBLAS_OP_T ? number(y, b, j, l) : number(y, b, l, j);
          sum += tf32 ? to_tf32(left) * to_tf32(right) : left * right;
        }
        if (beta != 0) sum += beta * number(z, d, i, j);  // with 0, C is not read: it may hold NaN
        if (of.epilogue & CUBLASLT_EPILOGUE_BIAS) sum += number(of.bias, {d.type, d.rows, 1, d.rows}, i, 0);
        if ((of.epilogue & CUBLASLT_EPILOGUE_RELU) && sum < 0) sum = 0;
        const int64_t to = j * d.ld + i;
        if (d.type == CUDA_R_64F) {
          static_cast<double*>(z)[to] = sum;
        } else if (d.type == CUDA_R_32F) {
          static_cast<float*>(z)[to] = static_cast<float>(sum);
        } else {
          static_cast<Bf16*>(z)[to] = to_bf16(static_cast<float>(sum));
        }
      }
    }
  }
};

template <class V>
int read(V& to, const void* value, size_t bytes) {
  if (!value || bytes != sizeof to) return kInvalid;  // "if sizeInBytes doesn't match the attribute's size"
  std::memcpy(&to, value, sizeof to);
  return kSuccess;
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

int cublasLtCreate(cublasLtContext** to) {
  *to = &context;
  return kSuccess;
}

const char* cublasLtGetStatusString(int status) {
  return status == kInvalid       ? "an unsupported value or parameter was passed to the function"
         : status == kUnsupported ? "the functionality requested is not supported"
                                  : "error";
}

int cublasLtMatmulDescCreate(cublasLtMatmulDesc** to, int compute_type, int scale_type) {
  *to = new cublasLtMatmulDesc{compute_type, scale_type};
  return kSuccess;
}

int cublasLtMatmulDescDestroy(cublasLtMatmulDesc* desc) {
  delete desc;
  return kSuccess;
}

int cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc* desc, int attribute, const void* value, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return read(desc->operation[0], value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return read(desc->operation[1], value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return read(desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return read(desc->bias, value, bytes);
  }
  return kInvalid;
}

int cublasLtMatrixLayoutCreate(cublasLtMatrixLayout** to, int type, uint64_t rows, uint64_t cols,
                               int64_t ld) {
  *to = new cublasLtMatrixLayout{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld};
  return kSuccess;
}

int cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout* layout) {
  delete layout;
  return kSuccess;
}

int cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference** to) {
  *to = new cublasLtMatmulPreference;
  return kSuccess;
}

int cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference* preference) {
  delete preference;
  return kSuccess;
}

int cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference* preference, int attribute,
                                         const void* value, size_t bytes) {
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return read(preference->workspace, value, bytes);
  const int which = attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
  return which >= 0 && which < 4 ? read(preference->alignment[which], value, bytes) : kInvalid;
}

int cublasLtMatmulAlgoGetHeuristic(cublasLtContext* handle, cublasLtMatmulDesc* desc, cublasLtMatrixLayout* a,
                                   cublasLtMatrixLayout* b, cublasLtMatrixLayout* c, cublasLtMatrixLayout* d,
                                   cublasLtMatmulPreference* preference, int requested,
                                   cublasLtMatmulHeuristicResult* results, int* found) {
  if (handle != &context) return kNotInitialized;
  if (!desc || !a || !b || !c || !d || !preference || requested < 1) return kInvalid;
  const Call call{*desc, *a, *b, *c, *d};
  if (const int status = call.refused()) return status;
  // No algorithm reads a part of a number.
  const uint32_t* promised = preference->alignment;
  for (int i = 0; i < 4; ++i) {
    if (promised[i] < size_of(i < 2 ? a->type : d->type)) return kUnsupported;
  }
  cublasLtMatmulHeuristicResult& result = results[0];
  result = {};
  // Long sums are divided; the parts lie in the workspace.
  const uint64_t parts = static_cast<uint64_t>(call.m() * call.n()) * size_of(d->type);
  result.workspaceSize = call.k() >= 32 && parts <= preference->workspace ? parts : 0;
  result.algo.data[0] = call.fingerprint();
  result.algo.data[1] = result.workspaceSize;
  for (int i = 0; i < 4; ++i) result.algo.data[2 + i] = promised[i];
  *found = 1;
  return kSuccess;
}

int cublasLtMatmul(cublasLtContext* handle, cublasLtMatmulDesc* desc, const void* alpha, const void* a,
                   cublasLtMatrixLayout* a_layout, const void* b, cublasLtMatrixLayout* b_layout,
                   const void* beta, const void* c, cublasLtMatrixLayout* c_layout, void* d,
                   cublasLtMatrixLayout* d_layout, const cublasLtMatmulAlgo* algo, void* workspace,
                   size_t workspace_bytes, void*) {
  if (handle != &context) return kNotInitialized;
  if (!desc || !alpha || !beta || !a || !b || !c || !d || !algo) return kInvalid;
  const Call call{*desc, *a_layout, *b_layout, *c_layout, *d_layout};
  if (const int status = call.refused()) return status;
  // The algorithm must be for this call: its shapes, and operands no less aligned than promised.
  if (algo->data[0] != call.fingerprint()) return kInvalid;
  const void* const arrays[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    if (!aligned(arrays[i], algo->data[2 + i])) return kInvalid;
  }
  // "when workspaceSizeInBytes is less than workspace required by configured algo"; it is 16-byte aligned.
  if (workspace_bytes < algo->data[1]) return kInvalid;
  if (workspace_bytes && (!workspace || !aligned(workspace, 16))) return kInvalid;
  // In place, C and D are one array with one layout. Neither may be an operand.
  if (c != d || c_layout->ld != d_layout->ld || d == a || d == b) return kInvalid;
  const auto scalar = [&](const void* from) {
    return desc->scale_type == CUDA_R_64F ? *static_cast<const double*>(from)
                                          : static_cast<double>(*static_cast<const float*>(from));
  };
  if (scalar(alpha) != 1) return kUnsupported;  // nobody asks for more
  std::memset(workspace, 0xCB, workspace_bytes);
  call.compute(a, b, scalar(beta), d);
  return kSuccess;
}

#pragma GCC visibility pop
}

}  // namespace evenflow::device
