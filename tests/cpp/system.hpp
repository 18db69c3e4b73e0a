#pragma once

// What tests ask of the system. POSIX names it; Windows has some of it by other names.

#if defined(_WIN32)

#include <io.h>
#include <process.h>
#include <stdlib.h>

inline int setenv(const char* name, const char* value, int) {
  return _putenv_s(name, value);
}
inline int unsetenv(const char* name) {
  return _putenv_s(name, "");
}

#else

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#endif
