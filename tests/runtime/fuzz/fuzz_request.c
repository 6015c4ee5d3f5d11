/* Reads any bytes as a request to `mobile-run serve`, as one object whose end is watched. Seeds: lines of requests. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "runner/request.h"

/* Everything that was understood must hang together. */
static void use(const request *r) {
  if (r->kind != REQUEST_ANSWER) {
    if (!r->path || strlen(r->path) == 0 || r->prompt || r->messages) abort();
    return;
  }
  if (r->path || !r->prompt == !r->messages) abort();
  if (r->prompt && strlen(r->prompt) > r->prompt_bytes) abort();
  for (size_t i = 0; i < r->message_count; i++) {
    const prompt_message *m = &r->messages[i];
    if (!m->content || strlen(m->content) > m->bytes || m->role > MB_ROLE_ASSISTANT) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  static const runner_options defaults;
  char *line = malloc(bytes ? bytes : 1);
  if (!line) return 0;
  if (bytes) memcpy(line, data, bytes);
  request r;
  if (request_parse(line, bytes, &defaults, &r) == MB_OK) use(&r);
  request_free(&r);
  free(line);
  return 0;
}
