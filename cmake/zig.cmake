# Zig's Clang as a cross compiler, for a target such as x86_64-windows-gnu or aarch64-macos.11.0:
#
#   pip install ziglang
#   cmake -S . -B build/windows -G Ninja --toolchain cmake/zig.cmake -DEVENFLOW_TARGET=x86_64-windows-gnu

if(EVENFLOW_TARGET MATCHES "windows")
  set(CMAKE_SYSTEM_NAME Windows)
elseif(EVENFLOW_TARGET MATCHES "macos")
  set(CMAKE_SYSTEM_NAME Darwin)
else()
  message(FATAL_ERROR "EVENFLOW_TARGET: expected x86_64-windows-gnu or aarch64-macos.11.0, got \"${EVENFLOW_TARGET}\"")
endif()
string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR "${EVENFLOW_TARGET}")

# CMake wants a program for each tool.
foreach(tool c++ ar ranlib)
  set(target)
  if(tool STREQUAL "c++")
    set(target "-target ${EVENFLOW_TARGET}")
  endif()
  set(file ${CMAKE_BINARY_DIR}/zig-${tool})
  if(NOT EXISTS ${file})
    file(WRITE ${file} "#!/bin/sh\nexec python3 -m ziglang ${tool} ${target} \"$@\"\n")
    execute_process(COMMAND chmod +x ${file})
  endif()
endforeach()
set(CMAKE_CXX_COMPILER ${CMAKE_BINARY_DIR}/zig-c++)
set(CMAKE_AR ${CMAKE_BINARY_DIR}/zig-ar)
set(CMAKE_RANLIB ${CMAKE_BINARY_DIR}/zig-ranlib)
# A try of the compiler is another project, which reads this file too.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EVENFLOW_TARGET)
set(CMAKE_TRY_COMPILE_CONFIGURATION Release)  # Zig compiles the C++ library for each set of options
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
