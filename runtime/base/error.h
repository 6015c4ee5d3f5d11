/* The message behind mb_error_message: one line for a person, per thread. */
#ifndef MB_BASE_ERROR_H
#define MB_BASE_ERROR_H

#include "mobile_bundle/mobile_bundle.h"

/* Sets this thread's message and returns `status`, so that callers write `return mb_fail(...)`. */
mb_status mb_fail(mb_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
