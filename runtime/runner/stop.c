#include "runner/stop.h"

#include <stdlib.h>
#include <string.h>

bool stop_begin(stop_watch *w, const stop_strings *strings, size_t most) {
  *w = (stop_watch){.strings = strings, .text = malloc(most + STOP_MOST_BYTES)};
  return w->text != NULL;
}

void stop_end(stop_watch *w) {
  free(w->text);
  w->text = NULL;
}

/* Bytes of the longest string that the text ends with; 0: none. */
static size_t complete(const stop_strings *s, const char *text, size_t bytes) {
  size_t longest = 0;
  for (size_t i = 0; i < s->count; i++) {
    const size_t n = s->bytes[i];
    if (n <= bytes && n > longest && memcmp(text + bytes - n, s->texts[i], n) == 0) longest = n;
  }
  return longest;
}

/* Bytes of the longest end of the text that a string begins with. */
static size_t begun(const stop_strings *s, const char *text, size_t bytes) {
  size_t longest = 0;
  for (size_t i = 0; i < s->count; i++) {
    for (size_t n = s->bytes[i] - 1 < bytes ? s->bytes[i] - 1 : bytes; n > longest; n--) {
      if (memcmp(text + bytes - n, s->texts[i], n) == 0) longest = n;
    }
  }
  return longest;
}

bool stop_piece(stop_watch *w, const char *piece, size_t bytes, const char **out, size_t *out_bytes) {
  memmove(w->text, w->text + w->written, w->held);
  size_t size = w->held;
  *out = w->text;
  for (size_t i = 0; i < bytes; i++) {
    w->text[size++] = piece[i];
    const size_t found = complete(w->strings, w->text, size);
    if (found == 0) continue;
    *out_bytes = size - found;
    w->held = 0;
    return true;
  }
  w->held = begun(w->strings, w->text, size);
  w->written = *out_bytes = size - w->held;
  return false;
}

size_t stop_rest(stop_watch *w, const char **out) {
  const size_t held = w->held;
  *out = w->text + w->written;
  w->held = 0;
  return held;
}
