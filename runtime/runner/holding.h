/* The tokens that the decoder holds, from one request to the next: what the next one has in common with them is not
 * computed again. */
#ifndef MB_RUNNER_HOLDING_H
#define MB_RUNNER_HOLDING_H

#include "runner/system_state.h"

typedef struct {
  decoder *decoder;
  int32_t *tokens; /* [context]: the token at each position of the decoder */
  uint32_t exact;  /* positions from here on were moved, or stand behind some that were: they are not what reading would
                      have given; UINT32_MAX: there are none */
} holding;

/* How far what was moved may be used. */
typedef enum {
  HOLDING_EXACT,  /* it is forgotten */
  HOLDING_MOVED,  /* it counts like the rest */
  HOLDING_REMOVE, /* and tokens that the prompt leaves out of the middle are removed, if enough agrees behind them */
} holding_use;

/* Forgets what is not at the start of the prompt, whose last token is fed in any case: its logits are wanted. */
mb_status holding_keep(holding *h, const system_state *system, const int32_t *ids, size_t count, holding_use use);
/* Makes room in the middle of an answer: the decoder holds a prompt and some of the answer, and `shorter` is that
 * prompt without some tokens in its middle. These are removed: *removed of them; 0: it is not that prompt without some.
 */
mb_status holding_shorten(holding *h, const int32_t *shorter, size_t count, uint32_t *removed);
/* A state was taken up. */
void holding_renew(holding *h);

#endif
