/* Scores the rows of a CSV file (numbers only, no header) or writes samples, in C99.
 *
 *   cc -std=c99 score.c -o score $(pkg-config --cflags --libs evenflow)
 *   score MODEL ROWS.csv       log p of every row, nats, one a line
 *   score MODEL --sample N SEED
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "evenflow/evenflow.h"

static int check(evenflow_status status) {
  if (status != EVENFLOW_OK) fprintf(stderr, "score: %s\n", evenflow_last_error());
  return status == EVENFLOW_OK;
}

static int score(const evenflow_model* model, evenflow_context* context, int64_t dims, const char* path) {
  float* row = malloc((size_t)dims * sizeof *row);
  FILE* file = fopen(path, "r");
  int good = row && file;
  int64_t i = 0;
  if (!good) fprintf(stderr, "score: can't read %s\n", path);
  while (good && fscanf(file, i ? ",%f" : "%f", &row[i]) == 1) {
    if (++i == dims) {
      double log_prob = 0;
      good = check(evenflow_log_prob(model, context, EVENFLOW_FLOAT32, row, 1, NULL, &log_prob));
      if (good) printf("%.17g\n", log_prob);
      i = 0;
    }
  }
  if (good && (i != 0 || !feof(file))) {
    fprintf(stderr, "score: %s: expected rows of %ld numbers\n", path, (long)dims);
    good = 0;
  }
  if (file) fclose(file);
  free(row);
  return good;
}

static int sample(const evenflow_model* model, evenflow_context* context, int64_t dims, int64_t n,
                  uint64_t seed) {
  evenflow_options options = EVENFLOW_OPTIONS_INIT;
  float* x = malloc((size_t)(n * dims) * sizeof *x);
  int good = x != NULL;
  int64_t i;
  options.seed = seed;
  if (good) good = check(evenflow_sample(model, context, EVENFLOW_FLOAT32, n, &options, x));
  for (i = 0; good && i < n * dims; ++i) printf("%.9g%c", x[i], (i + 1) % dims ? ',' : '\n');
  free(x);
  return good;
}

int main(int argc, char** argv) {
  evenflow_model* model = NULL;
  evenflow_context* context = NULL;
  evenflow_info info = EVENFLOW_INFO_INIT;
  const int sampling = argc == 5 && strcmp(argv[2], "--sample") == 0;
  int good;
  if (argc != 3 && !sampling) {
    fprintf(stderr, "usage: score MODEL ROWS.csv | score MODEL --sample N SEED\n");
    return 2;
  }
  good = check(evenflow_load(argv[1], &model)) && check(evenflow_context_create(0, &context)) &&
         check(evenflow_model_get_info(model, &info));
  if (good && sampling) good = sample(model, context, info.dims, atol(argv[3]), strtoull(argv[4], NULL, 10));
  if (good && !sampling) good = score(model, context, info.dims, argv[2]);
  evenflow_context_free(context);
  evenflow_model_free(model);
  return good ? 0 : 1;
}
