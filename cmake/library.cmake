# The libraries that programs link to, and their installation; docs/embedding.md.

set(abi ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})  # while the major version is 0
set(prefix)
set(links)
if(SKBUILD)  # inside the wheel everything lies in the package
  set(prefix evenflow/)
  set(CMAKE_INSTALL_LIBDIR lib)
  set(links NAMELINK_SKIP)  # it has no links, so the library has the name by which the loader asks for it
endif()

set(libraries)
if(NOT WIN32)  # which has the static library alone
  list(APPEND libraries shared)
  add_library(evenflow_shared SHARED ${objects})
  set_target_properties(evenflow_shared PROPERTIES OUTPUT_NAME evenflow EXPORT_NAME shared SOVERSION ${abi})
  if(NOT SKBUILD)
    set_target_properties(evenflow_shared PROPERTIES VERSION ${PROJECT_VERSION})
  endif()
  target_link_libraries(evenflow_shared PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
endif()
if(NOT WIN32 AND NOT APPLE)
  # Versioned symbols that bind within the library: two versions can live in one process.
  configure_file(cmake/evenflow.map.in evenflow.map @ONLY)
  target_link_options(evenflow_shared PRIVATE -Wl,-Bsymbolic -Wl,--gc-sections
                      -Wl,--version-script=${CMAKE_CURRENT_BINARY_DIR}/evenflow.map)
  set_property(TARGET evenflow_shared PROPERTY LINK_DEPENDS ${CMAKE_CURRENT_BINARY_DIR}/evenflow.map)
  # Threads outlive a call, in code that dlclose would unmap.
  include(CheckLinkerFlag)
  check_linker_flag(CXX -Wl,-z,nodelete EVENFLOW_NODELETE)
  if(EVENFLOW_NODELETE)
    target_link_options(evenflow_shared PRIVATE -Wl,-z,nodelete)
  endif()
endif()

if(EVENFLOW_STATIC)
  list(APPEND libraries archive static static_avx2)
  add_library(evenflow_archive STATIC ${objects})
  set_target_properties(evenflow_archive PROPERTIES OUTPUT_NAME evenflow EXPORT_NAME archive)
  target_link_libraries(evenflow_archive INTERFACE ${CMAKE_DL_LIBS})
  if(UNIX)
    target_link_options(evenflow_archive INTERFACE -pthread)  # a library of its own before glibc 2.34
  endif()
  if(NOT WIN32 AND NOT APPLE)
    # A shared object that holds a copy of the library does not offer it to others.
    target_link_options(evenflow_archive INTERFACE -Wl,--gc-sections -Wl,--exclude-libs,libevenflow.a)
  endif()

  # Instruction sets are linked by name: all of them, or AVX2 alone for a small program.
  add_library(evenflow_static INTERFACE)
  add_library(evenflow_static_avx2 INTERFACE)
  set_target_properties(evenflow_static PROPERTIES EXPORT_NAME static)
  set_target_properties(evenflow_static_avx2 PROPERTIES EXPORT_NAME static_avx2)
  target_link_libraries(evenflow_static INTERFACE evenflow_archive)
  target_link_libraries(evenflow_static_avx2 INTERFACE evenflow_archive)
  set(by_name)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(avx2 -Wl,-u,_ZN8evenflow16kernels_avx2_f32Ev)
    target_link_options(evenflow_static_avx2 INTERFACE ${avx2})
    set(by_name ${avx2} -Wl,-u,_ZN8evenflow20kernels_baseline_f32Ev -Wl,-u,_ZN8evenflow18kernels_avx512_f32Ev
        -Wl,-u,_ZN8evenflow18stacks_avx512_bf16Ev)
    if(EVENFLOW_AMX)
      list(APPEND by_name -Wl,-u,_ZN8evenflow10stacks_amxEv)
    endif()
    target_link_options(evenflow_static INTERFACE ${by_name})
  endif()
endif()

# A project that has this one as a part of it calls the targets as one that finds it installed.
foreach(library IN LISTS libraries)
  add_library(evenflow::${library} ALIAS evenflow_${library})
endforeach()

list(FILTER libraries INCLUDE REGEX "shared|archive")
foreach(library IN LISTS libraries)
  target_compile_features(evenflow_${library} INTERFACE cxx_std_17)
  target_include_directories(evenflow_${library} INTERFACE $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/cpp/include>
                             $<INSTALL_INTERFACE:${prefix}${CMAKE_INSTALL_INCLUDEDIR}>)
endforeach()

set(lib ${prefix}${CMAKE_INSTALL_LIBDIR})
set(package ${lib}/cmake/evenflow)
install(DIRECTORY cpp/include/evenflow DESTINATION ${prefix}${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET evenflow_shared)
  install(TARGETS evenflow_shared EXPORT shared LIBRARY DESTINATION ${lib} ${links})
  install(EXPORT shared NAMESPACE evenflow:: FILE evenflow-shared.cmake DESTINATION ${package})
endif()
if(EVENFLOW_STATIC)
  install(TARGETS evenflow_archive evenflow_static evenflow_static_avx2 EXPORT static ARCHIVE DESTINATION ${lib})
  install(EXPORT static NAMESPACE evenflow:: FILE evenflow-static.cmake DESTINATION ${package})
endif()
if(NOT SKBUILD)  # a wheel's folder is for CMake to find
  file(RELATIVE_PATH include ${CMAKE_INSTALL_FULL_LIBDIR} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
  # What evenflow::static links to, and C++'s runtime for the linker of C.
  set(private ${CMAKE_DL_LIBS} ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
  list(FILTER private INCLUDE REGEX "^[A-Za-z+0-9]+$")  # without the compiler's own, and those with a path
  list(REMOVE_DUPLICATES private)
  list(REMOVE_ITEM private gcc c)
  list(TRANSFORM private PREPEND -l)
  string(REPLACE ";" " " private "${by_name};${private};-pthread")
  configure_file(cmake/evenflow.pc.in evenflow.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/evenflow.pc DESTINATION ${lib}/pkgconfig)
endif()

include(CMakePackageConfigHelpers)
configure_package_config_file(cmake/evenflowConfig.cmake.in evenflowConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(evenflowConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/evenflowConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/evenflowConfigVersion.cmake
        DESTINATION ${package})
