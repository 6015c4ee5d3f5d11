/* From the command line's prompt to token ids. */
#ifndef MB_RUNNER_PROMPT_H
#define MB_RUNNER_PROMPT_H

#include "bundle.h"

/* Reads the prompt, wraps it by the chat template when asked, tokenises it. *ids is malloc'd. */
mb_status prompt_tokens(const runner_options *options, const mb_tokenizer *tokenizer, int32_t **ids, size_t *count);

#endif
