#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "api/model_file.hpp"
#include "embedded.hpp"
#include "evenflow/io.hpp"
#include "io/crc32.hpp"
#include "targets.hpp"

namespace fs = std::filesystem;

// Model files: damaged ones, hostile ones, and those that the fuzzers found.

namespace evenflow::test {
namespace {

const Site kSite{"load", "test"};

std::string get(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void put(const fs::path& path, const std::string& bytes) {
  REQUIRE((std::ofstream(path, std::ios::binary) << bytes).good());
}

Bytes bytes_of(const std::string& text) {
  return {text.data(), static_cast<int64_t>(text.size())};
}

CouplingFlowConfig small_table() {
  CouplingFlowConfig config = plain_table();
  config.dims = 3;
  config.couplings = 2;
  config.hidden = {12};
  config.permutation = "lu";
  return config;
}

template <class T>
std::string file_of(const Trainable<T>& model) {
  const TemporaryFile file;
  save(file.path, model);
  return get(file.path);
}

/// Whether the bytes hold the model with exactly these settings and parameters; IoError as it comes.
bool holds(const std::string& bytes, const Trainable<float>& wanted) {
  const Trainable<float> got = restore<float>(view_model(bytes_of(bytes), kSite), kSite);
  const size_t size = static_cast<size_t>(wanted.flow.layout()->total_size()) * sizeof(float);
  return to_json(got.config) == to_json(wanted.config) &&
         got.flow.layout()->total_size() == wanted.flow.layout()->total_size() &&
         std::memcmp(got.arena.values(), wanted.arena.values(), size) == 0;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

/// Where a tensor's first byte is in a file.
size_t place_of(const std::string& bytes, const std::string& tensor) {
  return static_cast<size_t>(view_safetensors(bytes_of(bytes), kSite).tensors.at(tensor).data - bytes.data());
}

/// A model file whose tensors and settings a test may change.
struct Parts {
  explicit Parts(const std::string& bytes) {
    TensorViews views = view_safetensors(bytes_of(bytes), kSite);
    metadata = views.metadata;
    for (const auto& [name, tensor] : views.tensors) {
      tensors[name] = {tensor.dtype, tensor.shape, {tensor.data, tensor.data + tensor.bytes}};
    }
  }
  template <class T>
  T& value(const std::string& name, size_t i) {
    return reinterpret_cast<T*>(tensors.at(name).bytes.data())[i];
  }
  std::string error() const {
    const TemporaryFile file;
    std::vector<TensorRef> refs;
    for (const auto& [name, tensor] : tensors) {
      refs.push_back({name, tensor.dtype, tensor.shape, tensor.bytes.data()});
    }
    write_safetensors(file.path, refs, metadata);
    return error_of<IoError>([&] { load(file.path); });
  }

  std::map<std::string, std::string> metadata;
  std::map<std::string, Tensor> tensors;
};

TEST_CASE("crc32 is zlib's, in one piece and in several") {
  const std::string text = "123456789 The quick brown fox";
  CHECK(crc32("123456789", 9) == 0xCBF43926u);
  CHECK(crc32("", 0) == 0);
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const uint32_t first = crc32(text.data(), cut);
    CHECK(crc32(text.data() + cut, text.size() - cut, first) == crc32(text.data(), text.size()));
  }
}

/// The same file as another writer would make it.
std::string without_checksum(std::string bytes) {
  for (const std::string key : {"evenflow\"", "evenflow.tensors\"", "evenflow.crc32\""}) {
    bytes = replaced(std::move(bytes), "\"" + key, "\"eV" + key.substr(2));
  }
  return bytes;
}

TEST_CASE("a damaged model file is an error or the same model: 1,000 truncations, 12,000 flipped bytes") {
  const Trainable<float> model = initialised<float>(small_table());
  const std::string good = file_of(model), plain = without_checksum(good);
  REQUIRE(holds(good, model));
  const TemporaryFile file;
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    const std::string cut = good.substr(0, random() % good.size());
    CHECK_THROWS_AS(load_model(bytes_of(cut), kSite), IoError);
    if (i % 10 != 0) continue;
    put(file.path, cut);
    CHECK_THROWS_AS(load(file.path), IoError);
  }
  CHECK_THROWS_AS(load_model(bytes_of(good + '\0'), kSite), IoError);
  int errors = 0, equal = 0, others = 0;
  for (int i = 0; i < 12000; ++i) {
    std::string bytes = i < 10000 ? good : plain;
    char& byte = bytes[random() % bytes.size()];
    // Half of them flip one bit, the others change the byte to any other.
    byte = static_cast<char>(byte ^ (random() % 2 ? 1 << random() % 8 : 1 + random() % 255));
    try {
      const bool same = holds(bytes, model);
      CHECK_MESSAGE((same || i >= 10000), "another model after change ", i);
      ++(same ? equal : others);
    } catch (const IoError&) {
      ++errors;
    }
  }
  CHECK(errors > 9000);
  CHECK(equal > 0);   // blanks in the header, the version that wrote the file
  CHECK(others > 0);  // what only the checksum finds
}

TEST_CASE("a checksum finds what no other check can; files without one are read") {
  const Trainable<float> model = initialised<float>(small_table());
  const std::string good = file_of(model);
  std::string other = good;
  const size_t weight = place_of(good, "coupling0.dense0.weight");
  other[weight] ^= 1;  // of a finite float32, another one
  CHECK_THROWS_WITH_AS(holds(other, model), doctest::Contains("the file is damaged"), IoError);
  CHECK_THROWS_WITH_AS(holds(replaced(good, R"(\"seed\": 3)", R"(\"seed\": 4)"), model),
                       doctest::Contains("the file is damaged"), IoError);
  CHECK_THROWS_WITH_AS(holds(replaced(other, "evenflow.crc32", "evenflow.crc22"), model),
                       doctest::Contains("expected metadata 'evenflow.crc32' beside"), IoError);
  std::string plain = without_checksum(good);
  CHECK(holds(plain, model));
  plain[weight] ^= 1;
  CHECK(!holds(plain, model));
}

TEST_CASE("parameters that no model writes are refused") {
  CouplingFlowConfig shuffled = small_table();
  shuffled.permutation = "shuffle";
  const Parts table(file_of(initialised<float>(small_table()))),
      of_shuffle(file_of(initialised<float>(shuffled)));
  REQUIRE(table.error() == "");
  const auto refused = [](Parts parts, const std::string& name, size_t i, float value, const char* text) {
    parts.value<float>(name, i) = value;
    check_contains(parts.error(), text);
  };
  for (const float value : {-1.f, 3.f, 0.5f, 1e30f}) {
    refused(table, "permutation1.permutation", 0, value, "expected a permutation of 0 ... 2, got");
  }
  Parts twice = of_shuffle;
  const float first = twice.value<float>("permutation1.permutation", 0);
  refused(twice, "permutation1.permutation", 2, first,
          "[permutation1] expected a permutation of 0 ... 2, got");
  refused(table, "permutation1.sign", 1, 0.5,
          "[permutation1] expected signs of 1 or -1, got 0.5 in channel 1");
  refused(table, "initialized", 0, 2, "expected 0 or 1 for 'initialized', got 2");
  for (const float value : {std::nanf(""), HUGE_VALF}) {
    refused(table, "coupling0.dense0.weight", 4, value,
            "expected finite values in 'coupling0.dense0.weight'");
  }
  // Those that a caller spoils are an error, too, not an access out of bounds.
  for (const CouplingFlowConfig& config : {shuffled, small_table()}) {
    Trainable<float> model = initialised<float>(config);
    tensor(model.arena, "permutation1.permutation")[0] = 1e9F;
    Context ctx;
    const std::vector<float> x = {1, 2, 3};
    double out;
    CHECK_THROWS_WITH_AS(
        model.flow.log_prob(ctx, model.arena, View<const float>(x.data(), {1, 1, 1, 3}), nullptr, &out),
        doctest::Contains("[permutation1] expected a permutation of 0 ... 2"), NumericError);
  }
}

TEST_CASE("settings that are read have the ranges of their models") {
  const auto check = [](const auto& model, const std::string& from, const std::string& to,
                        const std::string& message) {
    const std::string text = to_json({model, Dtype::float32, 0});
    CAPTURE(to);
    CHECK_NOTHROW(parse_config(text));
    CHECK_THROWS_WITH_AS(parse_config(replaced(text, from, to)), ("[config] expected " + message).c_str(),
                         ConfigError);
  };
  check(small_table(), "\"shape\": 3", "\"shape\": 0", "dims in 1 ... 1048576, got 0");
  check(small_table(), "[12]", "[12, 0]", "a width in hidden in 1 ... 1048576, got 0");
  NiceConfig nice;
  nice.shape = {0, 1, 1, 2};
  check(nice, "\"shape\": 2", "\"shape\": 1", "at least 2 dimensions, got 1");
  GlowConfig glow;
  glow.shape = {0, 4, 4, 1};
  check(glow, "[4, 4, 1]", "[4, 4294967296, 4294967296]", "a size in shape in 1 ... 1048576, got 4294967296");
  check(glow, "[4, 4, 1]", "[4, 0, 1]", "positive sizes, got 4 x 0 x 1");
  check(glow, "[4, 4, 1]", "[4, 1048576, 1048576]",
        "at most 134217728 values a sample, got 4 x 1048576 x 1048576");
  check(glow, "\"bits\": 8", "\"bits\": 9", "bits in 1 ... 8, got 9");
  check(glow, "\"lu\"", "\"qr\"", "permutation lu, plain, shuffle or reverse, got 'qr'");
  check(glow, "0.0", "-0.5", "a finite class_weight >= 0, got -0.5");
  check(RealNvpConfig(), "\"recursion\": 2", "\"recursion\": 5", "recursion in 1 ... 4, got 5");
}

TEST_CASE("a trainable model takes the place of another") {
  CouplingFlowConfig larger = small_table();
  larger.couplings = 3;
  larger.hidden = {7, 5};
  Trainable<float> model = initialised<float>(small_table()), other = initialised<float>(larger);
  model = std::move(other);
  CHECK(holds(file_of(model), initialised<float>(larger)));
  Context ctx("cpu", 1);
  const std::vector<float> x{1, 2, 3, 5, 7, 11};
  const View<const float> batch(x.data(), {2, 1, 1, 3});
  Optimizer<float> optimizer(model.flow.layout(), {});
  const double before = model.flow.train_step(ctx, model.arena, batch, {}, -1, {optimizer}).loss;
  CHECK(model.flow.train_step(ctx, model.arena, batch, {}, -1, {optimizer}).loss < before);
  other = initialised<float>(small_table());  // what was moved from, too
  CHECK(holds(file_of(other), initialised<float>(small_table())));
}

TEST_CASE("settings that promise more than the file holds are refused before anything is built") {
  const auto refused = [](Parts parts, const std::string& from, const std::string& to, const char* text) {
    parts.metadata["config"] = replaced(parts.metadata.at("config"), from, to);
    check_contains(parts.error(), text);
  };
  Parts table(file_of(initialised<float>(small_table())));
  refused(table, "\"couplings\": 2", "\"couplings\": 65536", "values in all, got more with permutation");
  std::string widths = "[12";
  for (int i = 1; i < 60000; ++i) widths += ", 12";
  refused(table, "[12]", widths + "]", "the number of hidden layers in 0 ... ");
  refused(table, "\"shape\": 3", "\"shape\": 1048576", "expected dims in 1 ... ");
  refused(table, "[12]", "[1048576]", "values in all, got more with coupling0");
  refused(table, "\"couplings\": 2", "\"couplings\": 65537", "couplings in 1 ... 65536, got 65537");
  refused(table, "\"shape\": 3", "\"shape\": 9223372036854775807", "dims in 1 ... 1048576");
  refused(table, "\"shape\": 3", "\"shape\": 2", "got another shape");
  refused(table, "\"hidden\": [12]", "\"hidden\": [11]", "got another shape");
  refused(table, "\"dtype\": \"float32\"", "\"dtype\": \"float64\"", "values in all, got more with ");
  refused(table, "{", "{{", "expected a valid configuration");
  refused(table, "\"seed\": 3", "\"seed\": 3, \"seed\": 3", "unique keys");
  refused(table, "\"seed\": 3", "\"seed\": -3", "expected 'seed' in 0 ... 9223372036854775807, got -3");
  table.metadata["format"] = "2";
  check_contains(table.error(), "expected format 1, got '2'");
  GlowConfig glow;
  glow.shape = {0, 4, 4, 1};
  glow.levels = glow.steps = 1;
  glow.hidden = 2;
  refused(Parts(file_of(initialised<float>(glow))), "[4, 4, 1]", "[4, 5, 1]",
          "[glow] expected height and width divisible by 2^1, got 4 x 5");
}

TEST_CASE("a model is built within a limit of tensors and values, or not at all") {
  const auto check = [](const auto& model) {
    const ModelConfig config{model, Dtype::float32, 0};
    CAPTURE(to_json(config));
    ParamLimit size{0, 0};
    const std::shared_ptr<const ParamLayout> layout = build<float>(config).layout();
    for (const ParamLayout::Entry& entry : layout->entries()) {
      ++size.tensors;
      size.values += entry.size;
    }
    CHECK_NOTHROW(build<float>(config, size));
    CHECK_THROWS_AS(build<float>(config, {size.tensors - 1, size.values}), ConfigError);
    CHECK_THROWS_AS(build<float>(config, {size.tensors, size.values - 1}), ConfigError);
  };
  NiceConfig nice;
  nice.shape = {0, 1, 1, 7};
  nice.hidden = {5, 4};
  check(nice);
  CouplingFlowConfig table = small_table();
  check(table);
  table.law = "additive";
  table.mask = "odd-even";
  table.hidden = {};
  check(table);
  table.net = "residual";
  table.hidden = {6, 6};
  for (const int64_t context : {0, 3}) {
    table.context = context;
    check(table);
  }
  GlowConfig glow;
  glow.shape = {0, 8, 8, 3};
  glow.steps = 2;
  glow.hidden = 6;
  glow.learn_top = false;
  for (const char* kind : {"lu", "plain", "shuffle", "reverse"}) {
    glow.permutation = kind;
    glow.coupling = kind[0] == 'l' ? "affine" : "additive";
    check(glow);
  }
  RealNvpConfig image;
  image.shape = {0, 8, 8, 2};
  image.base_dim = 4;
  for (int bits = 0; bits < 32; ++bits) {
    image.residual_blocks = bits & 1 ? 2 : 0;
    image.bottleneck = bits & 2;
    image.skip = bits & 4;
    image.recursion = bits & 8 ? 4 : 2;
    image.batch_norm = bits & 16;
    image.weight_norm = image.batch_norm;
    check(image);
  }
}

TEST_CASE("a layout within a limit") {
  ParamLayout layout({3, int64_t{1} << 48});
  CHECK_THROWS_AS(layout.add("a", {int64_t{1} << 40, int64_t{1} << 40}, Group::decay), ConfigError);
  CHECK_THROWS_AS(layout.add("b", {-1}, Group::decay), ConfigError);
  layout.add("c", {int64_t{1} << 47, 2}, Group::decay);
  CHECK_THROWS_WITH_AS(layout.add("d", {1}, Group::decay),
                       "[params] expected at most 281474976710656 values in all, got more with d",
                       ConfigError);
  layout.add("e", {0}, Group::decay);
  layout.add("f", {0}, Group::decay);
  CHECK_THROWS_WITH_AS(layout.add("g", {0}, Group::decay),
                       "[params] expected at most 3 tensors in all, got more with g", ConfigError);
}

TEST_CASE("files omit optional settings that are empty or their first choice, and mean those where they do") {
  CouplingFlowConfig table = small_table();
  const std::string plain = to_json({table, Dtype::float32, 0});
  for (const char* name : {"net", "activation", "context"}) CHECK(plain.find(name) == plain.npos);
  table.net = "residual";
  table.activation = "elu";
  const std::string text = to_json({table, Dtype::float32, 0});
  CHECK(text.find("\"net\": \"residual\", \"hidden\": [12], \"activation\": \"elu\"") != text.npos);
  for (const std::string& settings : {plain, text}) CHECK(to_json(parse_config(settings)) == settings);
  const auto read = std::get<CouplingFlowConfig>(parse_config(plain).model);
  CHECK(read.net == "mlp");
  CHECK(read.activation == "relu");
  CHECK_THROWS_WITH_AS(parse_config(replaced(text, "residual", "recurrent")),
                       "[config] expected net mlp or residual, got 'recurrent'", ConfigError);
}

TEST_CASE("numbers are written as Python writes them") {
  GlowConfig glow;
  glow.shape = {0, 8, 8, 3};
  const auto weight = [&](double value) {
    glow.class_weight = value;
    const std::string text = to_json({glow, Dtype::float32, ~uint64_t{0}});
    CHECK(to_json(parse_config(text)) == text);
    const size_t at = text.find("\"class_weight\": ") + 16;
    return text.substr(at, text.find(',', at) - at);
  };
  CHECK(weight(-0.0) == "-0.0");
  CHECK(weight(3) == "3.0");
  CHECK(weight(1.0 / 3) == "0.3333333333333333");
  CHECK(weight(1e-4) == "0.0001");
  CHECK(weight(9.5e-5) == "9.5e-05");
  CHECK(weight(5e-324) == "5e-324");
  CHECK(weight(9999999999999998) == "9999999999999998.0");
  CHECK(weight(1e16) == "1e+16");
}

#if !defined(_WIN32)  // where it is read at once
TEST_CASE("a file that gets shorter while it is read is refused") {
  const TemporaryFile file;
  put(file.path, std::string(100, 'x'));
  const MappedFile mapped({"load", file.path});
  CHECK_NOTHROW(mapped.check_length());
  CHECK(std::string(mapped.bytes().data, static_cast<size_t>(mapped.bytes().size)) == std::string(100, 'x'));
  fs::resize_file(file.path, 99);
  CHECK_THROWS_WITH_AS(mapped.check_length(), doctest::Contains("got 99 bytes instead of 100"), IoError);
}
#endif

TEST_CASE("what the fuzzers kept") {
  const fs::path corpus = fs::path(EVENFLOW_TEST_FOLDER) / "fuzz/corpus";
  int files = 0;
  using Target = std::pair<const char*, void (*)(const uint8_t*, size_t)>;
  for (const auto& [folder, target] :
       {Target("model", fuzz::model_file), Target("config", fuzz::configuration)}) {
    for (const fs::directory_entry& entry : fs::directory_iterator(corpus / folder)) {
      CAPTURE(entry.path().string());
      const std::string bytes = get(entry.path());
      CHECK_NOTHROW(target(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
      ++files;
    }
  }
  CHECK(files > 50);
}

}  // namespace
}  // namespace evenflow::test
