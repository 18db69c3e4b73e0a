#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

#include "io/file.hpp"

namespace evenflow {
namespace {

// Some systems refuse a single transfer of 2 GiB or more.
constexpr int64_t kMaxTransfer = int64_t{1} << 30;

[[noreturn]] void reject_errno(const Site& site, const char* expected) {
  reject(site, "expected ", expected, ", got ", std::strerror(errno));
}

const char* kind(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a pipe";
  return "a special file";
}

int open_input(const Site& site) {
  // A NUL would silently cut the name short.
  if (site.path.find('\0') != std::string::npos) reject(site, "expected a path without NUL, got one");
  // O_NONBLOCK: opening a pipe must not wait for its writer; regular files ignore it.
  const int file = ::open(site.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) reject_errno(site, "a readable file");
  return file;
}

/// The path's folder with its slash; empty for the working directory.
std::string folder_of(const std::string& path) {
  return path.substr(0, path.rfind('/') + 1);
}

int open_folder(const Site& site) {
  if (site.path.find('\0') != std::string::npos) reject(site, "expected a path without NUL, got one");
  // The rename would replace a device or a pipe as readily as a file.
  struct stat info = {};
  if (::stat(site.path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    reject(site, "expected a regular file to replace, got ", kind(info.st_mode));
  }
  const std::string folder = folder_of(site.path);
  const int file = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  if (file < 0) reject_errno(site, "an existing folder for the file");
  return file;
}

/// Opens a new file in the path's folder and sets `name`. The name is not derived from the path's, which may
/// be as long as the system allows.
int open_temporary(const Site& site, std::string& name) {
  static std::atomic<uint64_t> counter{0};
  // An earlier process with the same id may have left a file. Take the next free name, and never overwrite
  // one.
  for (;;) {
    name = folder_of(site.path) + ".evenflow-" + std::to_string(::getpid()) + "-" +
           std::to_string(counter++) + ".tmp";
    const int file = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file >= 0) return file;
    if (errno != EEXIST && errno != EINTR) reject_errno({site.where, name}, "a folder that takes a new file");
  }
}

}  // namespace

bool Descriptor::close() {
  const int value = std::exchange(value_, -1);
  // After EINTR the descriptor is gone on Linux; a second close could hit another thread's file.
  return value < 0 || ::close(value) == 0 || errno == EINTR;
}

MappedFile::MappedFile(Site site) : site_(std::move(site)), file_(open_input(site_)) {
  struct stat info = {};
  if (::fstat(file_.get(), &info) != 0) reject_errno(site_, "a readable file");
  if (!S_ISREG(info.st_mode)) reject(site_, "expected a regular file, got ", kind(info.st_mode));
  bytes_.size = info.st_size;
  if (bytes_.size == 0) return;  // nothing to map
  void* data = ::mmap(nullptr, static_cast<size_t>(bytes_.size), PROT_READ, MAP_PRIVATE, file_.get(), 0);
  if (data == MAP_FAILED && errno == ENOMEM) throw std::bad_alloc();
  if (data == MAP_FAILED) reject_errno(site_, "a file that can be mapped into memory");
  bytes_.data = static_cast<const char*>(data);
}

MappedFile::~MappedFile() {
  if (bytes_.data) ::munmap(const_cast<char*>(bytes_.data), static_cast<size_t>(bytes_.size));
}

void MappedFile::check_length() const {
  struct stat info = {};
  if (::fstat(file_.get(), &info) != 0) reject_errno(site_, "a readable file");
  if (info.st_size != bytes_.size) {
    reject(site_, "expected a file that stays as it is while it is read, got ", info.st_size,
           " bytes instead of ", bytes_.size);
  }
}

ReplacementFile::ReplacementFile(Site site)
    : site_(std::move(site)), folder_(open_folder(site_)), file_(open_temporary(site_, temporary_)) {}

ReplacementFile::~ReplacementFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void ReplacementFile::write(const void* data, int64_t count) {
  const char* from = static_cast<const char*>(data);
  while (count > 0) {
    const auto want = static_cast<size_t>(std::min(count, kMaxTransfer));
    const ssize_t done = ::write(file_.get(), from, want);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) reject_errno(site_, "room for the file");
    if (done == 0) reject(site_, "expected room for ", count, " more bytes, got none");
    from += done;
    count -= done;
  }
}

void ReplacementFile::commit() {
  int synced;
  do {
    synced = ::fsync(file_.get());
  } while (synced != 0 && errno == EINTR);
  if (synced != 0 || !file_.close()) reject_errno(site_, "the file to reach the disk");
  if (::rename(temporary_.c_str(), site_.path.c_str()) != 0)
    reject_errno(site_, "a path that can be replaced");
  temporary_.clear();
  // The file is complete under its name. This sync makes the rename survive a power cut, if the file system
  // supports it. Its failure is ignored: at worst the old file comes back, complete.
  static_cast<void>(::fsync(folder_.get()));
}

}  // namespace evenflow
