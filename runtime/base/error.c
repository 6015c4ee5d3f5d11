#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/one_line.h"

enum { LONGEST = 8192 /* two paths and some words; what is longer is cut before it is made one line */ };

static _Thread_local char message[MB_ONE_LINE_BYTES];

const char *mb_error_message(void) { return message; }

mb_status mb_fail(mb_status status, const char *format, ...) {
  char text[LONGEST];
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  mb_one_line(text, length < 0 ? 0 : strlen(text), message);
  return status;
}
