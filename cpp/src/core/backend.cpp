#include <cstdlib>
#include <cstring>
#include <string>

#include "core/device.hpp"
#include "evenflow/error.hpp"
#include "evenflow/version.h"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

// A backend is a separate shared object, so one build of the library serves machines with and without the
// device. It is loaded, with its vendor's libraries, only when a context asks for the device.

namespace evenflow {
namespace {

const Backend* installed = nullptr;

#if defined(_WIN32)

const Backend* load_cuda() {
  fail<DeviceError>("context", "expected device cpu, got cuda, which evenflow supports on Linux only");
}

#else

/// The folder of the file that holds this code: the Python module, the shared library or the program.
std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&find_backend), &info) || !info.dli_fname) return "";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "" : file.substr(0, slash + 1);
}

/// Opens the library that EVENFLOW_CUDA_LIBRARY names; else the one beside this code, or the one that the
/// loader finds.
void* open_library(const char* file, std::string& problem) {
  const char* chosen = std::getenv("EVENFLOW_CUDA_LIBRARY");
  if (chosen && !*chosen) chosen = nullptr;
  std::string candidates[2] = {chosen ? chosen : own_folder() + file, chosen ? "" : file};
  for (const std::string& path : candidates) {
    if (path.empty()) continue;
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    const char* error = dlerror();
    problem += (problem.empty() ? "" : "; ") + std::string(error ? error : path);
  }
  return nullptr;
}

const Backend* load_cuda() {
  using Entry = const Backend* (*)(int);
  const char* file = "libevenflow_cuda.so";
  std::string problem;
  void* library = open_library(file, problem);
  if (!library) {
    fail<DeviceError>("context", "expected ", file, " for device cuda, got none that loads (", problem,
                      "); pip install \"evenflow[cuda]\", or name the file in EVENFLOW_CUDA_LIBRARY");
  }
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "evenflow_cuda_backend"));
  const Backend* backend = entry ? entry(Backend::kAbi) : nullptr;
  if (!backend || backend->abi != Backend::kAbi || std::strcmp(backend->version, EVENFLOW_VERSION) != 0) {
    fail<DeviceError>("context", "expected ", file, " of version ", EVENFLOW_VERSION, ", got ",
                      backend ? backend->version : "another kind of library");
  }
  return backend;
}

#endif

}  // namespace

const Backend* find_backend(const char* name) {
  if (std::strcmp(name, "cpu") == 0) return nullptr;
  if (installed && std::strcmp(name, installed->name) == 0) return installed;
  if (std::strcmp(name, "cuda") != 0) {
    fail<DeviceError>("context", "expected device cpu or cuda, got ", name);
  }
  static const Backend* const cuda = load_cuda();  // tried again after a failure
  return cuda;
}

void install_backend(const Backend* backend) {
  installed = backend;
}

}  // namespace evenflow
