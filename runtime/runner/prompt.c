#include "prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

typedef struct {
  char *bytes;
  size_t size;
} text;

static bool append(text *t, const char *bytes, size_t size) {
  char *grown = realloc(t->bytes, t->size + size + 1);
  if (!grown) return false;
  memcpy(grown + t->size, bytes, size);
  t->bytes = grown;
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
  }
  if (status == MB_OK && ferror(file)) status = mb_fail(MB_ERROR_IO, "%s: cannot be read", path);
  fclose(file);
  return status;
}

/* What stands between two messages, then the second one's content; no content after `to` = MB_CHAT_ANSWER. */
static mb_status add_message(const mb_tokenizer *tokenizer, mb_chat_place from, mb_chat_place to, const char *content,
                             size_t size, text *out) {
  const char *between;
  size_t between_bytes;
  mb_status status = mb_chat_between(tokenizer, from, to, &between, &between_bytes);
  if (status != MB_OK) return status;
  if (size > 0) mb_chat_trim(tokenizer, to, &content, &size);
  if (!append(out, between, between_bytes) || !append(out, content, size))
    return mb_fail(MB_ERROR_MEMORY, "no memory for the prompt");
  return MB_OK;
}

static mb_status wrap(const runner_options *options, const mb_tokenizer *tokenizer, const text *content, text *out) {
  if (!mb_tokenizer_has_chat(tokenizer))
    return mb_fail(MB_ERROR_ARGUMENT, "this bundle has no chat template: leave out --chat");
  mb_status status = MB_OK;
  mb_chat_place last = MB_CHAT_START;
  if (options->system) {
    status = add_message(tokenizer, last, MB_ROLE_SYSTEM, options->system, strlen(options->system), out);
    last = MB_ROLE_SYSTEM;
  }
  if (status == MB_OK)
    status = add_message(tokenizer, last, MB_ROLE_USER, content->bytes ? content->bytes : "", content->size, out);
  return status == MB_OK ? add_message(tokenizer, MB_ROLE_USER, MB_CHAT_ANSWER, "", 0, out) : status;
}

mb_status prompt_tokens(const runner_options *options, const mb_tokenizer *tokenizer, int32_t **ids, size_t *count) {
  text content = {0}, wrapped = {0};
  mb_status status = MB_OK;
  *ids = NULL;
  if (options->prompt_file) {
    status = read_file(options->prompt_file, &content);
  } else if (!append(&content, options->prompt, strlen(options->prompt))) {
    status = mb_fail(MB_ERROR_MEMORY, "no memory for the prompt");
  }
  if (status == MB_OK && options->chat) status = wrap(options, tokenizer, &content, &wrapped);
  if (status == MB_OK) {
    const text *whole = options->chat ? &wrapped : &content;
    const char *bytes = whole->bytes ? whole->bytes : "";
    /* A chat template writes its own BOS. */
    status = mb_tokenizer_encode(tokenizer, bytes, whole->size, !options->chat, NULL, 0, count);
    if (status == MB_OK && !(*ids = malloc((*count + 1) * sizeof **ids)))
      status = mb_fail(MB_ERROR_MEMORY, "no memory for a prompt of %zu tokens", *count);
    if (status == MB_OK)
      status = mb_tokenizer_encode(tokenizer, bytes, whole->size, !options->chat, *ids, *count, count);
  }
  free(content.bytes);
  free(wrapped.bytes);
  return status;
}
