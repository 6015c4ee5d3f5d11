# Toolchain file: cross-compile for an Android ABI with zig (the ziglang package from PyPI) against musl, statically.
# A static glibc program is killed inside Android's app sandbox (seccomp refuses system calls that its start-up makes).
# Variables: MB_ZIG (the zig program), MB_ABI (x86_64, arm64-v8a or armeabi-v7a).
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES MB_ZIG MB_ABI)
set(CMAKE_SYSTEM_NAME Linux)
if(MB_ABI STREQUAL "x86_64")
  set(CMAKE_SYSTEM_PROCESSOR x86_64)
  set(mb_target -target x86_64-linux-musl)
elseif(MB_ABI STREQUAL "arm64-v8a")
  set(CMAKE_SYSTEM_PROCESSOR aarch64)
  set(mb_target -target aarch64-linux-musl)
  set(MB_DOTPROD_FLAGS -mcpu=generic+dotprod) # zig's spelling of -march=armv8.2-a+dotprod
elseif(MB_ABI STREQUAL "armeabi-v7a")
  set(CMAKE_SYSTEM_PROCESSOR arm)
  # Cortex-A7: NEON and VFPv4, the least that phones of this ABI and Android 8 or later have.
  set(mb_target -target arm-linux-musleabihf -mcpu=cortex_a7)
else()
  message(FATAL_ERROR "MB_ABI is '${MB_ABI}': x86_64, arm64-v8a or armeabi-v7a is needed")
endif()
set(CMAKE_C_COMPILER ${MB_ZIG} cc ${mb_target})
# zig ships its own archiver; nothing here makes static libraries, so CMake must only find none of the host's.
set(CMAKE_AR "${MB_ZIG}")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
