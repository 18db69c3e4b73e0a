#ifndef EVENFLOW_EVENFLOW_H
#define EVENFLOW_EVENFLOW_H

/*
 * The C interface: load a model file, score, sample and transform, from C99 or any language that calls C.
 *
 * Every function that can fail returns a status; evenflow_last_error() then has the text. The library prints
 * nothing and throws no C++ exception. Outputs of a failed call are undefined.
 *
 * The caller owns all arrays. They are row-major, with `n` rows, and contiguous, but for x and the context,
 * whose rows may have a stride. No value may belong to two arrays of a call. Float arrays have the model's
 * dtype. Every call names it, so that a mistake is an error and not a wrong number. Some calls also take x as
 * uint8, and say so. evenflow_model_get_info tells the sizes.
 */

#include <stddef.h>
#include <stdint.h>

#include "evenflow/export.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t evenflow_status;
enum {
  EVENFLOW_OK = 0,
  EVENFLOW_SHAPE_ERROR = 1,   /* a size that does not fit, or a batch that is empty or beyond any memory */
  EVENFLOW_CONFIG_ERROR = 2,  /* an argument or option out of range, a null pointer, the wrong dtype */
  EVENFLOW_DEVICE_ERROR = 3,  /* a processor that this build does not support */
  EVENFLOW_IO_ERROR = 4,      /* a file that is missing, truncated, foreign or invalid */
  EVENFLOW_NUMERIC_ERROR = 5, /* NaN or infinity in the input or in a result */
  EVENFLOW_MEMORY_ERROR = 6,  /* out of memory */
  EVENFLOW_INTERNAL_ERROR = 7 /* a defect of the library */
};

typedef int32_t evenflow_dtype;
enum { EVENFLOW_FLOAT32 = 1, EVENFLOW_FLOAT64 = 2, EVENFLOW_UINT8 = 3 };

/* An immutable model: any number of threads may use it at once. */
typedef struct evenflow_model evenflow_model;
/* Scratch memory and threads for calls. It serves one call at a time. Repeated calls allocate nothing. */
typedef struct evenflow_context evenflow_context;

/* Every struct starts with its size at the caller's compile time, so that later versions can add members.
 * Initialise structs with the _INIT macros. */

typedef struct evenflow_info {
  size_t struct_size;
  evenflow_dtype dtype; /* the model's: EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64 */
  int32_t bits;         /* images: bits per channel, values in 0 ... 2^bits; tables: 0 */
  int64_t dims;         /* values per row of x and of z: height * width * channels */
  int64_t height;       /* 1 for tables */
  int64_t width;        /* 1 for tables */
  int64_t channels;     /* columns, for tables */
  int64_t classes;      /* 0: takes no labels */
  int64_t context;      /* context values per row; 0: takes no context */
} evenflow_info;
#define EVENFLOW_INFO_INIT {sizeof(evenflow_info), 0, 0, 0, 0, 0, 0, 0, 0}

/* A stride is the number of values from one row to the next. */
enum { EVENFLOW_CONTIGUOUS = -1 };

typedef struct evenflow_options {
  size_t struct_size;
  const int32_t* labels;        /* n classes, only for class-conditional models; else NULL */
  uint64_t seed;                /* for samples, and for the dequantisation noise of uint8 images */
  int64_t first;                /* number of the first row: row i's draws depend only on (seed, first + i) */
  double temperature;           /* sampling: multiplies the base draw */
  const void* context;          /* (n, info's context), only for models with a context; else NULL */
  evenflow_dtype context_dtype; /* EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64, whatever the model's dtype */
  int64_t context_stride;       /* 0: all rows share one context */
  int64_t x_stride;             /* at least info's dims */
} evenflow_options;
#define EVENFLOW_OPTIONS_INIT                                                              \
  {sizeof(evenflow_options), NULL, 0, 0, 1.0, NULL, EVENFLOW_FLOAT64, EVENFLOW_CONTIGUOUS, \
   EVENFLOW_CONTIGUOUS}

/* Errors are relative to max(1, size of the exact quantity). */
typedef struct evenflow_report {
  size_t struct_size;
  int64_t samples;     /* number of rows tested */
  int32_t ok;          /* 1: all within the bounds of "Embedding" in the documentation */
  int32_t finite;      /* 1: no NaN or infinity in any step; else evenflow_last_error() says where */
  double round_trip_x; /* max |inverse(forward(x)) - x| */
  double round_trip_z; /* max |forward(inverse(z)) - z|, beyond what the rounding of inverse(z) explains */
  double resolution;   /* how far z moves when the last digit of x changes */
  double logdet_sum;   /* max |logdet of forward + logdet of inverse| */
  double precision;    /* max |log_prob - log_prob of a float64 copy| */
  double jacobian;     /* |logdet - log |det dz/dx||, by unit vectors; 0 if not probed */
  int32_t probed;      /* 1: jacobian was measured (up to 512 dimensions) */
  int32_t reserved;
} evenflow_report;
#define EVENFLOW_REPORT_INIT {sizeof(evenflow_report), 0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0}

/* The library's version, "major.minor.patch". */
EVENFLOW_API const char* evenflow_version(void);
/* The error text of this thread's last failed call, `[where] expected ..., got ...`; "" before any. */
EVENFLOW_API const char* evenflow_last_error(void);

/* Reads a model file that `save` wrote. The file is not trusted. Free *model with evenflow_model_free; it is
 * NULL after an error. */
EVENFLOW_API evenflow_status evenflow_load(const char* path, evenflow_model** model);
/* Reads such a file from memory. The bytes may have any alignment, and are not used after the call. */
EVENFLOW_API evenflow_status evenflow_load_bytes(const void* bytes, size_t size, evenflow_model** model);
EVENFLOW_API void evenflow_model_free(evenflow_model* model);
EVENFLOW_API evenflow_status evenflow_model_get_info(const evenflow_model* model, evenflow_info* info);
/* Writes the settings as zero-terminated JSON to text, which has *size bytes (EVENFLOW_SHAPE_ERROR if they
 * are too few), and sets *size to the number needed. With text NULL, only sets *size. */
EVENFLOW_API evenflow_status evenflow_model_get_config(const evenflow_model* model, char* text, size_t* size);

/* threads: the most that a large batch may use, up to 1024; 0: OMP_NUM_THREADS, or as many as the process has
 * processors. A small batch uses one. */
EVENFLOW_API evenflow_status evenflow_context_create(int32_t threads, evenflow_context** context);
EVENFLOW_API void evenflow_context_free(evenflow_context* context);

/* options may be NULL in every call, for the defaults. */

/* out (n) = log p(x) in nats, for the density in the units of x. x: the model's dtype, or uint8 images. */
EVENFLOW_API evenflow_status evenflow_log_prob(const evenflow_model* model, evenflow_context* context,
                                               evenflow_dtype dtype, const void* x, int64_t n,
                                               const evenflow_options* options, double* out);
/* out (n) = log p(x), with its gradients dx (n, dims) and dcontext (n, info's context). Either may be NULL.
 */
EVENFLOW_API evenflow_status evenflow_log_prob_and_grad(const evenflow_model* model,
                                                        evenflow_context* context, evenflow_dtype dtype,
                                                        const void* x, int64_t n,
                                                        const evenflow_options* options, double* out,
                                                        void* dx, void* dcontext);
/* out (n) = -log2 p(x) / dims. */
EVENFLOW_API evenflow_status evenflow_bits_per_dim(const evenflow_model* model, evenflow_context* context,
                                                   evenflow_dtype dtype, const void* x, int64_t n,
                                                   const evenflow_options* options, double* out);
/* x (n, dims), of `dtype` = the model's: n samples, images in level units. */
EVENFLOW_API evenflow_status evenflow_sample(const evenflow_model* model, evenflow_context* context,
                                             evenflow_dtype dtype, int64_t n, const evenflow_options* options,
                                             void* x);
/* The same samples, and log_prob (n) = log p(x), the density of each at any temperature. */
EVENFLOW_API evenflow_status evenflow_sample_and_log_prob(const evenflow_model* model,
                                                          evenflow_context* context, evenflow_dtype dtype,
                                                          int64_t n, const evenflow_options* options, void* x,
                                                          double* log_prob);
/* x -> z (n, dims) of the model's dtype, logdet (n) = log |det dz/dx|. uint8 images get no noise. */
EVENFLOW_API evenflow_status evenflow_forward(const evenflow_model* model, evenflow_context* context,
                                              evenflow_dtype dtype, const void* x, int64_t n,
                                              const evenflow_options* options, void* z, double* logdet);
/* z -> x, both of `dtype` = the model's; logdet (n) = log |det dx/dz|. */
EVENFLOW_API evenflow_status evenflow_inverse(const evenflow_model* model, evenflow_context* context,
                                              evenflow_dtype dtype, const void* z, int64_t n,
                                              const evenflow_options* options, void* x, double* logdet);
/* forward and inverse without the log-determinant: decode(encode(x)) is x. */
EVENFLOW_API evenflow_status evenflow_encode(const evenflow_model* model, evenflow_context* context,
                                             evenflow_dtype dtype, const void* x, int64_t n,
                                             const evenflow_options* options, void* z);
EVENFLOW_API evenflow_status evenflow_decode(const evenflow_model* model, evenflow_context* context,
                                             evenflow_dtype dtype, const void* z, int64_t n,
                                             const evenflow_options* options, void* x);
/* Tests the model on up to 16 rows of x, of the model's dtype. A failed test is a report that is not ok. */
EVENFLOW_API evenflow_status evenflow_verify(const evenflow_model* model, evenflow_context* context,
                                             evenflow_dtype dtype, const void* x, int64_t n,
                                             const evenflow_options* options, evenflow_report* report);

#ifdef __cplusplus
}
#endif

#endif
