// Counts the memory that calls take: after two calls of a size, none. Every allocation of the process, the
// library's included, goes through the functions below.
//
// usage: allocations MODEL ...
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "evenflow/evenflow.hpp"

namespace {
std::atomic<long> allocations{0};
}

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* p, size_t size) {
  ++allocations;
  return __libc_realloc(p, size);
}
void* aligned_alloc(size_t align, size_t size) {
  ++allocations;
  return __libc_memalign(align, size);
}
int posix_memalign(void** out, size_t align, size_t size) {
  ++allocations;
  *out = __libc_memalign(align, size);
  return *out ? 0 : ENOMEM;
}
}

namespace {

int failures = 0;

template <class F>
void expect_none(const char* path, const char* call, int64_t n, const F& f) {
  const long before = allocations;
  f();
  const long taken = allocations - before;
  if (taken == 0) return;
  ++failures;
  std::fprintf(stderr, "%s: %s of %lld rows: expected no allocation, got %ld\n", path, call,
               static_cast<long long>(n), taken);
}

template <class F>
void expect_none_after_two(const char* path, const char* call, int64_t n, const F& f) {
  f();
  f();
  expect_none(path, call, n, f);
}

/// A context that has seen several sizes, which need memory in different places, keeps what each of them
/// needs.
template <class T>
void check_sizes(const char* path, const evenflow::Model& model) {
  constexpr int64_t kMost = 2000;
  evenflow::Context ctx("cpu", 1);
  const std::vector<int32_t> labels(kMost, 0);
  evenflow::CallOptions options;
  if (model.classes()) options.labels = labels.data();
  const std::vector<float> context(static_cast<size_t>(kMost * model.context()), 1);
  if (model.context()) options.context = context.data();
  std::vector<T> x(static_cast<size_t>(kMost * model.dims()));
  std::vector<double> out(kMost);
  const auto call = [&](int64_t n) {
    model.sample(ctx, n, x.data(), options);
    model.log_prob(ctx, x.data(), n, out.data(), options);
  };
  const int64_t sizes[] = {kMost, 300, 129, 128, 16, 5, 1};
  for (const int64_t n : sizes) call(n);
  for (const int64_t n : sizes) {
    expect_none(path, "a call after other sizes", n, [&] { call(n); });
  }
}

template <class T>
void check(const char* path, const evenflow::Model& model) {
  for (const int64_t n : {int64_t{1}, int64_t{5}, int64_t{300}}) {
    evenflow::Context ctx("cpu", 1);
    const std::vector<int32_t> labels(static_cast<size_t>(n), 0);
    evenflow::CallOptions options;
    if (model.classes()) options.labels = labels.data();
    const std::vector<float> context(static_cast<size_t>(n * model.context()), 1);
    if (model.context()) options.context = context.data();
    std::vector<T> x(static_cast<size_t>(n * model.dims())), z(x.size());
    std::vector<double> out(static_cast<size_t>(n));
    expect_none_after_two(path, "sample", n, [&] { model.sample(ctx, n, x.data(), options); });
    expect_none_after_two(path, "log_prob", n,
                          [&] { model.log_prob(ctx, x.data(), n, out.data(), options); });
    expect_none_after_two(path, "forward", n,
                          [&] { model.forward(ctx, x.data(), n, z.data(), out.data(), options); });
    expect_none_after_two(path, "inverse", n,
                          [&] { model.inverse(ctx, z.data(), n, x.data(), out.data(), options); });
    if (model.bits()) {
      const std::vector<uint8_t> levels(x.size(), 1);
      expect_none_after_two(path, "log_prob (uint8)", n,
                            [&] { model.log_prob(ctx, levels.data(), n, out.data(), options); });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const long before = allocations;
  const std::vector<int> counted(1);
  if (allocations == before) {
    std::fprintf(stderr, "expected to see allocations, got none\n");
    return 1;
  }
  for (int i = 1; i < argc; ++i) {
    const evenflow::Model model = evenflow::load(argv[i]);
    if (model.dtype() == evenflow::Dtype::float32) {
      check<float>(argv[i], model);
      check_sizes<float>(argv[i], model);
    } else {
      check<double>(argv[i], model);
      check_sizes<double>(argv[i], model);
    }
  }
  return failures ? 1 : 0;
}
