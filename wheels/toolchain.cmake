# Wheels for Linux with glibc 2.28 or newer; wheels/build_wheels.py sets the environment that this and the compiler read.
if(NOT CMAKE_HOST_SYSTEM_PROCESSOR STREQUAL "$ENV{EARMARK_ARCH}")
  set(CMAKE_SYSTEM_NAME Linux)
  set(CMAKE_SYSTEM_PROCESSOR $ENV{EARMARK_ARCH})
endif()
set(CMAKE_CXX_COMPILER ${CMAKE_CURRENT_LIST_DIR}/c++)
set(CMAKE_AR ${CMAKE_CURRENT_LIST_DIR}/ar CACHE FILEPATH "")
set(CMAKE_RANLIB true CACHE FILEPATH "")  # ar writes the index
set(CMAKE_CUDA_HOST_COMPILER $ENV{EARMARK_GCC})  # nvcc knows no libc++; host code of kernels needs none
# Zig compiles its C++ library once for each way of optimising that it is asked for; pybind11 would ask for one more.
set(CMAKE_CXX_FLAGS_INIT -O2)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)
set(link_flags "-s -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/exports.map")
set(CMAKE_MODULE_LINKER_FLAGS_INIT ${link_flags})
set(CMAKE_SHARED_LINKER_FLAGS_INIT ${link_flags})
set(PYTHON_MODULE_EXTENSION $ENV{SETUPTOOLS_EXT_SUFFIX})  # pybind11 would ask the interpreter, which may be of another processor
