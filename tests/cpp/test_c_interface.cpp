#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <tuple>

#include "embedded.hpp"
#include "evenflow/evenflow.h"

// The C interface from C++; check_embed.sh has programs of other languages.

namespace evenflow::test {
namespace {

/// A model's file, the model in C++ and in C, and a context of C.
struct Opened {
  template <class T>
  explicit Opened(const Trainable<T>& trained) : cpp((save(file.path, trained), load(file.path))) {
    REQUIRE(evenflow_load(file.path.c_str(), &model) == EVENFLOW_OK);
    REQUIRE(evenflow_context_create(1, &context) == EVENFLOW_OK);
  }
  ~Opened() {
    evenflow_context_free(context);
    evenflow_model_free(model);
  }
  TemporaryFile file;
  Model cpp;
  evenflow_model* model = nullptr;
  evenflow_context* context = nullptr;
};

void check_refused(evenflow_status status, const std::string& part,
                   evenflow_status wanted = EVENFLOW_CONFIG_ERROR) {
  CHECK(status == wanted);
  check_contains(evenflow_last_error(), part);
}

/// f takes all of the pointers, and refuses each of them when it is null.
template <class F, class... Pointers>
void check_null(const F& f, Pointers... pointers) {
  CHECK(f(pointers...) == EVENFLOW_OK);
  for (size_t k = 0; k < sizeof...(pointers); ++k) {
    CAPTURE(k);
    size_t place = 0;
    const auto but = [&](auto* pointer) { return place++ == k ? nullptr : pointer; };
    const std::tuple<Pointers...> without{but(pointers)...};
    check_refused(std::apply(f, without), "got a null pointer");
  }
}

/// A table with a context of two numbers, and the rows that initialised it.
struct Posterior {
  Posterior() : trained(ModelConfig{settings(), Dtype::float32, 3}) {
    Context ctx("cpu", 1);
    trained.flow.init_from_data(ctx, trained.arena, View<const float>(rows.data(), {32, 1, 1, 5}),
                                Given<float>(conditions.data()));
    add_noise(trained.arena, 0.1);  // so that the context matters
  }
  static CouplingFlowConfig settings() {
    CouplingFlowConfig config = table();
    config.context = 2;
    return config;
  }
  std::vector<float> rows = draws<float>(32 * 5, 1, 0), conditions = draws<float>(32 * 2, 1, 0);
  Trainable<float> trained;
};

// The address sanitizer ends a process without memory by itself.
#if !defined(__SANITIZE_ADDRESS__) && !defined(_WIN32)
TEST_CASE("the C interface: a load without memory") {
  const TemporaryFile file;
  NiceConfig config;
  config.shape = {0, 1, 1, 4};
  config.couplings = 1;
  config.hidden = {3000, 3000};
  save(file.path, initialised<float>(config));
  const pid_t child = fork();
  if (child == 0) {  // with room for the file, but not for the parameters
    long pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t limit = static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) +
                         std::filesystem::file_size(file.path) + (rlim_t{4} << 20);
    const rlimit room = {limit, limit};
    setrlimit(RLIMIT_AS, &room);
    evenflow_model* model = nullptr;
    const evenflow_status status = evenflow_load(file.path.c_str(), &model);
    _exit(status == EVENFLOW_MEMORY_ERROR && !model ? 0 : 1 + static_cast<int>(status));
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}
#endif

TEST_CASE("the C interface: structs of other versions") {
  const Posterior posterior;
  const Opened open(posterior.trained);
  const std::vector<double> wide(posterior.conditions.begin(), posterior.conditions.end());
  struct {
    evenflow_options options;
    double unknown;
  } newer = {EVENFLOW_OPTIONS_INIT, 0};
  evenflow_options& options = newer.options;
  options.struct_size = sizeof newer;
  options.context = wide.data();
  float x[5];
  const auto sample = [&] {
    return evenflow_sample(open.model, open.context, EVENFLOW_FLOAT32, 1, &options, x);
  };
  CHECK(sample() == EVENFLOW_OK);
  newer.unknown = 1;
  check_refused(sample(), "knows, got newer ones");
  options.struct_size = offsetof(evenflow_options, context);  // of a caller that has no such member
  check_refused(sample(), "[sample] expected a context of 2 numbers a row, got none");
  options.struct_size = SIZE_MAX;  // of a struct that nobody initialised
  check_refused(sample(), "4096, got ");

  evenflow_info info = EVENFLOW_INFO_INIT;
  const auto get_info = [&](size_t size) {
    info.struct_size = size;
    return evenflow_model_get_info(open.model, &info);
  };
  CHECK(get_info(sizeof info) == EVENFLOW_OK);
  CHECK((info.dims == 5 && info.context == 2 && info.struct_size == sizeof info));
  info.context = -1;
  CHECK(get_info(offsetof(evenflow_info, context)) == EVENFLOW_OK);
  CHECK(info.context == -1);
  check_refused(get_info(4), "expected struct_size in ");
  check_refused(get_info(SIZE_MAX), "4096, got ");

  size_t size = 0;
  CHECK(evenflow_model_get_config(open.model, nullptr, &size) == EVENFLOW_OK);
  std::vector<char> text(size);
  CHECK(evenflow_model_get_config(open.model, text.data(), &size) == EVENFLOW_OK);
  CHECK(open.cpp.config() == text.data());
  size -= 1;
  CHECK(evenflow_model_get_config(open.model, text.data(), &size) == EVENFLOW_SHAPE_ERROR);
  CHECK(size == text.size());
  evenflow_model_free(nullptr);
}

TEST_CASE("the C interface: null pointers") {
  const Opened open(initialised<float>(table()));
  float x[5] = {}, z[5] = {};
  double out;
  evenflow_info info = EVENFLOW_INFO_INIT;
  evenflow_report report = EVENFLOW_REPORT_INIT;
  size_t size = 0;
  constexpr evenflow_dtype type = EVENFLOW_FLOAT32;
  const auto of_rows = [&](auto* to, auto call) {  // a call with an input and an output
    check_null(
        [&](auto* m, auto* c, auto* in, auto* filled) { return call(m, c, type, in, 1, nullptr, filled); },
        open.model, open.context, x, to);
  };
  of_rows(&out, evenflow_log_prob);
  of_rows(&out, evenflow_bits_per_dim);
  of_rows(z, evenflow_encode);
  of_rows(z, evenflow_decode);
  of_rows(&report, evenflow_verify);
  of_rows(&out, [](auto... all) { return evenflow_log_prob_and_grad(all..., nullptr, nullptr); });
  const auto with_logdet = [&](auto call) {
    check_null([&](auto* m, auto* c, auto* in, auto* to,
                   auto* det) { return call(m, c, type, in, 1, nullptr, to, det); },
               open.model, open.context, x, z, &out);
  };
  with_logdet(evenflow_forward);
  with_logdet(evenflow_inverse);
  check_null([&](auto* m, auto* c, auto* to) { return evenflow_sample(m, c, type, 1, nullptr, to); },
             open.model, open.context, x);
  check_null([&](auto* m, auto* c, auto* to,
                 auto* density) { return evenflow_sample_and_log_prob(m, c, type, 1, nullptr, to, density); },
             open.model, open.context, x, &out);
  check_null(evenflow_model_get_info, open.model, &info);
  check_null([&](auto* m, auto* to) { return evenflow_model_get_config(m, nullptr, to); }, open.model, &size);
  CHECK(evenflow_load(open.file.path.c_str(), nullptr) == EVENFLOW_CONFIG_ERROR);
  evenflow_model* none = open.model;
  CHECK(evenflow_load(nullptr, &none) == EVENFLOW_CONFIG_ERROR);
  CHECK(none == nullptr);
  CHECK(evenflow_context_create(1, nullptr) == EVENFLOW_CONFIG_ERROR);
}

TEST_CASE("the C interface: the dtypes that a call takes") {
  float x[32] = {};
  double out;
  const Opened columns(initialised<float>(table())), images(initialised<float>(glow_with_classes()));
  const auto check_kinds = [&](const Opened& open, auto call, const std::string& kinds) {
    check_refused(call(open.model, open.context, 9, x, 1, nullptr, &out),
                  "expected dtype EVENFLOW_FLOAT32" + kinds + " or EVENFLOW_");
  };
  check_kinds(columns, evenflow_log_prob, "");
  check_kinds(images, evenflow_log_prob, ", EVENFLOW_FLOAT64");
  check_kinds(images, evenflow_encode, ", EVENFLOW_FLOAT64");
  check_kinds(images, evenflow_decode, "");
}

TEST_CASE("the C interface: a long text ends with a whole character") {
  evenflow_model* model = nullptr;
  const std::string clef = "\xF0\x9D\x84\x9E";  // U+1D11E
  for (size_t before = 0; before < 4; ++before) {
    CAPTURE(before);
    std::string path = "/" + std::string(before, 'a');
    for (int i = 0; i < 300; ++i) path += clef;
    CHECK(evenflow_load(path.c_str(), &model) == EVENFLOW_IO_ERROR);
    const std::string text = evenflow_last_error();
    CHECK(text.size() > 1023 - clef.size());
    CHECK(text.size() <= 1023);
    CHECK(text.substr(text.size() - clef.size()) == clef);
  }
  CHECK(evenflow_load(std::string(2000, '\x80').c_str(), &model) == EVENFLOW_IO_ERROR);  // no UTF-8
  CHECK(std::string(evenflow_last_error()).size() == 1020);
}

TEST_CASE("the C interface: every member of what it fills and takes") {
  GlowConfig config = glow_with_classes();
  config.shape = {0, 8, 4, 2};
  const Opened open(initialised<double>(config));
  evenflow_info info = EVENFLOW_INFO_INIT;
  REQUIRE(evenflow_model_get_info(open.model, &info) == EVENFLOW_OK);
  CHECK((info.dtype == EVENFLOW_FLOAT64 && info.bits == 5 && info.dims == 64 && info.classes == 3));
  CHECK((info.height == 8 && info.width == 4 && info.channels == 2));

  Context ctx("cpu", 1);
  const int32_t labels[] = {2, 0};
  std::vector<double> x = draws<double>(2 * 64, 3, 16), z(x.size()), wanted(x.size());
  CallOptions options{labels, 6, 3, 0.5, {}, kContiguous};
  evenflow_options theirs = EVENFLOW_OPTIONS_INIT;
  theirs.labels = labels;
  theirs.seed = 6;
  theirs.first = 3;
  theirs.temperature = 0.5;
  const VerifyReport r = open.cpp.verify(ctx, x.data(), 2, options);
  evenflow_report report = EVENFLOW_REPORT_INIT;
  const auto verify = [&](const Opened& by, const evenflow_options* with) {
    REQUIRE(evenflow_verify(by.model, by.context, EVENFLOW_FLOAT64, x.data(), 2, with, &report) ==
            EVENFLOW_OK);
  };
  verify(open, &theirs);
  REQUIRE(r.round_trip_x != r.round_trip_z);
  CHECK((report.samples == 2 && report.ok == 1 && report.finite == 1 && report.probed == 1));
  CHECK((report.round_trip_x == r.round_trip_x && report.round_trip_z == r.round_trip_z));
  CHECK((report.resolution == r.resolution && report.logdet_sum == r.logdet_sum));
  CHECK((report.precision == r.precision && report.jacobian == r.jacobian));
  x[70] = std::nan("");
  verify(open, &theirs);
  CHECK((report.ok == 0 && report.finite == 0));
  CHECK(std::string(evenflow_last_error()) == "[verify] expected finite values, got nan in row 1, value 6");
  Trainable<double> wrong = initialised<double>(table());
  tensor(wrong.arena, "preprocess.inverse")[0] *= 1.5;
  verify(Opened(wrong), nullptr);
  CHECK((report.ok == 0 && report.finite == 1));

  open.cpp.sample(ctx, 2, wanted.data(), options);
  REQUIRE(evenflow_sample(open.model, open.context, EVENFLOW_FLOAT64, 2, &theirs, z.data()) == EVENFLOW_OK);
  CHECK(z == wanted);
  const std::vector<uint8_t> levels(x.size(), 100);
  double logdet[2], wanted_logdet[2];
  open.cpp.forward(ctx, levels.data(), 2, wanted.data(), wanted_logdet, options);
  REQUIRE(evenflow_forward(open.model, open.context, EVENFLOW_UINT8, levels.data(), 2, &theirs, z.data(),
                           logdet) == EVENFLOW_OK);
  CHECK(z == wanted);
  CHECK(std::equal(logdet, logdet + 2, wanted_logdet));
}

TEST_CASE("the C interface: densities with gradients, samples with densities, rows with strides") {
  const Posterior posterior;
  const Opened open(posterior.trained);
  Context ctx("cpu", 1);
  constexpr evenflow_dtype type = EVENFLOW_FLOAT32;
  constexpr int64_t n = 3, wide = 6;
  std::vector<float> x(n * wide), wanted_x(x), dx(n * 5), wanted_dx(dx), dcontext(n * 2),
      wanted_dcontext(dcontext);
  double density[n], wanted[n];
  const CallOptions options{nullptr, 5, 0, 1, {posterior.conditions.data(), 4}, wide};
  evenflow_options theirs = EVENFLOW_OPTIONS_INIT;
  theirs.context = posterior.conditions.data();
  theirs.context_dtype = EVENFLOW_FLOAT32;
  theirs.context_stride = 4;
  theirs.x_stride = wide;
  theirs.seed = 5;
  REQUIRE(evenflow_sample_and_log_prob(open.model, open.context, type, n, &theirs, x.data(), density) ==
          EVENFLOW_OK);
  open.cpp.sample_and_log_prob(ctx, n, wanted_x.data(), wanted, options);
  CHECK(x == wanted_x);
  CHECK(std::equal(density, density + n, wanted));
  REQUIRE(evenflow_log_prob_and_grad(open.model, open.context, type, x.data(), n, &theirs, density, dx.data(),
                                     dcontext.data()) == EVENFLOW_OK);
  open.cpp.log_prob_and_grad(ctx, x.data(), n, wanted, wanted_dx.data(), wanted_dcontext.data(), options);
  CHECK((dx == wanted_dx && dcontext == wanted_dcontext));
  CHECK(std::equal(density, density + n, wanted));
  theirs.context_dtype = EVENFLOW_UINT8;
  check_refused(evenflow_log_prob(open.model, open.context, type, x.data(), n, &theirs, density),
                "expected a context_dtype EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64, got 3");
}

TEST_CASE("the C interface: the density of a sample that is not finite") {
  CouplingFlowConfig config = table();
  config.actnorm = true;
  Trainable<double> wide = initialised<double>(config);
  tensor(wide.arena, "actnorm0.logs").fill(1e308);  // samples of the mean alone
  const Opened open(wide);
  double x[5], density;
  check_refused(
      evenflow_sample_and_log_prob(open.model, open.context, EVENFLOW_FLOAT64, 1, nullptr, x, &density),
      "[sample_and_log_prob] expected finite samples and densities, got log-determinant",
      EVENFLOW_NUMERIC_ERROR);
  CHECK(evenflow_sample(open.model, open.context, EVENFLOW_FLOAT64, 1, nullptr, x) == EVENFLOW_OK);
}

}  // namespace
}  // namespace evenflow::test
