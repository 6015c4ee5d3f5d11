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
  if (size > 0) memcpy(grown + t->size, bytes, size);
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

/* What stands between two messages, then the second one's content. */
static mb_status add_message(const mb_tokenizer *tokenizer, mb_chat_place from, mb_chat_place to, const char *content,
                             size_t size, text *out) {
  const char *between;
  size_t between_bytes;
  mb_status status = mb_chat_between(tokenizer, from, to, &between, &between_bytes);
  if (status != MB_OK) return status;
  if (!append(out, between, between_bytes) || !append(out, content, size))
    return mb_fail(MB_ERROR_MEMORY, "no memory for the prompt");
  return MB_OK;
}

static mb_status wrap(const mb_tokenizer *tokenizer, const prompt_message *messages, size_t count, text *out) {
  if (!mb_tokenizer_has_chat(tokenizer))
    return mb_fail(MB_ERROR_ARGUMENT, "this bundle has no chat template: give it plain text to continue");
  mb_status status = MB_OK;
  mb_chat_place last = MB_CHAT_START;
  for (size_t i = 0; i < count && status == MB_OK; i++) {
    const prompt_message *m = &messages[i];
    const char *content = m->content;
    size_t size = m->bytes;
    /* An answer that is to go on ends as it ends. */
    const bool open = i + 1 == count && m->role == MB_ROLE_ASSISTANT;
    if (size > 0 && !open) mb_chat_trim(tokenizer, m->role, &content, &size);
    status = add_message(tokenizer, last, m->role, content, size, out);
    last = m->role;
  }
  if (status != MB_OK || last == MB_ROLE_ASSISTANT) return status;
  return add_message(tokenizer, last, MB_CHAT_ANSWER, "", 0, out);
}

/* special: whether the tokenizer's own template applies; a chat template writes its own BOS. */
static mb_status encode(const mb_tokenizer *tokenizer, const char *bytes, size_t size, bool special, int32_t **ids,
                        size_t *count) {
  *ids = NULL;
  mb_status status = mb_tokenizer_encode(tokenizer, bytes, size, special, NULL, 0, count);
  if (status == MB_OK && !(*ids = malloc((*count + 1) * sizeof **ids)))
    status = mb_fail(MB_ERROR_MEMORY, "no memory for a prompt of %zu tokens", *count);
  if (status == MB_OK) status = mb_tokenizer_encode(tokenizer, bytes, size, special, *ids, *count, count);
  return status;
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
                             int32_t **ids, size_t *count) {
  text wrapped = {0};
  *ids = NULL;
  mb_status status = wrap(bundle->tokenizer, messages, messages_count, &wrapped);
  if (status == MB_OK)
    status = encode(bundle->tokenizer, wrapped.bytes ? wrapped.bytes : "", wrapped.size, false, ids, count);
  free(wrapped.bytes);
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
    status = prompt_chat_tokens(bundle, messages + first, 2 - first, ids, count);
  } else if (status == MB_OK) {
    status = prompt_text_tokens(bundle, content.bytes ? content.bytes : "", content.size, ids, count);
  }
  free(content.bytes);
  return status;
}
