/* The state of its system prompt, which a bundle may carry (system.state): what every conversation begins with is then
 * never read. */
#ifndef MB_RUNNER_SYSTEM_STATE_H
#define MB_RUNNER_SYSTEM_STATE_H

#include "runner/bundle.h"

typedef struct {
  char path[4096];
  int32_t *tokens; /* NULL: the bundle has none, or none that this session can take up */
  uint32_t count;
} system_state;

/* Takes the bundle's state up where it has one; `held`, int32[context], gets its tokens. One that does not fit this
 * session (another type of KV cache, say) is left alone, with a line on standard error: it is not needed. */
mb_status system_state_open(const runner_options *options, decoder *d, int32_t *held, system_state *state);
void system_state_close(system_state *state);

/* Takes it up again if a prompt begins with it and the decoder, which holds `kept` tokens of the prompt, would gain by
 * that. Returns how many tokens of the prompt the decoder can be rewound to. */
uint32_t system_state_help(const system_state *state, decoder *d, int32_t *held, const int32_t *ids, size_t count,
                           uint32_t kept);

#endif
