#pragma once

#include <cstdint>
#include <new>
#include <string>

#include "evenflow/error.hpp"

namespace evenflow {

/// The call and the file that an error text names.
struct Site {
  std::string where;
  std::string path;
};

/// Throws IoError "[where] part part ... (path)".
template <class... Parts>
[[noreturn]] void reject(const Site& site, const Parts&... parts) {
  fail<IoError>(site.where, parts..., " (", site.path, ")");
}

/// Returns f(); IoError where that throws std::bad_alloc. purpose: what the memory is for.
template <class F>
auto with_memory(const Site& site, const char* purpose, const F& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    reject(site, "expected memory for ", purpose, ", got none");
  }
}

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return value_; }
  bool close();

 private:
  int value_;
};

/// Bytes that this struct does not own.
struct Bytes {
  const char* data = nullptr;
  int64_t size = 0;
};

/// A regular file, mapped into memory. IoError on every failure, except std::bad_alloc if there is no address
/// space for it.
///
/// While mapped, the file may be replaced, as ReplacementFile does, but not truncated: reading beyond its new
/// end raises SIGBUS.
class MappedFile {
 public:
  explicit MappedFile(Site site);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  Bytes bytes() const { return bytes_; }
  /// IoError if the file's length has changed since it was mapped.
  void check_length() const;

 private:
  Site site_;
  Descriptor file_;
  Bytes bytes_;
};

/// Writes a file atomically: under a temporary name in the same folder, renamed by commit(). IoError on every
/// failure. Without commit() the destructor removes the temporary file.
class ReplacementFile {
 public:
  explicit ReplacementFile(Site site);
  ~ReplacementFile();
  ReplacementFile(const ReplacementFile&) = delete;
  ReplacementFile& operator=(const ReplacementFile&) = delete;

  void write(const void* data, int64_t count);
  void commit();

 private:
  Site site_;
  Descriptor folder_;
  std::string temporary_;
  Descriptor file_;
};

}  // namespace evenflow
