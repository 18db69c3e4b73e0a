#include <fcntl.h>
#include <io.h>
#include <sys/stat.h>
#define NOMINMAX
#include <windows.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/memory.hpp"
#include "io/file.hpp"

namespace evenflow {
namespace {

constexpr int64_t kMaxTransfer = int64_t{1} << 30;  // the C library counts with int

[[noreturn]] void reject_errno(const Site& site, const char* expected) {
  reject(site, "expected ", expected, ", got ", std::strerror(errno));
}

/// Paths are UTF-8, which the C library's narrow functions do not take.
std::wstring wide(const Site& site) {
  const std::string& path = site.path;
  if (path.find('\0') != std::string::npos) reject(site, "expected a path without NUL, got one");
  const int size = static_cast<int>(path.size());
  std::wstring text(path.size(), L'\0');
  const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path.data(), size, text.data(), size);
  if (length == 0 && size > 0) reject(site, "expected a path in UTF-8, got other bytes");
  text.resize(static_cast<size_t>(length));
  return text;
}

void check_regular(const Site& site, const char* expected, unsigned mode) {
  if ((mode & _S_IFMT) == _S_IFREG) return;
  reject(site, "expected ", expected, ", got ",
         (mode & _S_IFMT) == _S_IFDIR ? "a directory" : "a special file");
}

int open_input(const Site& site) {
  const std::wstring path = wide(site);
  // Directories cannot be opened, and a pipe would wait for its writer.
  struct __stat64 info = {};
  if (_wstat64(path.c_str(), &info) != 0) reject_errno(site, "a readable file");
  check_regular(site, "a regular file", info.st_mode);
  const int file = _wopen(path.c_str(), _O_RDONLY | _O_BINARY | _O_NOINHERIT);
  if (file < 0) reject_errno(site, "a readable file");
  return file;
}

/// Opens a new file in the path's folder and sets `name`.
int open_temporary(const Site& site, std::string& name) {
  static std::atomic<uint64_t> counter{0};
  struct __stat64 info = {};
  if (_wstat64(wide(site).c_str(), &info) == 0)
    check_regular(site, "a regular file to replace", info.st_mode);
  const std::string folder = site.path.substr(0, site.path.find_last_of("/\\:") + 1);
  // An earlier process with the same id may have left a file. Take the next free name, and never overwrite
  // one.
  for (;;) {
    name = folder + ".evenflow-" + std::to_string(GetCurrentProcessId()) + "-" + std::to_string(counter++) +
           ".tmp";
    const Site temporary{site.where, name};
    const int file = _wopen(wide(temporary).c_str(),
                            _O_WRONLY | _O_CREAT | _O_EXCL | _O_BINARY | _O_NOINHERIT, _S_IREAD | _S_IWRITE);
    if (file >= 0) return file;
    if (errno == ENOENT) reject_errno(site, "an existing folder for the file");
    if (errno != EEXIST) reject_errno(temporary, "a folder that takes a new file");
  }
}

}  // namespace

bool Descriptor::close() {
  const int value = std::exchange(value_, -1);
  return value < 0 || _close(value) == 0;
}

// The file is read: one that is mapped could not be replaced.
MappedFile::MappedFile(Site site) : site_(std::move(site)), file_(open_input(site_)) {
  bytes_.size = _filelengthi64(file_.get());
  if (bytes_.size < 0) reject_errno(site_, "a readable file");
  char* const data = static_cast<char*>(allocate(static_cast<size_t>(bytes_.size)));
  bytes_.data = data;
  for (int64_t at = 0; at < bytes_.size;) {
    const int done =
        _read(file_.get(), data + at, static_cast<unsigned>(std::min(bytes_.size - at, kMaxTransfer)));
    if (done <= 0) {
      const int error = errno;
      deallocate(data, static_cast<size_t>(bytes_.size));
      errno = error;
      if (done < 0) reject_errno(site_, "a readable file");
      reject(site_, "expected ", bytes_.size, " bytes, got ", at);
    }
    at += done;
  }
  file_.close();  // an open file could not be replaced either
}

MappedFile::~MappedFile() {
  deallocate(const_cast<char*>(bytes_.data), static_cast<size_t>(bytes_.size));
}

void MappedFile::check_length() const {}

ReplacementFile::ReplacementFile(Site site)
    : site_(std::move(site)), folder_(-1), file_(open_temporary(site_, temporary_)) {}

ReplacementFile::~ReplacementFile() {
  file_.close();  // an open file cannot be removed
  if (!temporary_.empty()) _wunlink(wide({site_.where, temporary_}).c_str());
}

void ReplacementFile::write(const void* data, int64_t count) {
  const char* from = static_cast<const char*>(data);
  while (count > 0) {
    const int done = _write(file_.get(), from, static_cast<unsigned>(std::min(count, kMaxTransfer)));
    if (done < 0) reject_errno(site_, "room for the file");
    if (done == 0) reject(site_, "expected room for ", count, " more bytes, got none");
    from += done;
    count -= done;
  }
}

void ReplacementFile::commit() {
  if (_commit(file_.get()) != 0 || !file_.close()) reject_errno(site_, "the file to reach the disk");
  const std::wstring from = wide({site_.where, temporary_}), to = wide(site_);
  if (!MoveFileExW(from.c_str(), to.c_str(), MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH)) {
    reject(site_, "expected a path that can be replaced, got error ", GetLastError(), " of Windows");
  }
  temporary_.clear();
}

}  // namespace evenflow
