/* A program that unloads the library after a call on several threads, which wait in the library's code.
 *
 * usage: unload LIBRARY MODEL
 */
#define _POSIX_C_SOURCE 200112L
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "evenflow/evenflow.h"

enum { ROWS = 20000, VALUES = 64 };
static float x[ROWS * VALUES];
static double out[ROWS];

static void find(void* handle, const char* name, void* function) {
  void* symbol = dlsym(handle, name);
  if (!symbol) fprintf(stderr, "%s\n", dlerror());
  memcpy(function, &symbol, sizeof symbol);
}

static int score(const char* library, const char* path) {
  evenflow_status (*load)(const char*, evenflow_model**);
  evenflow_status (*create)(int32_t, evenflow_context**);
  evenflow_status (*log_prob)(const evenflow_model*, evenflow_context*, evenflow_dtype, const void*, int64_t,
                              const evenflow_options*, double*);
  void (*model_free)(evenflow_model*);
  void (*context_free)(evenflow_context*);
  evenflow_model* model;
  evenflow_context* context;
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  int failed;
  if (!handle) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  find(handle, "evenflow_load", &load);
  find(handle, "evenflow_context_create", &create);
  find(handle, "evenflow_log_prob", &log_prob);
  find(handle, "evenflow_model_free", &model_free);
  find(handle, "evenflow_context_free", &context_free);
  if (load(path, &model) || create(4, &context)) return 1;
  failed = log_prob(model, context, EVENFLOW_FLOAT32, x, ROWS, NULL, out);
  context_free(context);
  model_free(model);
  return dlclose(handle) || failed;
}

int main(int argc, char** argv) {
  const struct timespec while_threads_fall_asleep = {0, 50000000};
  int i;
  if (argc != 3) return 2;
  for (i = 0; i < 3; ++i) {
    if (score(argv[1], argv[2])) return 1;
    nanosleep(&while_threads_fall_asleep, NULL);
  }
  return 0;
}
