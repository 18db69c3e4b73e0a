#pragma once

#include <cstdint>
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

/// Bytes that somebody else holds.
struct Bytes {
  const char* data = nullptr;
  int64_t size = 0;
};

/// A regular file, mapped into memory. Every failure is an IoError, but std::bad_alloc where there is no room
/// to map it.
///
/// The file may be replaced meanwhile, as ReplacementFile does, but not cut short: reading past its new end
/// is the signal SIGBUS.
class MappedFile {
 public:
  explicit MappedFile(Site site);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  Bytes bytes() const { return bytes_; }
  /// IoError if the file is no longer as long as when it was mapped.
  void check_length() const;

 private:
  Site site_;
  Descriptor file_;
  Bytes bytes_;
};

/// A file that appears under its name complete or not at all: written under a temporary name in the same
/// folder, then renamed. Every failure is an IoError; without commit() the destructor removes it.
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
