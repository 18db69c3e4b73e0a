#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <tuple>

#include "embedded.hpp"
#include "evenflow/evenflow.h"

// The C interface from C++; check_embed.sh has programs of other languages.

namespace evenflow::test {
namespace {

/// A model and a context of the C interface.
struct Opened {
  explicit Opened(const std::string& path) {
    REQUIRE(evenflow_load(path.c_str(), &model) == EVENFLOW_OK);
    REQUIRE(evenflow_context_create(1, &context) == EVENFLOW_OK);
  }
  ~Opened() {
    evenflow_context_free(context);
    evenflow_model_free(model);
  }
  evenflow_model* model = nullptr;
  evenflow_context* context = nullptr;
};

/// f takes all of the pointers, and refuses each of them when it is null.
template <class F, class... Pointers>
void check_null(const F& f, Pointers... pointers) {
  CHECK(f(pointers...) == EVENFLOW_OK);
  for (size_t k = 0; k < sizeof...(pointers); ++k) {
    CAPTURE(k);
    size_t place = 0;
    const auto but = [&](auto* pointer) { return place++ == k ? nullptr : pointer; };
    const std::tuple<Pointers...> without{but(pointers)...};
    CHECK(std::apply(f, without) == EVENFLOW_CONFIG_ERROR);
    CHECK(std::string(evenflow_last_error()).find("got a null pointer") != std::string::npos);
  }
}

// The address sanitizer ends a process without memory by itself.
#if !defined(__SANITIZE_ADDRESS__) && !defined(_WIN32)
TEST_CASE("the C interface: a load without memory") {
  const TemporaryFile file("large.safetensors");
  NiceConfig config;
  config.shape = {0, 1, 1, 4};
  config.couplings = 1;
  config.hidden = {3000, 3000};
  const Trainable<float> large = initialised<float>(config);
  save(file.path, large);
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
  const TemporaryFile file("model.safetensors");
  save(file.path, initialised<float>(table()));
  evenflow_model* model = nullptr;
  evenflow_context* context = nullptr;
  REQUIRE(evenflow_load(file.path.c_str(), &model) == EVENFLOW_OK);
  REQUIRE(evenflow_context_create(1, &context) == EVENFLOW_OK);

  struct {
    evenflow_options options;
    double unknown;
  } newer = {EVENFLOW_OPTIONS_INIT, 0};
  newer.options.struct_size = sizeof newer;
  float x[5];
  CHECK(evenflow_sample(model, context, EVENFLOW_FLOAT32, 1, &newer.options, x) == EVENFLOW_OK);
  newer.unknown = 1;
  CHECK(evenflow_sample(model, context, EVENFLOW_FLOAT32, 1, &newer.options, x) == EVENFLOW_CONFIG_ERROR);
  CHECK(std::string(evenflow_last_error()).find("knows, got newer ones") != std::string::npos);

  newer.options.struct_size = SIZE_MAX;  // of a struct that nobody initialised
  CHECK(evenflow_sample(model, context, EVENFLOW_FLOAT32, 1, &newer.options, x) == EVENFLOW_CONFIG_ERROR);
  CHECK(std::string(evenflow_last_error()).find("expected struct_size <= 4096") != std::string::npos);

  evenflow_info info = EVENFLOW_INFO_INIT;
  CHECK(evenflow_model_get_info(model, &info) == EVENFLOW_OK);
  CHECK(info.dims == 5);
  CHECK(info.struct_size == sizeof info);
  info.struct_size = 4;
  CHECK(evenflow_model_get_info(model, &info) == EVENFLOW_CONFIG_ERROR);
  info.struct_size = SIZE_MAX;
  CHECK(evenflow_model_get_info(model, &info) == EVENFLOW_CONFIG_ERROR);
  CHECK(std::string(evenflow_last_error()).find("expected struct_size <= 4096") != std::string::npos);

  size_t size = 0;
  CHECK(evenflow_model_get_config(model, nullptr, &size) == EVENFLOW_OK);
  std::vector<char> text(size);
  CHECK(evenflow_model_get_config(model, text.data(), &size) == EVENFLOW_OK);
  CHECK(load(file.path).config() == text.data());
  size -= 1;
  CHECK(evenflow_model_get_config(model, text.data(), &size) == EVENFLOW_SHAPE_ERROR);
  CHECK(size == text.size());

  evenflow_report report = EVENFLOW_REPORT_INIT;
  CHECK(evenflow_verify(model, context, EVENFLOW_FLOAT32, x, 1, nullptr, &report) == EVENFLOW_OK);
  CHECK(report.ok == 1);
  evenflow_context_free(context);
  evenflow_model_free(model);
  evenflow_model_free(nullptr);
}

TEST_CASE("the C interface: null pointers") {
  const TemporaryFile file("model.safetensors");
  save(file.path, initialised<float>(table()));
  const Opened open(file.path);
  float x[5] = {}, z[5] = {};
  double out;
  evenflow_info info = EVENFLOW_INFO_INIT;
  evenflow_report report = EVENFLOW_REPORT_INIT;
  size_t size = 0;
  constexpr evenflow_dtype type = EVENFLOW_FLOAT32;
  const auto scored = [&](auto call) {
    check_null([&](auto* m, auto* c, auto* in, auto* to) { return call(m, c, type, in, 1, nullptr, to); },
               open.model, open.context, x, &out);
  };
  scored(evenflow_log_prob);
  scored(evenflow_bits_per_dim);
  const auto moved = [&](auto call) {
    check_null([&](auto* m, auto* c, auto* in, auto* to) { return call(m, c, type, in, 1, nullptr, to); },
               open.model, open.context, x, z);
  };
  moved(evenflow_encode);
  moved(evenflow_decode);
  const auto moved_with_logdet = [&](auto call) {
    check_null([&](auto* m, auto* c, auto* in, auto* to,
                   auto* det) { return call(m, c, type, in, 1, nullptr, to, det); },
               open.model, open.context, x, z, &out);
  };
  moved_with_logdet(evenflow_forward);
  moved_with_logdet(evenflow_inverse);
  check_null([&](auto* m, auto* c, auto* to) { return evenflow_sample(m, c, type, 1, nullptr, to); },
             open.model, open.context, x);
  check_null([&](auto* m, auto* c, auto* to,
                 auto* density) { return evenflow_sample_and_log_prob(m, c, type, 1, nullptr, to, density); },
             open.model, open.context, x, &out);
  check_null(
      [&](auto* m, auto* c, auto* in, auto* to) {
        return evenflow_log_prob_and_grad(m, c, type, in, 1, nullptr, to, nullptr, nullptr);
      },
      open.model, open.context, x, &out);
  check_null(
      [&](auto* m, auto* c, auto* in, auto* to) { return evenflow_verify(m, c, type, in, 1, nullptr, to); },
      open.model, open.context, x, &report);
  check_null([&](auto* m, auto* to) { return evenflow_model_get_info(m, to); }, open.model, &info);
  check_null([&](auto* m, auto* to) { return evenflow_model_get_config(m, nullptr, to); }, open.model, &size);
  CHECK(evenflow_load(file.path.c_str(), nullptr) == EVENFLOW_CONFIG_ERROR);
  evenflow_model* none = open.model;
  CHECK(evenflow_load(nullptr, &none) == EVENFLOW_CONFIG_ERROR);
  CHECK(none == nullptr);
  CHECK(evenflow_context_create(1, nullptr) == EVENFLOW_CONFIG_ERROR);
}

TEST_CASE("the C interface: the dtypes that a call takes") {
  const TemporaryFile file("model.safetensors");
  float x[32] = {};
  double out;
  const auto error = [&](const Opened& open, auto call) {
    CHECK(call(open.model, open.context, 9, x, 1, nullptr, &out) == EVENFLOW_CONFIG_ERROR);
    return std::string(evenflow_last_error());
  };
  save(file.path, initialised<float>(table()));
  const Opened columns(file.path);
  CHECK(error(columns, evenflow_log_prob) ==
        "[log_prob] expected dtype EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64, got 9");
  save(file.path, initialised<float>(glow_with_classes()));
  const Opened images(file.path);
  CHECK(error(images, evenflow_log_prob) ==
        "[log_prob] expected dtype EVENFLOW_FLOAT32, EVENFLOW_FLOAT64 or EVENFLOW_UINT8, got 9");
  CHECK(error(images, evenflow_encode) ==
        "[encode] expected dtype EVENFLOW_FLOAT32, EVENFLOW_FLOAT64 or EVENFLOW_UINT8, got 9");
  CHECK(error(images, evenflow_decode) ==
        "[decode] expected dtype EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64, got 9");
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
  const TemporaryFile file("model.safetensors");
  GlowConfig config = glow_with_classes();
  config.shape = {0, 8, 4, 2};
  save(file.path, initialised<double>(config));
  const Opened open(file.path);
  const Model model = load(file.path);
  evenflow_info info = EVENFLOW_INFO_INIT;
  REQUIRE(evenflow_model_get_info(open.model, &info) == EVENFLOW_OK);
  CHECK(info.dtype == EVENFLOW_FLOAT64);
  CHECK(info.bits == 5);
  CHECK(info.dims == 64);
  CHECK(info.height == 8);
  CHECK(info.width == 4);
  CHECK(info.channels == 2);
  CHECK(info.classes == 3);

  Context ctx("cpu", 1);
  const int32_t labels[] = {2, 0};
  std::vector<double> x = draws<double>(2 * 64, 3, 16), z(x.size()), wanted(x.size());
  CallOptions options;
  options.labels = labels;
  options.seed = 6;
  options.first = 3;
  options.temperature = 0.5;
  evenflow_options theirs = EVENFLOW_OPTIONS_INIT;
  theirs.labels = labels;
  theirs.seed = 6;
  theirs.first = 3;
  theirs.temperature = 0.5;
  const VerifyReport r = model.verify(ctx, x.data(), 2, options);
  evenflow_report report = EVENFLOW_REPORT_INIT;
  const auto verify = [&] {
    return evenflow_verify(open.model, open.context, EVENFLOW_FLOAT64, x.data(), 2, &theirs, &report);
  };
  REQUIRE(verify() == EVENFLOW_OK);
  REQUIRE(r.round_trip_x != r.round_trip_z);
  CHECK(report.samples == 2);
  CHECK((report.ok == 1 && report.finite == 1 && report.probed == 1));
  CHECK(report.round_trip_x == r.round_trip_x);
  CHECK(report.round_trip_z == r.round_trip_z);
  CHECK(report.logdet_sum == r.logdet_sum);
  CHECK(report.precision == r.precision);
  CHECK(report.jacobian == r.jacobian);
  x[70] = std::nan("");
  REQUIRE(verify() == EVENFLOW_OK);
  CHECK((report.ok == 0 && report.finite == 0));
  CHECK(std::string(evenflow_last_error()) == "[verify] expected finite values, got nan in row 1, value 6");

  Trainable<double> wrong = initialised<double>(table());
  for (const ParamLayout::Entry& entry : wrong.flow.layout()->entries()) {
    if (entry.name == "preprocess.inverse") wrong.arena.values()[entry.offset] *= 1.5;
  }
  save(file.path, wrong);
  const Opened other(file.path);
  REQUIRE(evenflow_verify(other.model, other.context, EVENFLOW_FLOAT64, x.data(), 2, nullptr, &report) ==
          EVENFLOW_OK);
  CHECK((report.ok == 0 && report.finite == 1));

  model.sample(ctx, 2, wanted.data(), options);
  REQUIRE(evenflow_sample(open.model, open.context, EVENFLOW_FLOAT64, 2, &theirs, z.data()) == EVENFLOW_OK);
  CHECK(z == wanted);
  const std::vector<uint8_t> levels(x.size(), 100);
  double logdet[2], wanted_logdet[2];
  model.forward(ctx, levels.data(), 2, wanted.data(), wanted_logdet, options);
  REQUIRE(evenflow_forward(open.model, open.context, EVENFLOW_UINT8, levels.data(), 2, &theirs, z.data(),
                           logdet) == EVENFLOW_OK);
  CHECK(z == wanted);
  CHECK(std::equal(logdet, logdet + 2, wanted_logdet));
  CHECK(evenflow_log_prob(open.model, open.context, 9, x.data(), 2, &theirs, logdet) ==
        EVENFLOW_CONFIG_ERROR);
}

TEST_CASE("the C interface: densities with gradients, samples with densities, rows with strides") {
  const TemporaryFile file("model.safetensors");
  CouplingFlowConfig config = table();
  config.context = 2;
  Trainable<float> trained(ModelConfig{config, Dtype::float32, 3});
  const std::vector<float> data = draws<float>(32 * 5, 1, 0), conditions = draws<float>(32 * 2, 1, 0);
  Context ctx("cpu", 1);
  trained.flow.init_from_data(ctx, trained.arena, View<const float>(data.data(), {32, 1, 1, 5}),
                              Given<float>(conditions.data()));
  save(file.path, trained);
  const Opened open(file.path);
  const Model model = load(file.path);
  constexpr evenflow_dtype type = EVENFLOW_FLOAT32;
  constexpr int64_t n = 3, wide = 6;
  std::vector<float> x(n * wide), wanted_x(n * wide), dx(n * 5), dcontext(n * 2), wanted_dx(n * 5),
      wanted_dcontext(n * 2);
  double density[n], wanted[n];
  CallOptions options;
  options.context = {conditions.data(), 4};
  options.x_stride = wide;
  options.seed = 5;
  evenflow_options theirs = EVENFLOW_OPTIONS_INIT;
  theirs.context = conditions.data();
  theirs.context_dtype = EVENFLOW_FLOAT32;
  theirs.context_stride = 4;
  theirs.x_stride = wide;
  theirs.seed = 5;
  REQUIRE(evenflow_sample_and_log_prob(open.model, open.context, type, n, &theirs, x.data(), density) ==
          EVENFLOW_OK);
  model.sample_and_log_prob(ctx, n, wanted_x.data(), wanted, options);
  CHECK(x == wanted_x);
  CHECK(std::equal(density, density + n, wanted));
  REQUIRE(evenflow_log_prob_and_grad(open.model, open.context, type, x.data(), n, &theirs, density, dx.data(),
                                     dcontext.data()) == EVENFLOW_OK);
  model.log_prob_and_grad(ctx, x.data(), n, wanted, wanted_dx.data(), wanted_dcontext.data(), options);
  CHECK(dx == wanted_dx);
  CHECK(dcontext == wanted_dcontext);
  CHECK(std::equal(density, density + n, wanted));
  const auto refused = [&](const char* text) {
    CHECK(evenflow_log_prob(open.model, open.context, type, x.data(), n, &theirs, density) ==
          EVENFLOW_CONFIG_ERROR);
    CHECK(std::string(evenflow_last_error()) == text);
  };
  theirs.context_dtype = EVENFLOW_UINT8;
  refused("[log_prob] expected a context_dtype EVENFLOW_FLOAT32 or EVENFLOW_FLOAT64, got 3");
  theirs.context_dtype = EVENFLOW_FLOAT32;
  theirs.x_stride = 2;
  refused("[log_prob] expected at least 5 values from one row of x to the next, got a stride of 2");
}

}  // namespace
}  // namespace evenflow::test
