#include "onnxruntime/status.h"

#include <stdarg.h>
#include <stdio.h>

const OrtApi *mb_ort;

OrtStatus *mb_ort_fail(OrtErrorCode code, const char *format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return mb_ort->CreateStatus(code, message);
}
