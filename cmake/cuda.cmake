# libevenflow_cuda.so: the kernels for GPUs, found and loaded by the library when a context asks for them;
# docs/cuda.md. It holds CUDA's runtime and its own copies of what it needs of the library; it offers its entry, and
# the library's errors, which it throws.

# nvcc: CUDACXX, or that on the PATH, in the toolkit's folder, or of NVIDIA's packages in the Python that builds.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(CMAKE_CUDA_COMPILER nvcc PATHS ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT CMAKE_CUDA_COMPILER)
    find_package(Python QUIET COMPONENTS Interpreter)
  endif()
  if(NOT CMAKE_CUDA_COMPILER AND Python_FOUND)
    execute_process(COMMAND ${Python_EXECUTABLE} -c "import nvidia; print(*nvidia.__path__, sep=';', end='')"
                    OUTPUT_VARIABLE packages ERROR_QUIET)
    find_program(CMAKE_CUDA_COMPILER nvcc PATHS ${packages} PATH_SUFFIXES cu13/bin NO_DEFAULT_PATH)
  endif()
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "EVENFLOW_CUDA: expected nvcc, got none; install NVIDIA's CUDA toolkit, 12.0 or newer, and have its "
                        "nvcc on the PATH or named in CUDACXX, or pip install \"cuda-toolkit[nvcc]>=13\"")
  endif()
endif()
# The Python packages have the runtime in lib, where the nvcc of those before 13.2 does not look.
get_filename_component(toolkit "${CMAKE_CUDA_COMPILER}" DIRECTORY)
get_filename_component(toolkit "${toolkit}" DIRECTORY)
if(EXISTS "${toolkit}/lib/libcudart_static.a" AND NOT EXISTS "${toolkit}/lib64")
  set(ENV{NVCC_APPEND_FLAGS} "$ENV{NVCC_APPEND_FLAGS} -L${toolkit}/lib")  # CMake keeps what nvcc links with
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA" OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
  message(FATAL_ERROR "EVENFLOW_CUDA: expected nvcc of CUDA 12.0 or newer, got ${CMAKE_CUDA_COMPILER_ID} "
                      "${CMAKE_CUDA_COMPILER_VERSION} in ${CMAKE_CUDA_COMPILER}")
endif()
# Machine code for each, and PTX of the newest for what comes after.
set(architectures 80-real 90)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(architectures 80-real 90-real 100)
endif()
set(EVENFLOW_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "Architectures of the CUDA backend")
add_library(evenflow_cuda SHARED cpp/src/kernels/cuda/kernels_f32.cu cpp/src/kernels/cuda/kernels_f64.cu
            cpp/src/kernels/cuda/device.cu cpp/src/kernels/device/cublaslt.cpp ${backend_core})
target_link_libraries(evenflow_cuda PRIVATE ${CMAKE_DL_LIBS})
target_include_directories(evenflow_cuda PRIVATE cpp/include cpp/src)
set_target_properties(evenflow_cuda PROPERTIES CUDA_ARCHITECTURES "${EVENFLOW_CUDA_ARCHITECTURES}" CUDA_STANDARD 17
                      CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
# The architectures of a unit compile side by side; constexpr functions serve both sides.
target_compile_options(evenflow_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--threads=2>")
target_link_options(evenflow_cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,--no-undefined)
set(backend_folder ${CMAKE_INSTALL_LIBDIR})
if(SKBUILD)
  set(backend_folder evenflow_cuda)  # the Python package of packaging/cuda
endif()
install(TARGETS evenflow_cuda LIBRARY DESTINATION ${backend_folder} COMPONENT cuda)
