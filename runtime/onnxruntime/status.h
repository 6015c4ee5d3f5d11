/* The ONNX Runtime API that this library was registered with, and how its functions report errors: a NULL OrtStatus is
 * success, any other holds one line for a person and travels up to whoever called. */
#ifndef MB_ONNXRUNTIME_STATUS_H
#define MB_ONNXRUNTIME_STATUS_H

#include <onnxruntime_c_api.h>

/* Set once, by RegisterCustomOps. */
extern const OrtApi *mb_ort;

/* Returns from a function that returns OrtStatus * if `call` failed. */
#define MB_ORT_TRY(call)                       \
  do {                                         \
    OrtStatus *try_status = (call);            \
    if (try_status != NULL) return try_status; \
  } while (0)

OrtStatus *mb_ort_fail(OrtErrorCode code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
