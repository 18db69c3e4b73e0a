#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "arenas.hpp"
#include "core/memory.hpp"
#include "core/processors.hpp"
#include "evenflow/io.hpp"
#include "io/crc32.hpp"
#include "io/json.hpp"
#include "system.hpp"

namespace fs = std::filesystem;
using namespace evenflow;
using evenflow::test::check_contains;

namespace {

struct TemporaryFolder {
  TemporaryFolder() { REQUIRE(fs::create_directory(path)); }
  ~TemporaryFolder() { fs::remove_all(path); }
  std::string file(const std::string& name) const { return path + "/" + name; }
  /// Number of files, to see that no temporary one stays behind.
  int64_t count() const { return std::distance(fs::directory_iterator(path), fs::directory_iterator()); }

  std::string path = (fs::temp_directory_path() / ("evenflow-io-" + std::to_string(getpid()))).string();
};

#if !defined(_WIN32)

/// Makes writes past `bytes` fail with EFBIG, as a full disk does with ENOSPC, while it lives.
struct FileSizeLimit {
  explicit FileSizeLimit(rlim_t bytes) : handler(std::signal(SIGXFSZ, SIG_IGN)) {
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
    const rlimit limit = {bytes, old.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old);
    std::signal(SIGXFSZ, handler);
  }

  void (*handler)(int);
  rlimit old = {};
};

/// One more file can be opened, and no second one, while it lives.
struct OneFileLeft {
  OneFileLeft() {
    const int next = ::dup(0);
    REQUIRE(next >= 0);
    ::close(next);
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &old) == 0);
    const rlimit limit = {static_cast<rlim_t>(next) + 1, old.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  }
  ~OneFileLeft() { ::setrlimit(RLIMIT_NOFILE, &old); }

  rlimit old = {};
};

#endif

void put(const std::string& path, const std::string& bytes) {
  REQUIRE((std::ofstream(path, std::ios::binary) << bytes).good());
}

std::string get(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  std::string out(values.size() * sizeof(T), '\0');
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

std::string prefix(uint64_t length) {
  return bytes_of<uint64_t>({length});
}

std::string file_of(const std::string& header, const std::string& data = "") {
  return prefix(header.size()) + header + data;
}

size_t bytes_in(const std::string& dtype, const std::vector<int64_t>& shape) {
  size_t bytes = dtype == "F32" ? 4 : 8;
  for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
  return bytes;
}

/// The text of the IoError that `call` throws, empty if it throws nothing; any other exception is a failure.
template <class Call>
std::string error_of(const Call& call) {
  return evenflow::test::error_of<IoError>(call);
}

std::string read_error(const std::string& path) {
  return error_of([&] { read_safetensors(path); });
}

/// Reads a file of these bytes and checks that the error names the call, the file and `part`.
void check_rejected(const TemporaryFolder& folder, const std::string& bytes, const std::string& part) {
  const std::string path = folder.file("bad.safetensors");
  put(path, bytes);
  const std::string text = read_error(path);
  check_contains(text, "[read_safetensors] expected ");
  check_contains(text, path);
  check_contains(text, part);
}

const std::vector<float> floats = {1.5f, -0.0f, std::numeric_limits<float>::infinity(), 1e-45f, 3.f, -7.f};
const std::vector<double> doubles = {1e-320, -2.5, 1e300};
const std::vector<int64_t> integers = {INT64_MIN, -1, 0, 1};

std::vector<TensorRef> sample_tensors() {
  return {{"level1.step3.coupling.conv2.weight", "F32", {2, 3}, floats.data()},
          {"a", "F64", {3, 1}, doubles.data()},
          {"empty", "F32", {0, 5}, nullptr},
          {"steps", "I64", {4}, integers.data()},
          {"scalar", "F64", {}, doubles.data() + 1}};
}

json::Value parsed(const std::string& text) {
  return json::parse(text, "parse", "test");
}

std::string json_error(const std::string& text) {
  return error_of([&] { parsed(text); });
}

}  // namespace

TEST_CASE("json: values of every type") {
  const json::Value root = parsed(
      " {\"z\" : [1, -2,0 ,\t9223372036854775807,-9223372036854775808],\r\n\"b\":{\"c\":null,\"d\":true,"
      "\"e\":false},\"f\":[],\"a\":{},\"h\":[1.5,-0.25e2,1E-2,18446744073709551616,-9223372036854775809]} ");
  std::string order;
  for (const auto& [key, value] : *root.get<json::Object>()) order += key;
  CHECK(order == "zbfah");
  std::vector<int64_t> whole;
  for (const json::Value& item : *root.find("z")->get<json::Array>()) whole.push_back(*item.get<int64_t>());
  CHECK(whole == std::vector<int64_t>{1, -2, 0, INT64_MAX, INT64_MIN});
  std::vector<double> real;
  for (const json::Value& item : *root.find("h")->get<json::Array>()) real.push_back(*item.get<double>());
  CHECK(real == std::vector<double>{1.5, -25., 0.01, 18446744073709551616., -9223372036854775808.});
  CHECK(*parsed("9223372036854775808").get<uint64_t>() == uint64_t{1} << 63);
  CHECK(*parsed("18446744073709551615").get<uint64_t>() == ~uint64_t{0});
  const json::Value* b = root.find("b");
  CHECK(b->find("c")->get<std::nullptr_t>() != nullptr);
  CHECK(*b->find("d")->get<bool>());
  CHECK_FALSE(*b->find("e")->get<bool>());
  CHECK(b->find("a") == nullptr);
  CHECK(root.find("f")->get<json::Array>()->empty());
  CHECK(root.find("a")->get<json::Object>()->empty());
}

TEST_CASE("json: strings, escapes and UTF-8") {
  const auto text = [](const std::string& source) { return *parsed(source).get<std::string>(); };
  CHECK(text(R"("\"\\\/\b\f\n\r\t")") == "\"\\/\b\f\n\r\t");
  CHECK(text(R"("\u0041\u00e9\u20AC\ud83c\udf0a")") == "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x8C\x8A");
  CHECK(text(R"("a\u0000b")") == std::string("a\0b", 3));
  for (const std::string raw : {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                                "\xEE\x80\x80", "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    CHECK(text('"' + raw + '"') == raw);
    CHECK(json::quote(raw, "quote", "test") == '"' + raw + '"');
  }
  for (const std::string raw :
       {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2\x41", "\xE0\x9F\xBF", "\xE2\x82",
        "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xF0\x9F\x8C"}) {
    check_contains(json_error("\"ab" + raw + '"'), "expected valid UTF-8, got byte 0x");
    check_contains(error_of([&] { json::quote("ab" + raw, "quote", "test"); }),
                   "[quote] expected valid UTF-8");
  }
  for (int c = 0; c < 0x80; ++c) {
    const std::string raw(1, static_cast<char>(c));
    CHECK(text(json::quote(raw, "quote", "test")) == raw);
  }
  CHECK(json::shown("a\n") == "'a?'");
  CHECK(json::shown(std::string(100, 'x')) == "'" + std::string(60, 'x') + "...'");
}

TEST_CASE("json: everything else is an error with its position, nesting over 32 too") {
  const std::map<int, std::vector<std::string>> cases = {
      {0, {"", "\xEF\xBB\xBF{}", "+1", ".5", "1e999", "NaN", "tru", "// a\n1"}},
      {1, {"{", "{1:2}", "01", "-", "0x10", "\"\\ud83c\"", "\"\\udf0a\\udf0a\"", "\"\\ud83c\\ue000\""}},
      {2, {"  ", "{}{}", "[1}", "1.", "1e", "\"a", "\"a\nb\"", "\"\\x\"", "\"\\"}},
      {3, {"{} x", "[1,]", "[1 2]", "1e+x"}},
      {4, {"{\"a\"", "nulll"}},
      {5, {"{\"a\" 1}", "{\"a\":}", "\"\\u12g4\"", "\"\\u12"}},
      {6, {"{\"a\":1"}},
      {7, {"{\"a\":1,}", "{\"a\":1,\"\\u0061\":3}"}},
      {13, {"{\"a\":1,\"b\":2,\"a\":3}"}}};
  for (const auto& [at, texts] : cases) {
    for (const std::string& text : texts) {
      INFO("json: ", text);
      check_contains(json_error(text), "[parse] expected ");
      check_contains(json_error(text), " at byte " + std::to_string(at) + " of test");
    }
  }
  check_contains(json_error("{\"a\":1 2}"), "expected ',' or '}', got '2' at byte 7 of test");
  check_contains(json_error("[1"), "expected ',' or ']', got the end at byte 2 of test");
  check_contains(json_error("[1,\xFF]"), "expected a JSON value, got byte 0xff");
  check_contains(json_error("{\"a\":1,\"\\u0061\":3}"), "expected unique keys, got 'a' twice");
  check_contains(json_error("\"\\ud83c\\u0041\""), "got a lone surrogate");

  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(json_error(nested(32)) == "");
  check_contains(json_error(nested(33)), "expected at most 32 nested values, got '[' at byte 32");
  check_contains(json_error(std::string(1000000, '[')), "expected at most 32 nested values");
  std::string objects;
  for (int i = 0; i < 33; ++i) objects += "{\"a\":";
  check_contains(json_error(objects), "expected at most 32 nested values, got '{'");
}

/// The checksum of data, and of texts with a NUL after each key and text.
std::string sum_of(std::string bytes, const std::map<std::string, std::string>& texts) {
  for (const auto& [key, value] : texts) bytes += key + '\0' + value + '\0';
  char crc[9];
  std::snprintf(crc, sizeof crc, "%08x", crc32(bytes.data(), bytes.size()));
  return crc;
}

TEST_CASE("safetensors: the writer's bytes, and what is read of them") {
  const TemporaryFolder folder;
  const std::string path = folder.file("model.safetensors");
  const std::map<std::string, std::string> metadata = {
      {"a \"\\", std::string("nul \0 \t\a\n", 9)}, {"x \xC3\xA9", "\xF0\x9F\x8C\x8A \x7F"}, {"", ""}};
  write_safetensors(path, sample_tensors(), metadata);
  CHECK(folder.count() == 1);
  const std::string data =
      bytes_of(floats) + bytes_of(doubles) + bytes_of(integers) + bytes_of(doubles).substr(8, 8);
  const std::vector<std::pair<std::string, std::string>> entries = {
      {"level1.step3.coupling.conv2.weight", R"({"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})"},
      {"a", R"({"dtype":"F64","shape":[3,1],"data_offsets":[24,48]})"},
      {"empty", R"({"dtype":"F32","shape":[0,5],"data_offsets":[48,48]})"},
      {"steps", R"({"dtype":"I64","shape":[4],"data_offsets":[48,80]})"},
      {"scalar", R"({"dtype":"F64","shape":[],"data_offsets":[80,88]})"}};
  const std::string tensors = sum_of("", {entries.begin(), entries.end()});
  std::map<std::string, std::string> all = metadata;
  all["evenflow.tensors"] = tensors;
  std::string header =
      std::string("{\"__metadata__\":{\"\":\"\",\"a \\\"\\\\\":\"nul \\u0000 \\u0009\\u0007\\u000a\",") +
      "\"evenflow.crc32\":\"" + sum_of(data, all) + "\",\"evenflow.tensors\":\"" + tensors +
      "\",\"x \xC3\xA9\":\"\xF0\x9F\x8C\x8A \x7F\"}";
  for (const auto& [name, entry] : entries) header += ",\"" + name + "\":" + entry;
  header += "}";
  while (header.size() % 8 != 0) header += ' ';
  CHECK(get(path) == file_of(header, data));
  const TensorFile file = read_safetensors(path);
  CHECK(file.metadata == metadata);
  REQUIRE(file.tensors.size() == sample_tensors().size());
  for (const TensorRef& tensor : sample_tensors()) {
    INFO("tensor ", tensor.name);
    const Tensor& got = file.tensors.at(tensor.name);
    CHECK((got.dtype == tensor.dtype && got.shape == tensor.shape));
    REQUIRE(got.bytes.size() == bytes_in(tensor.dtype, tensor.shape));
    CHECK(std::equal(got.bytes.begin(), got.bytes.end(), static_cast<const char*>(tensor.data)));
  }
  write_safetensors(path, {}, {});
  std::string empty = "{\"__metadata__\":{\"evenflow.crc32\":\"" +
                      sum_of("", {{"evenflow.tensors", "00000000"}}) +
                      "\",\"evenflow.tensors\":\"00000000\"}}";
  while (empty.size() % 8 != 0) empty += ' ';
  CHECK(get(path) == file_of(empty));
  CHECK(read_safetensors(path).tensors.empty());
}

#if !defined(_WIN32)
TEST_CASE("safetensors: who may read a file is what the process says of its files") {
  const TemporaryFolder folder;
  const std::string path = folder.file("model.safetensors");
  const mode_t before = ::umask(027);
  write_safetensors(path, sample_tensors(), {});
  ::umask(before);
  CHECK(fs::status(path).permissions() == fs::perms(0640));
}
#endif

TEST_CASE("safetensors: a foreign file is read") {
  const TemporaryFolder folder;
  const std::string path = folder.file("foreign.safetensors");
  // Spaces, another order of members and of tensors, an empty tensor between, no padding.
  put(path, file_of(R"({"b": {"shape": [2], "data_offsets": [8, 24], "dtype": "F64"},
 "hole\/less": {"dtype":"F32","shape":[3,0,2],"data_offsets":[8,8]},
 "a": {"dtype":"I64","shape":[],"data_offsets":[0,8]}, "__metadata__": {"format":"\u0070t"}})",
                    std::string("\x02\0\0\0\0\0\0\0", 8) + std::string("\0\0\0\0\0\0\xF0\x3F", 8) +
                        std::string("\0\0\0\0\0\0\0\xC0", 8)));
  const TensorFile file = read_safetensors(path);
  CHECK(file.metadata == std::map<std::string, std::string>{{"format", "pt"}});
  REQUIRE(file.tensors.size() == 3);
  CHECK(file.tensors.at("hole/less").shape == std::vector<int64_t>{3, 0, 2});
  CHECK(file.tensors.at("hole/less").bytes.empty());
  CHECK(bytes_of(file.tensors.at("a").bytes) == bytes_of(std::vector<int64_t>{2}));
  CHECK(bytes_of(file.tensors.at("b").bytes) == bytes_of(std::vector<double>{1., -2.}));
}

TEST_CASE("safetensors: paths that are no file") {
  const TemporaryFolder folder;
  check_contains(read_error(folder.file("missing")), std::strerror(ENOENT));
  check_contains(read_error(folder.path), "expected a regular file, got a directory");
#if !defined(_WIN32)
  check_contains(read_error("/dev/zero"), "expected a regular file, got a special file (/dev/zero)");
  REQUIRE(::mkfifo(folder.file("pipe").c_str(), 0600) == 0);
  check_contains(read_error(folder.file("pipe")), "expected a regular file, got a pipe");
#endif
  put(folder.file("a"), file_of("{}"));
  check_contains(read_error(folder.file(std::string("a\0b", 3))), "expected a path without NUL");
}

TEST_CASE("safetensors: bad length and header") {
  const TemporaryFolder folder;
  const std::pair<std::string, const char*> cases[] = {
      {"", "at least 8 bytes, got 0"},
      {"1234567", "at least 8 bytes, got 7"},
      {prefix(0), "expected a header that begins with '{', got ''"},
      {prefix(1), "expected a header of at most 0 bytes, got 1"},
      {prefix(~uint64_t{0}) + "{}", "expected a header of at most 2 bytes, got"},
      {prefix(uint64_t{1} << 63) + "{}", "expected a header of at most 2 bytes, got"},
      {file_of(" {}"), "begins with '{', got ' '"},
      {file_of("{} {}"), "got '{' at byte 3 of the header"},
      {file_of("{\"a\":1"), "at byte 6 of the header"}};
  for (const auto& [bytes, part] : cases) check_rejected(folder, bytes, part);
  // A sparse file long enough for the length alone to pass.
  const std::string path = folder.file("bad.safetensors");
  put(path, prefix(100'000'001) + "{}");
  fs::resize_file(path, 200'000'000);
  check_contains(read_error(path), "expected a header of at most 100000000 bytes, got 100000001");
}

/// A header's entry for a tensor of F32, of the offsets' size.
std::string item(const std::string& name, int begin, int end) {
  const std::string size = std::to_string((end - begin) / 4);
  return '"' + name + R"(":{"dtype":"F32","shape":[)" + size + R"(],"data_offsets":[)" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

TEST_CASE("safetensors: bad entries, holes and overlaps") {
  const TemporaryFolder folder;
  const std::string eight(8, '\1'), path = folder.file("good.safetensors");
  put(path, file_of("{" + item("a", 4, 8) + "," + item("b", 0, 4) + "}", eight));
  CHECK(read_safetensors(path).tensors.size() == 2);
  const std::pair<std::string, const char*> entries[] = {
      {R"("a":1)", "expected a string 'dtype', got none in tensor 'a'"},
      {R"("a":{"dtype":3,"shape":[2],"data_offsets":[0,8]})", "a string 'dtype', got another type"},
      {R"("a":{"dtype":"F32","data_offsets":[0,8]})", "expected a list 'shape', got none"},
      {R"("a":{"dtype":"F32","shape":[2]})", "expected a list 'data_offsets', got none"},
      {R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})", "got 4 members in tensor 'a'"},
      {R"("__metadata__":[])", "expected an object '__metadata__', got another type"},
      {R"("__metadata__":{"k":1})", "strings in '__metadata__', got another type for 'k'"},
      {"", "expected 0 bytes of data, got 8"},
      {item("a", 0, 4), "expected 4 bytes of data, got 8"},
      {item("a", 4, 8), "expected data of tensor 'a' at offset 0, got 4"},
      {item("a", 0, 8) + "," + item("b", 0, 8), "expected data of tensor 'b' at offset 8, got 0"},
      {item("a", 0, 8) + "," + item("b", 4, 8), "expected data of tensor 'b' at offset 8, got 4"},
      {item("a", 0, 4) + "," + item("a", 4, 8), "expected unique keys, got 'a' twice"}};
  for (const auto& [text, part] : entries) check_rejected(folder, file_of("{" + text + "}", eight), part);

  std::string ones = "[2";
  for (int i = 0; i < 32; ++i) ones += ",1";
  const char *sizes = "integers of at least 0 in 'shape'", *overflow = "fits 64 bits, got an overflow",
             *offsets = "integers of at least 0 in 'data_offsets'",
             *order = "expected ordered data_offsets within 8 bytes of data";
  const struct {
    std::string dtype, shape, offsets;
    const char* part;
  } tensors[] = {{"F16", "[2]", "[0,8]", "dtype F32, F64 or I64, got 'F16' in tensor 'a'"},
                 {"F32 ", "[2]", "[0,8]", "dtype F32, F64 or I64"},
                 {"F32", "{}", "[0,8]", "expected a list 'shape', got another type"},
                 {"F32", "[-2]", "[0,8]", sizes},
                 {"F32", "[2.0]", "[0,8]", sizes},
                 {"F32", "[9223372036854775808]", "[0,8]", sizes},
                 {"F32", "[4611686018427387904]", "[0,8]", overflow},
                 {"F32", "[4294967296,4294967296]", "[0,8]", overflow},
                 {"F32", "[0,4294967296,4294967296]", "[0,8]", overflow},
                 {"F32", ones + "]", "[0,8]", "expected at most 32 dimensions, got 33"},
                 {"F32", "[2]", "[0]", "expected 2 data_offsets, got 1"},
                 {"F32", "[2]", "[-8,0]", offsets},
                 {"F32", "[2]", "[0,18446744073709551624]", offsets},
                 {"F32", "[2]", "[8,0]", order},
                 {"F32", "[3]", "[0,12]", order},
                 {"F32", "[2]", "[9223372036854775800,9223372036854775807]", order},
                 {"F32", "[1]", "[0,8]", "expected 4 bytes of data for its shape, got 8"}};
  for (const auto& t : tensors) {
    check_rejected(folder,
                   file_of(R"({"a":{"dtype":")" + t.dtype + R"(","shape":)" + t.shape +
                               R"(,"data_offsets":)" + t.offsets + "}}",
                           eight),
                   t.part);
  }
}

TEST_CASE("safetensors: what is not written leaves the old file") {
  const TemporaryFolder folder;
  const std::string path = folder.file("model.safetensors");
  put(path, "old");
  const float* data = floats.data();
  const std::vector<int64_t> half = {int64_t{1} << 60};
  const struct {
    std::vector<TensorRef> tensors;
    std::map<std::string, std::string> metadata;
    const char* part;
  } cases[] = {{{{"a", "F16", {2}, data}}, {}, "dtype F32, F64 or I64, got 'F16' in tensor 'a'"},
               {{{"a", "F32", {-2}, data}}, {}, "dimensions of at least 0, got -2 in tensor 'a'"},
               {{{"a", "F32", {int64_t{1} << 32, int64_t{1} << 32}, data}}, {}, "a shape that fits 64 bits"},
               {{{"a", "F32", std::vector<int64_t>(33, 1), data}}, {}, "at most 32 dimensions, got 33"},
               {{{"a", "F32", {2}, nullptr}}, {}, "expected data, got none in tensor 'a'"},
               {{{"a", "F32", {1}, data}, {"a", "F32", {1}, data}}, {}, "unique tensor names, got 'a' again"},
               {{{"a", "F32", half, data}, {"b", "F32", half, data}}, {}, "data that fits 64 bits"},
               {{{"__metadata__", "F32", {1}, data}}, {}, "unique tensor names, got '__metadata__' again"},
               {{{"a\xFF", "F32", {1}, data}}, {}, "valid UTF-8, got byte 0xff at byte 1 of a tensor name"},
               {{}, {{"evenflow.crc32", "00000000"}}, "metadata without 'evenflow.crc32'"},
               {{}, {{"\xC3", "v"}}, "valid UTF-8, got byte 0xc3 at byte 0 of a metadata key"},
               {{}, {{"k", "v\xED\xA0\x80"}}, "valid UTF-8, got byte 0xed at byte 1 of metadata 'k'"},
               // Quotes double in size, so that a short text makes a header over the limit.
               {{}, {{"k", std::string(50'000'000, '"')}}, "a header of at most 100000000 bytes, got"}};
  for (const auto& c : cases) {
    const std::string text = error_of([&] { write_safetensors(path, c.tensors, c.metadata); });
    check_contains(text, "[write_safetensors] expected ");
    check_contains(text, path);
    check_contains(text, c.part);
    CHECK(get(path) == "old");
    CHECK(folder.count() == 1);
  }
}

TEST_CASE("safetensors: paths that can't be written") {
  const TemporaryFolder folder;
  const auto error = [](const std::string& path) {
    return error_of([&] { write_safetensors(path, sample_tensors(), {}); });
  };
  check_contains(error(folder.file("absent/model")), "[write_safetensors] expected an existing folder");
  check_contains(error(folder.file(std::string("a\0b", 3))), "expected a path without NUL");
  check_contains(error(""), "[write_safetensors] expected a path that can be replaced, got ");
  CHECK(folder.count() == 0);
  fs::create_directory(folder.file("folder"));
  put(folder.file("folder/inside"), "kept");
  check_contains(error(folder.file("folder")), "expected a regular file to replace, got a directory");
  CHECK(get(folder.file("folder/inside")) == "kept");
#if !defined(_WIN32)
  REQUIRE(::mkfifo(folder.file("pipe").c_str(), 0600) == 0);
  check_contains(error(folder.file("pipe")), "expected a regular file to replace, got a pipe");
  check_contains(error(folder.file("folder/inside/model")), std::strerror(ENOTDIR));
  CHECK(folder.count() == 2);
#endif
}

#if !defined(_WIN32)

TEST_CASE("safetensors: a write that fails keeps the old file") {
  const TemporaryFolder folder;
  const std::string path = folder.file("model.safetensors");
  write_safetensors(path, sample_tensors(), {});
  const std::string old = get(path);
  const std::vector<float> large(1 << 16, 1.f);
  // Within the length, within the header, within the data, at its last byte.
  for (const rlim_t limit : {4u, 16u, 1000u, 100000u, (1u << 18) + 144u + 7u}) {
    INFO("limit ", limit);
    std::string text;
    {
      const FileSizeLimit guard(limit);
      text = error_of([&] { write_safetensors(path, {{"w", "F32", {1 << 16}, large.data()}}, {}); });
    }
    CHECK(text == "[write_safetensors] expected room for the file, got " + std::string(std::strerror(EFBIG)) +
                      " (" + path + ")");
    CHECK(get(path) == old);
    CHECK(folder.count() == 1);
  }
  {
    const FileSizeLimit guard((1u << 18) + 144u + 8u);
    write_safetensors(path, {{"w", "F32", {1 << 16}, large.data()}}, {});
  }
  CHECK(bytes_of(read_safetensors(path).tensors.at("w").bytes) == bytes_of(large));
}

TEST_CASE("safetensors: temporary files of others are left alone") {
  const TemporaryFolder folder;
  const std::string path = folder.file("model");
  // Room for the folder's descriptor and no other: the error tells the number that the file would have had.
  const std::string text = error_of([&] {
    const OneFileLeft guard;
    write_safetensors(path, {}, {});
  });
  const int next = std::stoi(text.substr(text.rfind('-') + 1)) + 1;
  std::vector<std::string> stale;
  for (int i = next; i < next + 3; ++i) {
    stale.push_back(
        folder.file(".evenflow-" + std::to_string(::getpid()) + "-" + std::to_string(i) + ".tmp"));
    put(stale.back(), "stale");
  }
  write_safetensors(path, sample_tensors(), {});
  CHECK(read_safetensors(path).tensors.size() == sample_tensors().size());
  for (const std::string& name : stale) CHECK(get(name) == "stale");
  CHECK(folder.count() == 4);
}

/// A folder in the place of /proc and /sys.
struct FakeRoot : TemporaryFolder {
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(file(name)).parent_path());
    put(file(name), text + "\n");
  }
  void write(const std::string& name, int64_t mib) const { write(name, std::to_string(mib << 20)); }
};

TEST_CASE("processors: those of the affinity, and what control groups of either version pay for") {
  const FakeRoot root;
  const int all = usable_processors(root.path);
  CHECK(all >= 1);
  root.write("proc/self/cgroup", "0::/job/step");
  root.write("sys/fs/cgroup/job/step/cpu.max", "max 100000");
  CHECK(usable_processors(root.path) == all);
  root.write("sys/fs/cgroup/job/cpu.max", "50000 100000");
  CHECK(usable_processors(root.path) == 1);
  root.write("sys/fs/cgroup/job/cpu.max", "150000 100000");
  CHECK(usable_processors(root.path) == std::min(all, 2));
  root.write("proc/self/cgroup", "5:cpu,cpuacct:/box");
  root.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
  root.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000");
  CHECK(usable_processors(root.path) == all);
  root.write("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "100000");
  root.write("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000");
  CHECK(usable_processors(root.path) == 1);
}

TEST_CASE("free memory: the machine's, and what control groups of either version leave") {
  const FakeRoot root;
  const auto left = [&] { return free_memory(root.path) >> 20; };
  CHECK(left() > 0);  // of the real machine
  root.write("proc/meminfo",
             "MemTotal:  9999999 kB\nMemFree:   1 kB\nMemAvailable:  1048576 kB\nCached:  7 kB");
  CHECK(left() == 1024);
  root.write("proc/self/cgroup", "0::/job/step");
  CHECK(left() == 1024);  // no such folder
  const std::string two = "sys/fs/cgroup/", job = two + "job/", one = two + "memory/";
  root.write(job + "step/memory.max", "max");
  root.write(job + "step/memory.current", 900);
  CHECK(left() == 1024);
  root.write(job + "memory.max", 1000);
  root.write(job + "memory.current", 700);
  CHECK(left() == 300);  // the group above has a limit
  root.write(job + "memory.stat", "anon 5\ninactive_file 104857600\nactive_file 52428800\nfile 1");
  CHECK(left() == 450);  // cached files can go
  root.write(job + "memory.high", 880);
  CHECK(left() == 330);
  root.write(job + "step/memory.max", 800);
  CHECK(left() == 0);
  root.write("proc/self/cgroup", "0::/another/path");  // of a container that sees its own group where all are
  root.write(two + "memory.max", 200);
  CHECK(left() == 200);

  root.write("proc/self/cgroup",
             "5:cpu,cpuacct:/\n4:hugetlb,memory:/job\n1:name=systemd:/memory\nno group\n0::/none");
  fs::remove(root.file(two + "memory.max"));
  root.write(one + "memory.limit_in_bytes", "9223372036854771712");
  root.write(one + "memory.usage_in_bytes", 90000);
  root.write(one + "job/memory.limit_in_bytes", 600);
  root.write(one + "job/memory.usage_in_bytes", 500);
  CHECK(left() == 100);
  root.write(one + "job/memory.stat",
             "active_file 1\ntotal_cache 2\ntotal_inactive_file 10485760\ntotal_active_file 20971520");
  CHECK(left() == 130);
  root.write(one + "job/memory.limit_in_bytes", "text");
  CHECK(left() == 1024);
}

#endif
