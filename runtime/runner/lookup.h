/* Prompt lookup: where the end of a text stood before, what followed it there is guessed to follow again, and many
 * guesses are checked in one pass (Saxena 2023, prompt lookup decoding; Leviathan et al. 2023, speculative decoding).
 *
 * A token is always chosen from its own logits, which have the same bits whether it was guessed or not, and by the same
 * state of the sampler: the answer is the one that there would have been, greedy or sampled.
 *
 * Guessing is given up where it does not pay. How often guesses are right is learned from every token, also without
 * checking any; how long a pass takes, from the prompt and from passes. */
#ifndef MB_RUNNER_LOOKUP_H
#define MB_RUNNER_LOOKUP_H

#include "mobile_bundle/constraint.h"
#include "runner/decoder.h"

enum {
  LOOKUP_KINDS = 3, /* of matches, by their length */
  LOOKUP_MOST = 32, /* guesses of a pass */
};

typedef struct {
  decoder *decoder;
  mb_constraint *constraint;    /* what the answer has to be, behind the last token; NULL: any text */
  int32_t *held;                /* [context]: the token at each position that counts */
  uint32_t position;            /* tokens that count; the decoder may hold guesses behind them */
  uint32_t most;                /* guesses of a pass; 0: none are made */
  int32_t guesses[LOOKUP_MOST]; /* of the pass whose logits are in use */
  uint32_t guessed;             /* how many */
  uint32_t right;               /* of them, which turned out to be right */
  const float *logits;          /* [guessed + 1][vocabulary] of that pass */
  int32_t expected;             /* what the next token is guessed to be, to learn from; -1: nothing */
  uint32_t kind;
  float hits[LOOKUP_KINDS]; /* share of guesses that were right */
  double plain;             /* seconds of a pass over one token; 0: not known yet */
  double each;              /* seconds that one token more takes in a pass */
  double fixed;             /* seconds of a pass over guesses, beside those */
  double spent, saved;      /* seconds of all passes; of them, that guessing saved (below 0: cost) */
  uint32_t all_guessed, all_right;
} lookup;

/* prompt_seconds: that reading `computed` tokens took; held: as answer_prompt's, of which the decoder's position
 * counts. */
void lookup_begin(lookup *l, decoder *d, int32_t *held, uint32_t most, uint32_t computed, double prompt_seconds);
/* The logits behind `token`, which comes next. left: how many more tokens are wanted behind it. As decoder_feed. */
mb_status lookup_feed(lookup *l, int32_t token, uint32_t left, const float **logits);
/* So many tokens were taken out of a full context, `held`, too. */
void lookup_removed(lookup *l, uint32_t removed);
/* Has the decoder forget guesses that no token confirmed. */
mb_status lookup_end(lookup *l);

#endif
