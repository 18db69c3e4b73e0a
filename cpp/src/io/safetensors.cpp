#include "io/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
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
constexpr const char* kOurKeys = "evenflow";  // how the keys of metadata begin that we alone write
constexpr const char* kChecksumKey = "evenflow.crc32";
/// The checksum of the header's other entries, which the metadata hold, and so the other checksum covers.
constexpr const char* kTensorsKey = "evenflow.tensors";

/// Of the data and then texts, such as the metadata, ordered by key, with a NUL after each key and text.
std::string checksum(const std::vector<Bytes>& data, const std::map<std::string, std::string>& texts) {
  uint32_t crc = 0;
  for (const Bytes& bytes : data) crc = crc32(bytes.data, static_cast<size_t>(bytes.size), crc);
  for (const auto& [key, text] : texts) {
    crc = crc32(key.c_str(), key.size() + 1, crc);
    crc = crc32(text.c_str(), text.size() + 1, crc);
  }
  std::string out;
  for (int shift = 28; shift >= 0; shift -= 4) out += "0123456789abcdef"[crc >> shift & 15];
  return out;
}

/// What the header says of a tensor.
std::string entry_of(const std::string& dtype, const std::vector<int64_t>& shape, int64_t begin,
                     int64_t bytes) {
  std::string sizes;
  for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
  return "{\"dtype\":\"" + dtype + "\",\"shape\":[" + sizes + "],\"data_offsets\":[" + std::to_string(begin) +
         "," + std::to_string(begin + bytes) + "]}";
}

template <class... Parts>
[[noreturn]] void reject_tensor(const Site& site, const std::string& name, const Parts&... parts) {
  reject(site, parts..., " in tensor ", json::shown(name));
}

/// Size in bytes of a tensor of this type and shape; IoError if they are invalid.
int64_t tensor_bytes(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
                     const Site& site) {
  int64_t bytes = dtype == "F32" ? 4 : 8;
  if (dtype != "F32" && dtype != "F64" && dtype != "I64") {
    reject_tensor(site, name, "expected dtype F32, F64 or I64, got ", json::shown(dtype));
  }
  if (shape.size() > kMaxRank) {
    reject_tensor(site, name, "expected at most ", kMaxRank, " dimensions, got ", shape.size());
  }
  // Leave zeros out of the product, so that they can't hide an overflow.
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) reject_tensor(site, name, "expected dimensions of at least 0, got ", size);
    if (size == 0) {
      empty = true;
    } else if (bytes > kMaxBytes / size) {
      reject_tensor(site, name, "expected a shape that fits 64 bits, got an overflow");
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
    reject_tensor(site, name, "expected ", kind, " '", key, "', got ", item ? "another type" : "none");
  }
  return *item->get<T>();
}

std::vector<int64_t> integers(const std::string& name, const json::Value& entry, const char* key,
                              const Site& site) {
  std::vector<int64_t> out;
  for (const json::Value& item : member<json::Array>(name, entry, key, "a list", site)) {
    const int64_t* number = item.get<int64_t>();
    if (number == nullptr || *number < 0) {
      reject_tensor(site, name, "expected integers of at least 0 in '", key, "', got ",
                    number ? std::to_string(*number) : "another value");
    }
    out.push_back(*number);
  }
  return out;
}

TensorView parse_tensor(const std::string& name, const json::Value& value, Bytes data, const Site& site) {
  TensorView tensor;
  tensor.dtype = member<std::string>(name, value, "dtype", "a string", site);
  tensor.shape = integers(name, value, "shape", site);
  const std::vector<int64_t> offsets = integers(name, value, "data_offsets", site);
  const size_t members = value.get<json::Object>()->size();
  if (members != 3) {
    reject_tensor(site, name, "expected dtype, shape and data_offsets alone, got ", members, " members");
  }
  if (offsets.size() != 2) reject_tensor(site, name, "expected 2 data_offsets, got ", offsets.size());
  const int64_t begin = offsets[0], end = offsets[1];
  if (begin > end || end > data.size) {
    reject(site, "expected ordered data_offsets within ", data.size, " bytes of data, got [", begin, ", ",
           end, "] in tensor ", json::shown(name), "; the file is cut short or damaged");
  }
  tensor.data = data.data + begin;
  tensor.bytes = end - begin;
  const int64_t bytes = tensor_bytes(name, tensor.dtype, tensor.shape, site);
  if (tensor.bytes != bytes) {
    reject_tensor(site, name, "expected ", bytes, " bytes of data for its shape, got ", tensor.bytes);
  }
  return tensor;
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

/// Checks that the tensors cover every byte of the data exactly once.
void check_coverage(const std::map<std::string, TensorView>& tensors, Bytes data, const Site& site) {
  using Item = const std::pair<const std::string, TensorView>*;
  std::vector<Item> items;
  for (const auto& item : tensors) items.push_back(&item);
  std::sort(items.begin(), items.end(), [](Item a, Item b) {
    return std::pair(a->second.data, a->second.bytes) < std::pair(b->second.data, b->second.bytes);
  });
  int64_t covered = 0;
  for (const Item item : items) {
    const int64_t begin = item->second.data - data.data;
    if (begin != covered) {
      reject(site, "expected data of tensor ", json::shown(item->first), " at offset ", covered, ", got ",
             begin);
    }
    covered += item->second.bytes;
  }
  if (covered != data.size) reject(site, "expected ", covered, " bytes of data, got ", data.size);
}

/// Removes the checksums from the metadata and, where there are some, compares them with the file's content.
/// Only files of other programs may be without: a damaged key must not turn the check off.
void check_sums(TensorViews& views, Bytes data, const Site& site) {
  const auto ours = views.metadata.lower_bound(kOurKeys);
  if (ours != views.metadata.end() && ours->first.rfind(kOurKeys, 0) == 0 &&
      !views.metadata.count(kChecksumKey)) {
    reject(site, "expected metadata '", kChecksumKey, "' beside ", json::shown(ours->first),
           ", got none: the file is damaged");
  }
  const auto compare = [&](const char* key, const char* what, const std::vector<Bytes>& bytes,
                           const auto& texts) {
    const auto stored = views.metadata.extract(key);
    if (!stored) return;
    const std::string sum = checksum(bytes, texts());
    if (sum != stored.mapped()) {
      reject(site, "expected ", what, " of checksum ", json::shown(stored.mapped()), ", got '", sum,
             "': the file is damaged");
    }
  };
  compare(kChecksumKey, "data and metadata", {data}, [&] { return views.metadata; });
  compare(kTensorsKey, "names, types and places of tensors", {}, [&] {
    std::map<std::string, std::string> entries;
    for (const auto& [name, tensor] : views.tensors) {
      entries[name] = entry_of(tensor.dtype, tensor.shape, tensor.data - data.data, tensor.bytes);
    }
    return entries;
  });
}

}  // namespace

TensorViews view_safetensors(Bytes file, const Site& site) {
  const std::string_view header = header_of(file, site);
  const Bytes data{header.data() + header.size(),
                   file.size - kPrefixBytes - static_cast<int64_t>(header.size())};
  const json::Value root = json::parse(header, site.where, "the header (" + site.path + ")");

  TensorViews out;
  for (const auto& [name, value] : *root.get<json::Object>()) {
    if (name == kMetadataKey) {
      out.metadata = parse_metadata(value, site);
    } else {
      out.tensors.emplace(name, parse_tensor(name, value, data, site));
    }
  }
  check_coverage(out.tensors, data, site);
  check_sums(out, data, site);
  return out;
}

TensorFile read_safetensors(const std::string& path) {
  const Site site{"read_safetensors", path};
  return with_memory(site, "the file", [&] {
    const MappedFile file(site);
    TensorViews views = view_safetensors(file.bytes(), site);
    TensorFile out;
    out.metadata = std::move(views.metadata);
    for (auto& [name, tensor] : views.tensors) {
      out.tensors[name] = {tensor.dtype, tensor.shape, {tensor.data, tensor.data + tensor.bytes}};
    }
    file.check_length();
    return out;
  });
}

void write_safetensors(const Site& site, const std::vector<TensorRef>& tensors,
                       std::map<std::string, std::string> metadata) {
  const auto quote = [&](const std::string& text, const std::string& source) {
    return json::quote(text, site.where, source + " (" + site.path + ")");
  };
  std::set<std::string_view> names = {kMetadataKey};
  std::vector<Bytes> data;
  std::string entries;
  std::map<std::string, std::string> by_name;
  int64_t offset = 0;
  for (const TensorRef& tensor : tensors) {
    const std::string label = json::shown(tensor.name);
    if (!names.insert(tensor.name).second)
      reject(site, "expected unique tensor names, got ", label, " again");
    const int64_t bytes = tensor_bytes(tensor.name, tensor.dtype, tensor.shape, site);
    if (bytes > 0 && tensor.data == nullptr) reject(site, "expected data, got none in tensor ", label);
    if (bytes > kMaxBytes - offset)
      reject(site, "expected data that fits 64 bits, got more with tensor ", label);
    const std::string entry = entry_of(tensor.dtype, tensor.shape, offset, bytes);
    entries += "," + quote(tensor.name, "a tensor name") + ":" + entry;
    by_name[tensor.name] = entry;
    offset += bytes;
    data.push_back({static_cast<const char*>(tensor.data), bytes});
  }
  const auto add = [&](const char* key, const std::string& sum) {
    if (metadata.emplace(key, sum).second) return;
    reject(site, "expected metadata without '", key, "', which is the writer's, got it");
  };
  add(kTensorsKey, checksum({}, by_name));
  add(kChecksumKey, checksum(data, metadata));
  std::string header;
  for (const auto& [key, text] : metadata) {
    header += header.empty() ? "{\"" + std::string(kMetadataKey) + "\":{" : ",";
    header += quote(key, "a metadata key") + ":" + quote(text, "metadata " + json::shown(key));
  }
  header += "}" + entries + "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  if (length > static_cast<uint64_t>(kMaxHeader)) {
    reject(site, "expected a header of at most ", kMaxHeader, " bytes, got ", length);
  }
  ReplacementFile file(site);
  file.write(&length, kPrefixBytes);
  file.write(header.data(), static_cast<int64_t>(length));
  for (const Bytes& bytes : data) file.write(bytes.data, bytes.size);
  file.commit();
}

void write_safetensors(const std::string& path, const std::vector<TensorRef>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const Site site{"write_safetensors", path};
  with_memory(site, "the file's header", [&] { write_safetensors(site, tensors, metadata); });
}

}  // namespace evenflow
