#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[512];

const char *mb_error_message(void) { return message; }

mb_status mb_fail(mb_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}
