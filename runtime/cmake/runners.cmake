# mobile-run and mobile-watch for every Android ABI, as the targets runner-<abi>. They land in ${MB_RUNNER_DIR}/<abi>.
include(ExternalProject)
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), 'zig'))"
  OUTPUT_VARIABLE mb_zig OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE mb_zig_missing)
if(mb_zig_missing)
  message(FATAL_ERROR "the ziglang package is missing, which cross-builds for the ABIs: pip install ziglang")
endif()
set(MB_RUNNER_DIR "${CMAKE_CURRENT_BINARY_DIR}/runners")
foreach(abi x86_64 arm64-v8a armeabi-v7a)
  ExternalProject_Add(runner-${abi}
    SOURCE_DIR "${CMAKE_CURRENT_LIST_DIR}/.."
    BINARY_DIR "${MB_RUNNER_DIR}/build-${abi}"
    CMAKE_ARGS -DCMAKE_TOOLCHAIN_FILE=${CMAKE_CURRENT_LIST_DIR}/zig.cmake -DMB_ZIG=${mb_zig} -DMB_ABI=${abi}
               -DMB_RUNNER_ONLY=ON -DCMAKE_BUILD_TYPE=Release -DMB_VERSION=${MB_VERSION}
               -DMB_WERROR=${MB_WERROR}
    BUILD_ALWAYS ON
    INSTALL_COMMAND "${CMAKE_COMMAND}" -E make_directory "${MB_RUNNER_DIR}/${abi}"
            COMMAND "${CMAKE_COMMAND}" -E copy_if_different <BINARY_DIR>/mobile-run <BINARY_DIR>/mobile-watch
                    "${MB_RUNNER_DIR}/${abi}"
    BUILD_BYPRODUCTS "${MB_RUNNER_DIR}/${abi}/mobile-run" "${MB_RUNNER_DIR}/${abi}/mobile-watch")
endforeach()
