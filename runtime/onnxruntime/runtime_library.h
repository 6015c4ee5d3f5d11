/* ONNX Runtime, loaded while the program runs: mobile-run-onnx links nothing of it. */
#ifndef MB_ONNXRUNTIME_RUNTIME_LIBRARY_H
#define MB_ONNXRUNTIME_RUNTIME_LIBRARY_H

#include <onnxruntime_c_api.h>

#include "mobile_bundle/mobile_bundle.h"

/* The interface of the libonnxruntime at `path`; NULL: the environment's MOBILE_BUNDLE_ONNXRUNTIME, or the one that the
 * dynamic linker finds. It stays loaded until the process ends: it cannot be unloaded safely. */
mb_status runtime_library_open(const char *path, const OrtApi **api);

/* Gives back the pages of that library's code and constants. Most of them only a session's creation needs; the others
 * come again from the file when they are used. */
void runtime_library_give_back(const OrtApi *api);
/* The operator library that belongs to this program: beside it, or in ../../lib, as the Python package is laid out. */
mb_status operator_library_path(char *path, size_t capacity);

#endif
