/* Choosing the next token. Candidates sit in a max-heap, so that top-p and top-k look only at as many as they need:
 * sorting a vocabulary of 150,000 for every token would cost a phone more than the model's last layer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/option_struct.h"

enum { MOST_WINDOW = 65536 /* looked through for every token */ };

typedef struct {
  float logit;
  int32_t token;
} candidate;

struct mb_sampler {
  mb_sampler_options options;
  uint32_t vocabulary;
  uint64_t random; /* state of xorshift64* */
  candidate *heap; /* [vocabulary] */
  uint8_t *seen;   /* [vocabulary] bits: tokens that were penalised already; zero between two samples */
  int32_t *window; /* ring of the last accepted tokens */
  uint32_t accepted;
};

/* NULL: greedy, with nothing switched on. */
static mb_status take_options(const mb_sampler_options *given, mb_sampler_options *own) {
  static const mb_sampler_options greedy = {.size = sizeof greedy, .top_p = 1, .repetition_penalty = 1};
  return mb_options_take("mb_sampler_options", given ? given : &greedy, own, sizeof *own);
}

static bool valid(const mb_sampler_options *o) {
  return isfinite(o->temperature) && o->temperature >= 0 && o->top_p > 0 && o->top_p <= 1 && o->min_p >= 0 &&
         o->min_p <= 1 && isfinite(o->repetition_penalty) && o->repetition_penalty > 0 &&
         o->repetition_window <= MOST_WINDOW;
}

mb_status mb_sampler_open(uint32_t vocabulary, const mb_sampler_options *options, mb_sampler **out) {
  mb_sampler_options own;
  *out = NULL;
  mb_status status = take_options(options, &own);
  if (status != MB_OK) return status;
  if (vocabulary < 1 || vocabulary > MB_MOST_VOCABULARY)
    return mb_fail(MB_ERROR_ARGUMENT, "sampling from %u tokens: 1 to %u are possible", vocabulary, MB_MOST_VOCABULARY);
  if (!valid(&own))
    return mb_fail(
        MB_ERROR_ARGUMENT,
        "sampling: temperature >= 0, 0 < top-p <= 1, 0 <= min-p <= 1, repetition penalty > 0 and a repetition "
        "window of %d at most are needed",
        MOST_WINDOW);
  mb_sampler *sampler = calloc(1, sizeof *sampler);
  if (sampler) {
    sampler->options = own;
    sampler->vocabulary = vocabulary;
    /* splitmix64 of the seed: neighbouring seeds start far apart, and the state is never 0. */
    uint64_t z = own.seed + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    sampler->random = (z ^ (z >> 31)) | 1;
    sampler->heap = calloc(vocabulary, sizeof *sampler->heap);
    sampler->seen = calloc(vocabulary / 8 + 1, 1);
    sampler->window = calloc((size_t)own.repetition_window + 1, sizeof *sampler->window);
  }
  if (!sampler || !sampler->heap || !sampler->seen || !sampler->window) {
    mb_sampler_close(sampler);
    return mb_fail(MB_ERROR_MEMORY, "no memory to sample from %u tokens", vocabulary);
  }
  *out = sampler;
  return MB_OK;
}

void mb_sampler_close(mb_sampler *sampler) {
  if (!sampler) return;
  free(sampler->heap);
  free(sampler->seen);
  free(sampler->window);
  free(sampler);
}

void mb_sampler_accept(mb_sampler *sampler, int32_t token) {
  const uint32_t window = sampler->options.repetition_window;
  if (window) sampler->window[sampler->accepted++ % window] = token;
}

/* Uniform in [0, 1) with 24 bits. */
static float uniform(mb_sampler *sampler) {
  uint64_t x = sampler->random;
  x ^= x >> 12;
  x ^= x << 25;
  x ^= x >> 27;
  sampler->random = x;
  return (float)((x * 0x2545f4914f6cdd1du) >> 40) * 0x1p-24f;
}

/* Larger logit first; of equal ones the smaller id, so that the choice does not depend on the heap's history. */
static bool before(candidate a, candidate b) { return a.logit > b.logit || (a.logit == b.logit && a.token < b.token); }

static void sink(candidate *heap, uint32_t size, uint32_t i) {
  const candidate moved = heap[i];
  for (;;) {
    uint32_t child = 2 * i + 1;
    if (child >= size) break;
    if (child + 1 < size && before(heap[child + 1], heap[child])) child++;
    if (!before(heap[child], moved)) break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = moved;
}

/* Divides the logit of every repeated token once (multiplies a negative one), as in CTRL (Keskar et al. 2019, 4.1). */
static void penalise(mb_sampler *sampler) {
  const uint32_t window = sampler->options.repetition_window;
  const uint32_t held = sampler->accepted < window ? sampler->accepted : window;
  const float penalty = sampler->options.repetition_penalty;
  if (penalty == 1.0f) return;
  for (uint32_t i = 0; i < held; i++) {
    const int32_t token = sampler->window[i];
    if (token < 0 || (uint32_t)token >= sampler->vocabulary || sampler->seen[token / 8] & 1u << token % 8) continue;
    sampler->seen[token / 8] |= (uint8_t)(1u << token % 8);
    float *logit = &sampler->heap[token].logit;
    *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
  }
  for (uint32_t i = 0; i < held; i++) {
    const int32_t token = sampler->window[i];
    if (token >= 0 && (uint32_t)token < sampler->vocabulary) sampler->seen[token / 8] = 0;
  }
}

/* Keeps the allowed candidates, in their order; returns how many. */
static uint32_t keep_allowed(mb_sampler *sampler, const uint32_t *allowed) {
  candidate *heap = sampler->heap;
  uint32_t kept = 0;
  for (uint32_t first = 0; first < sampler->vocabulary; first += 32) {
    for (uint32_t bits = allowed[first / 32]; bits; bits &= bits - 1) {
      const uint32_t token = first + (uint32_t)__builtin_ctz(bits);
      if (token < sampler->vocabulary) heap[kept++] = heap[token];
    }
  }
  return kept;
}

/* One of the heap's first `size` candidates. */
static int32_t choose(mb_sampler *sampler, uint32_t size) {
  const mb_sampler_options *o = &sampler->options;
  candidate *heap = sampler->heap;
  candidate best = heap[0];
  for (uint32_t i = 1; i < size; i++) {
    if (before(heap[i], best)) best = heap[i];
  }
  if (o->temperature == 0 || o->top_k == 1) return best.token;

  /* Probabilities relative to the best one's; min-p is a cut on exactly these. */
  float total = 0;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < size; i++) {
    const float p = expf((heap[i].logit - best.logit) / o->temperature);
    if (p < o->min_p) continue;
    total += p;
    heap[kept++] = heap[i];
  }
  size = kept;
  for (uint32_t i = size / 2; i-- > 0;) sink(heap, size, i);

  /* Take the most probable until top-p or top-k is reached; they collect at the end of the array. */
  const uint32_t all = size;
  float mass = 0;
  while (size > 0 && (o->top_k == 0 || all - size < o->top_k) && (all == size || mass < o->top_p * total)) {
    const candidate top = heap[0];
    heap[0] = heap[--size];
    sink(heap, size, 0);
    heap[size] = top;
    mass += expf((top.logit - best.logit) / o->temperature);
  }
  float left = uniform(sampler) * mass;
  for (uint32_t i = all; i-- > size;) {
    left -= expf((heap[i].logit - best.logit) / o->temperature);
    if (left < 0) return heap[i].token;
  }
  return best.token;
}

mb_status mb_sampler_sample(mb_sampler *sampler, const float *logits, int32_t *token) {
  return mb_sampler_sample_among(sampler, logits, NULL, token);
}

mb_status mb_sampler_sample_among(mb_sampler *sampler, const float *logits, const uint32_t *allowed, int32_t *token) {
  *token = -1;
  for (uint32_t i = 0; i < sampler->vocabulary; i++) {
    if (!isfinite(logits[i]))
      return mb_fail(MB_ERROR_NUMERIC,
                     "the model computes values that are not finite (logit %u is %f): its weights are damaged, or too "
                     "large for this text",
                     i, (double)logits[i]);
    sampler->heap[i] = (candidate){logits[i], (int32_t)i};
  }
  penalise(sampler);
  const uint32_t size = allowed ? keep_allowed(sampler, allowed) : sampler->vocabulary;
  if (size == 0) return mb_fail(MB_ERROR_ARGUMENT, "sampling: no token is allowed");
  *token = choose(sampler, size);
  return MB_OK;
}
