/* Options structs of callers that may have been built with an older or a newer header. */
#ifndef MB_BASE_OPTION_STRUCT_H
#define MB_BASE_OPTION_STRUCT_H

#include "mobile_bundle/mobile_bundle.h"

/* Copies *given, which begins with its size, into `known` bytes at *own: what a shorter one does not have is 0. NULL is
 * all defaults. MB_ERROR_ARGUMENT: the size is not set, or something is set that this library does not know.
 * name: the struct's, for the message. */
mb_status mb_options_take(const char *name, const void *given, void *own, uint32_t known);

#endif
