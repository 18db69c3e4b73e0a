#include "io/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <set>
#include <string_view>
#include <utility>

#include "io/crc32.hpp"
#include "io/json.hpp"

// A safetensors file has 8 bytes with the header's length N, little-endian; N bytes with a JSON object
// {"name": {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, ..., "__metadata__": {"key":
// "text"}}; and the data, without holes. Offsets count from the end of the header. docs/format.md describes
// our additions.

namespace evenflow {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file's numbers are copied as they are");

constexpr int64_t kPrefixBytes = 8;
constexpr int64_t kMaxHeader = 100'000'000;
constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max() - kMaxHeader - kPrefixBytes;
constexpr size_t kMaxRank = 32;
constexpr const char* kMetadataKey = "__metadata__";
constexpr const char* kChecksumKey = "evenflow.crc32";

struct Entry {
  std::string name;
  TensorView tensor;
  int64_t begin = 0, end = 0;
};

/// The checksum covers the data and then the other metadata, ordered by key, with a NUL after each key and
/// value.
class Checksum {
 public:
  void add(const void* data, int64_t size) { crc_ = crc32(data, static_cast<size_t>(size), crc_); }
  void add(const std::map<std::string, std::string>& metadata) {
    for (const auto& [key, text] : metadata) {
      crc_ = crc32(key.c_str(), key.size() + 1, crc_);
      crc_ = crc32(text.c_str(), text.size() + 1, crc_);
    }
  }
  std::string text() const {
    std::string out;
    for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[crc_ >> shift & 15];
    return out;
  }

 private:
  uint32_t crc_ = 0;
};

int64_t item_bytes(const std::string& dtype) {
  if (dtype == "F32") return 4;
  return dtype == "F64" || dtype == "I64" ? 8 : 0;
}

/// Size in bytes of a tensor of this type and shape; IoError if they are invalid.
int64_t tensor_bytes(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
                     const Site& site) {
  int64_t bytes = item_bytes(dtype);
  if (bytes == 0) {
    reject(site, "expected dtype F32, F64 or I64, got ", json::shown(dtype), " in tensor ",
           json::shown(name));
  }
  if (shape.size() > kMaxRank) {
    reject(site, "expected at most ", kMaxRank, " dimensions, got ", shape.size(), " in tensor ",
           json::shown(name));
  }
  // Leave zeros out of the product, so that they can't hide an overflow.
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) {
      reject(site, "expected dimensions of at least 0, got ", size, " in tensor ", json::shown(name));
    }
    if (size == 0) {
      empty = true;
    } else if (bytes > kMaxBytes / size) {
      reject(site, "expected a shape that fits 64 bits, got an overflow in tensor ", json::shown(name));
    } else {
      bytes *= size;
    }
  }
  return empty ? 0 : bytes;
}

std::string_view header_of(Bytes file, const Site& site) {
  if (file.size < kPrefixBytes) {
    reject(site, "expected a safetensors file of at least ", kPrefixBytes, " bytes, got ", file.size,
           "; the file is cut short, or not a model file");
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data, kPrefixBytes);
  const int64_t longest = std::min(file.size - kPrefixBytes, kMaxHeader);
  if (length > static_cast<uint64_t>(longest)) {
    reject(site, "expected a header of at most ", longest, " bytes, got ", length,
           "; the file is cut short, or not a model file");
  }
  const std::string_view header(file.data + kPrefixBytes, static_cast<size_t>(length));
  if (header.empty() || header[0] != '{') {
    reject(site, "expected a header that begins with '{', got ", json::shown(header.substr(0, 1)));
  }
  return header;
}

/// The member `key` of a tensor's entry, as a T.
template <class T>
const T& member(const std::string& name, const json::Value& entry, const char* key, const char* kind,
                const Site& site) {
  const json::Value* item = entry.find(key);
  if (item == nullptr || item->get<T>() == nullptr) {
    reject(site, "expected ", kind, " '", key, "', got ", item ? "another type" : "none", " in tensor ",
           json::shown(name));
  }
  return *item->get<T>();
}

std::vector<int64_t> integers(const std::string& name, const json::Value& entry, const char* key,
                              const Site& site) {
  std::vector<int64_t> out;
  for (const json::Value& item : member<json::Array>(name, entry, key, "a list", site)) {
    const int64_t* number = item.get<int64_t>();
    if (number == nullptr || *number < 0) {
      reject(site, "expected integers of at least 0 in '", key, "', got ",
             number ? std::to_string(*number) : "another value", " in tensor ", json::shown(name));
    }
    out.push_back(*number);
  }
  return out;
}

Entry parse_entry(const std::string& name, const json::Value& value, int64_t data_bytes, const Site& site) {
  Entry entry;
  entry.name = name;
  entry.tensor.dtype = member<std::string>(name, value, "dtype", "a string", site);
  entry.tensor.shape = integers(name, value, "shape", site);
  const std::vector<int64_t> offsets = integers(name, value, "data_offsets", site);
  if (value.get<json::Object>()->size() != 3) {
    reject(site, "expected dtype, shape and data_offsets alone, got ", value.get<json::Object>()->size(),
           " members in tensor ", json::shown(name));
  }
  if (offsets.size() != 2) {
    reject(site, "expected 2 data_offsets, got ", offsets.size(), " in tensor ", json::shown(name));
  }
  entry.begin = offsets[0];
  entry.end = offsets[1];
  if (entry.begin > entry.end || entry.end > data_bytes) {
    reject(site, "expected ordered data_offsets within ", data_bytes, " bytes of data, got [", entry.begin,
           ", ", entry.end, "] in tensor ", json::shown(name), "; the file is cut short or damaged");
  }
  const int64_t bytes = tensor_bytes(name, entry.tensor.dtype, entry.tensor.shape, site);
  if (entry.end - entry.begin != bytes) {
    reject(site, "expected ", bytes, " bytes of data for its shape, got ", entry.end - entry.begin,
           " in tensor ", json::shown(name));
  }
  return entry;
}

std::map<std::string, std::string> parse_metadata(const json::Value& value, const Site& site) {
  const auto* members = value.get<json::Object>();
  if (members == nullptr) reject(site, "expected an object '", kMetadataKey, "', got another type");
  std::map<std::string, std::string> out;
  for (const auto& [key, item] : *members) {
    const auto* text = item.get<std::string>();
    if (text == nullptr) {
      reject(site, "expected strings in '", kMetadataKey, "', got another type for ", json::shown(key));
    }
    out.emplace(key, *text);
  }
  return out;
}

/// Sorts the entries by offset and checks that they cover every byte of the data exactly once.
void check_coverage(std::vector<Entry>& entries, int64_t data_bytes, const Site& site) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t covered = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != covered) {
      reject(site, "expected data of tensor ", json::shown(entry.name), " at offset ", covered, ", got ",
             entry.begin);
    }
    covered = entry.end;
  }
  if (covered != data_bytes) reject(site, "expected ", covered, " bytes of data, got ", data_bytes);
}

/// Removes the checksum from the metadata and, if there is one, compares it with the file's content.
void check_sum(std::map<std::string, std::string>& metadata, const char* data, int64_t data_bytes,
               const Site& site) {
  const auto found = metadata.find(kChecksumKey);
  if (found == metadata.end()) return;
  const std::string stored_sum = found->second;
  metadata.erase(found);
  Checksum sum;
  sum.add(data, data_bytes);
  sum.add(metadata);
  if (sum.text() != stored_sum) {
    reject(site, "expected data and metadata of checksum ", json::shown(stored_sum), ", got '", sum.text(),
           "': the file is damaged");
  }
}

std::string checksum_of(const std::vector<TensorRef>& tensors,
                        const std::map<std::string, std::string>& metadata, const Site& site) {
  Checksum sum;
  for (const TensorRef& tensor : tensors) {
    sum.add(tensor.data, tensor_bytes(tensor.name, tensor.dtype, tensor.shape, site));
  }
  sum.add(metadata);
  return sum.text();
}

/// Also checks the arguments. The header's length does not depend on the checksum's value.
std::string make_header(const std::vector<TensorRef>& tensors,
                        const std::map<std::string, std::string>& metadata, const Site& site) {
  const auto quote = [&](const std::string& text, const std::string& source) {
    return json::quote(text, site.where, source + " (" + site.path + ")");
  };
  std::string header;
  for (const auto& [key, text] : metadata) {
    header += header.empty() ? "{\"" + std::string(kMetadataKey) + "\":{" : ",";
    header += quote(key, "a metadata key") + ":" + quote(text, "metadata " + json::shown(key));
  }
  header += metadata.empty() ? "{" : "}";

  std::set<std::string_view> names = {kMetadataKey};
  int64_t offset = 0;
  for (const TensorRef& tensor : tensors) {
    const std::string label = json::shown(tensor.name);
    if (!names.insert(tensor.name).second)
      reject(site, "expected unique tensor names, got ", label, " again");
    const int64_t bytes = tensor_bytes(tensor.name, tensor.dtype, tensor.shape, site);
    if (bytes > 0 && tensor.data == nullptr) reject(site, "expected data, got none in tensor ", label);
    if (bytes > kMaxBytes - offset)
      reject(site, "expected data that fits 64 bits, got more with tensor ", label);
    std::string shape;
    for (const int64_t size : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(size);
    header += (header.size() > 1 ? "," : "") + quote(tensor.name, "a tensor name") + ":{\"dtype\":\"" +
              tensor.dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(offset) +
              "," + std::to_string(offset + bytes) + "]}";
    offset += bytes;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > static_cast<size_t>(kMaxHeader)) {
    reject(site, "expected a header of at most ", kMaxHeader, " bytes, got ", header.size());
  }
  return header;
}

}  // namespace

TensorViews view_safetensors(Bytes file, const Site& site) {
  const std::string_view header = header_of(file, site);
  const char* data = header.data() + header.size();
  const int64_t data_bytes = file.size - kPrefixBytes - static_cast<int64_t>(header.size());
  const json::Value root = json::parse(header, site.where, "the header (" + site.path + ")");

  TensorViews out;
  std::vector<Entry> entries;
  for (const auto& [name, value] : *root.get<json::Object>()) {
    if (name == kMetadataKey) {
      out.metadata = parse_metadata(value, site);
    } else {
      entries.push_back(parse_entry(name, value, data_bytes, site));
    }
  }
  check_coverage(entries, data_bytes, site);
  check_sum(out.metadata, data, data_bytes, site);
  for (Entry& entry : entries) {
    entry.tensor.data = data + entry.begin;
    entry.tensor.bytes = entry.end - entry.begin;
    out.tensors.emplace(std::move(entry.name), std::move(entry.tensor));
  }
  return out;
}

TensorFile read_safetensors(const std::string& path) {
  const Site site{"read_safetensors", path};
  try {
    const MappedFile file(site);
    TensorViews views = view_safetensors(file.bytes(), site);
    TensorFile out;
    out.metadata = std::move(views.metadata);
    for (auto& [name, tensor] : views.tensors) {
      out.tensors[name] = {tensor.dtype, tensor.shape, {tensor.data, tensor.data + tensor.bytes}};
    }
    file.check_length();
    return out;
  } catch (const std::bad_alloc&) {
    reject(site, "expected memory for the file, got none");
  }
}

void write_safetensors(const std::string& path, const std::vector<TensorRef>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const Site site{"write_safetensors", path};
  try {
    if (metadata.count(kChecksumKey)) {
      reject(site, "expected metadata without '", kChecksumKey, "', which is the writer's, got it");
    }
    std::map<std::string, std::string> all = metadata;
    all[kChecksumKey] = "00000000";
    make_header(tensors, all, site);  // check the arguments before reading the data
    all[kChecksumKey] = checksum_of(tensors, metadata, site);
    const std::string header = make_header(tensors, all, site);
    const uint64_t length = header.size();
    ReplacementFile file(site);
    file.write(&length, kPrefixBytes);
    file.write(header.data(), static_cast<int64_t>(length));
    for (const TensorRef& tensor : tensors) {
      file.write(tensor.data, tensor_bytes(tensor.name, tensor.dtype, tensor.shape, site));
    }
    file.commit();
  } catch (const std::bad_alloc&) {
    reject(site, "expected memory for the file's header, got none");
  }
}

}  // namespace evenflow
