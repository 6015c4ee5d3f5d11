/* Stop strings: texts that end an answer, and are not part of it. An answer ends with the first byte that completes
 * one, wherever tokens begin and end; it is cut where the longest of those that are complete there begins. What may
 * become one is held back. */
#ifndef MB_RUNNER_STOP_H
#define MB_RUNNER_STOP_H

#include <stdbool.h>
#include <stddef.h>

enum { STOP_MOST = 8 /* strings */, STOP_MOST_BYTES = 256 /* of each */ };

typedef struct {
  char *texts[STOP_MOST]; /* UTF-8, of 1 to STOP_MOST_BYTES bytes */
  size_t bytes[STOP_MOST];
  size_t count;
} stop_strings;

typedef struct {
  const stop_strings *strings;
  char *text; /* held back, and after a call what is to be written */
  size_t held, written;
} stop_watch;

/* most: bytes of a piece. false: no memory. */
bool stop_begin(stop_watch *watch, const stop_strings *strings, size_t most);
/* Takes the next piece of the answer, whole characters. *out: the bytes that may be written now, valid until the next
 * call. true: the answer ends with them. */
bool stop_piece(stop_watch *watch, const char *piece, size_t bytes, const char **out, size_t *out_bytes);
/* What was held back when the answer ends by itself. */
size_t stop_rest(stop_watch *watch, const char **out);
void stop_end(stop_watch *watch);

#endif
