#include "runner/lookup.h"

#include <string.h>

#include "base/clock.h"

enum {
  SHORTEST = 2,  /* tokens of a match; one alone says too little */
  LONGEST = 16,  /* longer ones are no better */
  MEASURED = 16, /* tokens of a prompt that tell how long one takes in a pass */
};

static const float first_hits[LOOKUP_KINDS] = {0.6f, 0.9f, 0.97f};
static const float learning = 0.05f;   /* of the share of right guesses */
static const double forgetting = 0.03; /* of a pass's time */
static const double worth = 1.05;      /* a pass must promise so much more than it costs */
static const double most_lost = 0.01;  /* of the time spent, before guessing is given up */

static uint32_t kind_of(uint32_t matched) { return matched < 4 ? 0 : matched < 8 ? 1 : 2; }

/* Where the longest text that ends like this one ends, the latest of them: what stands there came next. *matched: how
 * long it is; 0: there is none. */
static uint32_t find(const int32_t *held, uint32_t count, uint32_t *matched) {
  uint32_t best = 0;
  *matched = 0;
  for (uint32_t end = count - 1; end >= SHORTEST && *matched < LONGEST; end--) {
    if (held[end - 1] != held[count - 1] || held[end - 2] != held[count - 2]) continue;
    uint32_t length = SHORTEST;
    while (length < LONGEST && length < end && held[end - 1 - length] == held[count - 1 - length]) length++;
    if (length > *matched) {
      *matched = length;
      best = end;
    }
  }
  return best;
}

void lookup_begin(lookup *l, decoder *d, int32_t *held, uint32_t most, uint32_t computed, double prompt_seconds) {
  *l = (lookup){.decoder = d, .held = held, .position = decoder_position(d), .most = most, .expected = -1};
  memcpy(l->hits, first_hits, sizeof l->hits);
  if (computed >= MEASURED) l->each = prompt_seconds / computed;
}

static double each_of(const lookup *l) { return l->each > 0 ? l->each : l->plain / 2; }

/* How many guesses a pass should check: as many as are likely enough to be right to be worth their time. */
static uint32_t worthwhile(const lookup *l, uint32_t most) {
  if (l->plain == 0 || l->saved < -most_lost * l->spent - l->plain) return 0;
  const double each = each_of(l);
  double likely = 1, tokens = 1;
  uint32_t guesses = 0;
  while (guesses < most && likely * l->hits[l->kind] * l->plain > each) {
    likely *= l->hits[l->kind];
    tokens += likely;
    guesses++;
  }
  const double pass = (l->fixed > 0 ? l->fixed : l->plain) + (guesses + 1) * each;
  return tokens * l->plain > worth * pass ? guesses : 0;
}

/* A token tells whether it was guessed rightly, also where no pass had checked the guess. */
static void learn(lookup *l, int32_t token) {
  if (l->expected < 0) return;
  float *hits = &l->hits[l->kind];
  *hits += learning * ((l->expected == token ? 1.0f : 0.0f) - *hits);
  l->expected = -1;
}

/* What something takes: the least that was seen, which what else runs on the machine does not change, forgotten slowly.
 */
static void learn_seconds(double *known, double seconds) {
  *known = *known == 0 || seconds < *known ? seconds : *known + forgetting * (seconds - *known);
}

/* The time of a pass over one token and `guessed` guesses. */
static void learn_pass(lookup *l, double seconds) {
  if (l->guessed == 0) {
    learn_seconds(&l->plain, seconds);
    l->spent += l->plain;
    return;
  }
  const double least = l->plain / 4, others = (l->guessed + 1) * each_of(l);
  learn_seconds(&l->fixed, seconds - others > least ? seconds - others : least);
  l->spent += l->fixed + others;
  l->saved -= l->fixed + others - l->plain;
}

/* Fills in the guesses behind the last token that counts. */
static void guess(lookup *l, uint32_t left) {
  uint32_t matched;
  if (l->most == 0 || l->position <= SHORTEST) return;
  const uint32_t at = find(l->held, l->position, &matched);
  if (matched == 0) return;
  l->kind = kind_of(matched);
  l->expected = l->held[at];
  const uint32_t limits[] = {left - 1, decoder_options(l->decoder)->context - l->position, l->position - at};
  uint32_t most = l->most;
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) most = limits[i] < most ? limits[i] : most;
  l->guessed = worthwhile(l, most);
  if (l->constraint) l->guessed = (uint32_t)mb_constraint_fitting(l->constraint, l->held + at, l->guessed);
  memcpy(l->guesses, l->held + at, l->guessed * sizeof *l->guesses);
}

/* Ends the pass: its guesses that no token confirmed are forgotten. */
static mb_status forget(lookup *l) {
  l->guessed = l->right = 0;
  return decoder_position(l->decoder) > l->position ? decoder_rewind(l->decoder, l->position) : MB_OK;
}

void lookup_removed(lookup *l, uint32_t removed) {
  if (removed == 0) return;
  l->position -= removed;
  l->guessed = l->right = 0; /* behind a full context nothing was guessed */
}

mb_status lookup_end(lookup *l) { return forget(l); }

/* A pass over the last token that counts, which is not computed yet, and over what may follow it. */
static mb_status pass(lookup *l, uint32_t left) {
  int32_t tokens[LOOKUP_MOST + 1] = {l->held[l->position - 1]};
  guess(l, left);
  memcpy(tokens + 1, l->guesses, l->guessed * sizeof *tokens);
  const double begin = seconds_now();
  mb_status status = l->guessed ? decoder_feed_all(l->decoder, tokens, l->guessed + 1, &l->logits)
                                : decoder_feed(l->decoder, tokens, 1, &l->logits);
  if (status == MB_OK) learn_pass(l, seconds_now() - begin);
  l->all_guessed += l->guessed;
  return status;
}

mb_status lookup_feed(lookup *l, int32_t token, uint32_t left, const float **logits) {
  learn(l, token);
  mb_status status = MB_OK;
  if (l->right < l->guessed && l->guesses[l->right] == token) {
    l->held[l->position++] = token;
    l->saved += l->plain;
    l->right++;
    l->all_right++;
    if (l->right < l->guessed) l->expected = l->guesses[l->right];
  } else {
    status = forget(l);
    if (status != MB_OK) return status;
    l->held[l->position++] = token;
    status = pass(l, left);
    if (status != MB_OK) {
      l->position--;
      l->guessed = 0;
    }
  }
  *logits = status == MB_OK ? l->logits + (size_t)l->right * decoder_config(l->decoder)->vocabulary : NULL;
  return status;
}
