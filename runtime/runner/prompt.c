#include "runner/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "runner/cancel.h"

enum { MOST_MEGABYTES = 16 }; /* of a file: far more than any context holds, and an end for one that has none */

typedef struct {
  char *bytes;
  size_t size, room;
} text;

static bool append(text *t, const char *bytes, size_t size) {
  if (t->room - t->size <= size) {
    const size_t room = t->room / 2 * 3 > t->size + size ? t->room / 2 * 3 : t->size + size + 1;
    char *grown = realloc(t->bytes, room);
    if (!grown) return false;
    t->bytes = grown;
    t->room = room;
  }
  if (size > 0) memcpy(t->bytes + t->size, bytes, size);
  t->size += size;
  return true;
}

static mb_status read_file(const char *path, text *out) {
  FILE *file = fopen(path, "re");
  if (!file) return mb_fail(MB_ERROR_IO, "%s: %s", path, strerror(errno));
  char buffer[4096];
  mb_status status = MB_OK;
  for (size_t got; status == MB_OK && (got = fread(buffer, 1, sizeof buffer, file)) > 0;) {
    if (!append(out, buffer, got)) status = mb_fail(MB_ERROR_MEMORY, "%s: too large", path);
    if (status == MB_OK && out->size > (size_t)MOST_MEGABYTES << 20)
      status = mb_fail(MB_ERROR_ARGUMENT, "%s has more than %d MiB: give a shorter text", path, MOST_MEGABYTES);
  }
  if (status == MB_OK && ferror(file)) status = mb_fail(MB_ERROR_IO, "%s: cannot be read", path);
  fclose(file);
  return status;
}

mb_status prompt_file(const char *path, char **bytes, size_t *size) {
  text content = {0};
  const mb_status status = read_file(path, &content);
  *bytes = content.bytes;
  *size = content.size;
  return status;
}

static bool not_cancelled(void *unused) {
  (void)unused;
  return !cancel_requested();
}

/* special: whether the tokenizer's own template applies; a chat template writes its own BOS. Most texts have fewer
 * tokens than a third of their bytes; one that has more is encoded a second time. */
static mb_status encode(const mb_tokenizer *tokenizer, const char *bytes, size_t size, bool special, int32_t **ids,
                        size_t *count) {
  *ids = NULL;
  *count = size / 3 + 16;
  for (size_t room = 0; *count > room;) {
    room = *count;
    free(*ids);
    if (!(*ids = calloc(room + 1, sizeof **ids))) /* which checks the product */
      return mb_fail(MB_ERROR_MEMORY, "no memory for a prompt of %zu tokens", room);
    mb_status status =
        mb_tokenizer_encode_while(tokenizer, bytes, size, special, *ids, room, count, not_cancelled, NULL);
    if (status != MB_OK) return status;
  }
  return MB_OK;
}

mb_status prompt_text_tokens(const open_bundle *bundle, const char *bytes, size_t size, int32_t **ids, size_t *count) {
  mb_status status = encode(bundle->tokenizer, bytes, size, true, ids, count);
  if (status == MB_OK && *count == 0) {
    const int32_t bos = decoder_config(bundle->decoder)->bos_token;
    if (bos < 0)
      return mb_fail(MB_ERROR_ARGUMENT, "the prompt is empty, and this model has no BOS token to start from");
    (*ids)[(*count)++] = bos;
  }
  return status;
}

mb_status prompt_chat_tokens(const open_bundle *bundle, const prompt_message *messages, size_t messages_count,
                             mb_chat_thinking thinking, int32_t **ids, size_t *count) {
  *ids = NULL;
  const time_t seconds = time(NULL);
  struct tm now = {0};
  localtime_r(&seconds, &now);
  const mb_chat_options options = {.size = sizeof options, .thinking = thinking, .now = &now};
  mb_chat_message *given = calloc(messages_count + 1, sizeof *given);
  if (!given) return mb_fail(MB_ERROR_MEMORY, "no memory for the prompt");
  for (size_t i = 0; i < messages_count; i++)
    given[i] = (mb_chat_message){messages[i].role, messages[i].content, messages[i].bytes};
  char *wrapped = NULL;
  size_t bytes = 0;
  mb_status status = mb_chat_render(bundle->tokenizer, given, messages_count, &options, &wrapped, &bytes);
  if (status == MB_OK) status = encode(bundle->tokenizer, wrapped ? wrapped : "", bytes, false, ids, count);
  mb_chat_free(wrapped);
  free(given);
  return status;
}

mb_status prompt_tokens(const runner_options *options, const open_bundle *bundle, int32_t **ids, size_t *count) {
  text content = {0};
  mb_status status = MB_OK;
  *ids = NULL;
  if (options->prompt_file) {
    status = read_file(options->prompt_file, &content);
  } else if (!append(&content, options->prompt, strlen(options->prompt))) {
    status = mb_fail(MB_ERROR_MEMORY, "no memory for the prompt");
  }
  if (status == MB_OK && options->chat) {
    char *system = (char *)options->system;
    const prompt_message messages[] = {{MB_ROLE_SYSTEM, system, system ? strlen(system) : 0},
                                       {MB_ROLE_USER, content.bytes, content.size}};
    const size_t first = system ? 0 : 1;
    status = prompt_chat_tokens(bundle, messages + first, 2 - first, options->thinking, ids, count);
  } else if (status == MB_OK) {
    status = prompt_text_tokens(bundle, content.bytes ? content.bytes : "", content.size, ids, count);
  }
  free(content.bytes);
  return status;
}
