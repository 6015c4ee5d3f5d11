#include "runner/system_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

mb_status system_state_open(const runner_options *options, decoder *d, int32_t *held, system_state *state) {
  *state = (system_state){0};
  const int length = snprintf(state->path, sizeof state->path, "%s/system.state", options->bundle);
  if (length < 0 || (size_t)length >= sizeof state->path || access(state->path, F_OK) != 0) return MB_OK;
  uint32_t count;
  if (decoder_resume(d, state->path, held, &count) != MB_OK) {
    fprintf(stderr, "%s: the system prompt is read anew: %s\n", decoder_program, mb_error_message());
    return MB_OK;
  }
  state->tokens = malloc(count * sizeof *state->tokens);
  if (!state->tokens) return mb_fail(MB_ERROR_MEMORY, "no memory for the system prompt");
  memcpy(state->tokens, held, count * sizeof *state->tokens);
  state->count = count;
  return MB_OK;
}

void system_state_close(system_state *state) {
  free(state->tokens);
  *state = (system_state){0};
}

uint32_t system_state_help(const system_state *state, decoder *d, int32_t *held, const int32_t *ids, size_t count,
                           uint32_t kept) {
  uint32_t taken;
  if (state->count <= kept || state->count >= count) return kept;
  if (memcmp(ids, state->tokens, state->count * sizeof *ids) != 0) return kept;
  if (decoder_resume(d, state->path, held, &taken) == MB_OK) return taken;
  return decoder_position(d) < kept ? 0 : kept; /* a file that changes as it is read leaves the decoder empty */
}
