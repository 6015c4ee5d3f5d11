/* Any bytes as one line that a program and a person can read: messages carry paths, names and texts from outside. */
#ifndef MB_BASE_ONE_LINE_H
#define MB_BASE_ONE_LINE_H

#include <stddef.h>

enum {
  MB_ONE_LINE_CHARACTERS = 300,
  MB_ONE_LINE_BYTES = 4 * MB_ONE_LINE_CHARACTERS + 1, /* UTF-8, and the zero at the end */
};

/* Writes text[bytes] to `out` as valid UTF-8, zero-terminated: a control character or the end of a line becomes "?",
 * invalid UTF-8 becomes U+FFFD, and the middle of a text that is too long becomes an ellipsis: its start says what it
 * is about, its end what to do. Returns the bytes without the zero. */
size_t mb_one_line(const char *text, size_t bytes, char out[MB_ONE_LINE_BYTES]);

#endif
