/* Two versions of the library in one process, both with their symbols open to everybody: each keeps to
 * itself.
 *
 * usage: two_versions LIBRARY OTHER MODEL
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "evenflow/evenflow.h"

struct library {
  const char* (*version)(void);
  const char* (*last_error)(void);
  evenflow_status (*load)(const char*, evenflow_model**);
  void (*model_free)(evenflow_model*);
  evenflow_status (*context_create)(int32_t, evenflow_context**);
  void (*context_free)(evenflow_context*);
  evenflow_status (*sample)(const evenflow_model*, evenflow_context*, evenflow_dtype, int64_t,
                            const evenflow_options*, void*);
};

static void find(void* handle, const char* name, void* out) {
  void* symbol = dlsym(handle, name);
  if (!symbol) fprintf(stderr, "%s\n", dlerror());
  memcpy(out, &symbol, sizeof symbol);
}

static struct library open_library(const char* path) {
  struct library l;
  void* handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  memset(&l, 0, sizeof l);
  if (!handle) {
    fprintf(stderr, "%s\n", dlerror());
    return l;
  }
  find(handle, "evenflow_version", &l.version);
  find(handle, "evenflow_last_error", &l.last_error);
  find(handle, "evenflow_load", &l.load);
  find(handle, "evenflow_model_free", &l.model_free);
  find(handle, "evenflow_context_create", &l.context_create);
  find(handle, "evenflow_context_free", &l.context_free);
  find(handle, "evenflow_sample", &l.sample);
  return l;
}

/* Two rows of the model, first values only; 0 where something failed. */
static float first_value(const struct library* l, const char* path) {
  evenflow_model* model = NULL;
  evenflow_context* context = NULL;
  static float x[1 << 16];
  x[0] = 0;
  if (l->load(path, &model) || l->context_create(1, &context) ||
      l->sample(model, context, EVENFLOW_FLOAT32, 2, NULL, x)) {
    fprintf(stderr, "%s\n", l->last_error());
  }
  l->context_free(context);
  l->model_free(model);
  return x[0];
}

static int expect(int good, const char* what) {
  if (!good) fprintf(stderr, "expected %s\n", what);
  return !good;
}

int main(int argc, char** argv) {
  struct library a, b;
  evenflow_model* none = NULL;
  float value;
  int failures = 0;
  if (argc != 4) return 2;
  a = open_library(argv[1]);
  b = open_library(argv[2]);
  if (!a.version || !b.version) return 1;
  failures += expect(strcmp(a.version(), b.version()) != 0, "two versions");
  failures += expect(a.load("no such file", &none) == EVENFLOW_IO_ERROR, "an error of the first");
  failures += expect(a.last_error()[0] != 0 && b.last_error()[0] == 0, "no error in the second");
  value = first_value(&a, argv[3]);
  failures += expect(value != 0 && value == first_value(&b, argv[3]), "the same sample of both");
  return failures ? 1 : 0;
}
