/* From texts and conversations to token ids. */
#ifndef MB_RUNNER_PROMPT_H
#define MB_RUNNER_PROMPT_H

#include "runner/bundle.h"

/* A file's bytes, malloc'd in either case. */
mb_status prompt_file(const char *path, char **bytes, size_t *size);

/* Reads the command line's prompt, wraps it by the chat template when asked, tokenises it. *ids is malloc'd. */
mb_status prompt_tokens(const runner_options *options, const open_bundle *bundle, int32_t **ids, size_t *count);

/* A plain text's tokens; an empty text is the BOS token. *ids is malloc'd. */
mb_status prompt_text_tokens(const open_bundle *bundle, const char *text, size_t bytes, int32_t **ids, size_t *count);

typedef struct {
  mb_chat_role role;
  char *content;
  size_t bytes;
} prompt_message;

/* A conversation by the chat template, with the request to answer; one that ends with the assistant's message has it
 * continued. *ids is malloc'd. */
mb_status prompt_chat_tokens(const open_bundle *bundle, const prompt_message *messages, size_t messages_count,
                             mb_chat_thinking thinking, int32_t **ids, size_t *count);

#endif
