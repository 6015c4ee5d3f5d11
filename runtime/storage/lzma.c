/* Raw LZMA1 to the sink: a range coder over adaptive bits, matches within a dictionary in scratch. The format is that
 * of Igor Pavlov's LZMA specification (LZMA SDK, public domain). */
#include <string.h>

#include "storage/entropy.h"
#include "storage/window.h"

#define END_MARKER 0xffffffffu /* instead of a distance */

enum {
  STATES = 12,
  POSITIONS = 16,       /* at most, of pb bits */
  CODERS = 1 << 4,      /* literal coders of lc + lp bits, at most */
  CODER_SIZE = 0x300,   /* probabilities of one */
  DISTANCE_SLOTS = 64,  /* 6 bits */
  DISTANCE_CLASSES = 4, /* of lengths 2, 3, 4 and more */
  FULL_DISTANCES = 128, /* below, all bits of a distance have probabilities */
  ALIGN_BITS = 4,
  MIN_LENGTH = 2,
  HALF = 1 << 10, /* of a probability's 11 bits */
};

typedef uint16_t probability; /* of a 0, times 2^11 */

typedef struct {
  probability choice, choice_high, low[POSITIONS][8], middle[POSITIONS][8], high[256];
} length_coder;

typedef struct {
  probability is_match[STATES][POSITIONS]; /* else a literal */
  probability is_repeat[STATES];           /* of one of the last four distances, else a new one */
  probability is_older[STATES], is_third_or_fourth[STATES], is_fourth[STATES]; /* which of the four */
  probability is_long[STATES][POSITIONS]; /* repeats the last distance with a length, else for one byte */
  probability slot[DISTANCE_CLASSES][DISTANCE_SLOTS], distance[FULL_DISTANCES], align[1 << ALIGN_BITS];
  length_coder match_length, repeat_length;
  probability literal[CODERS][CODER_SIZE];
} probabilities;

typedef struct {
  uint8_t window[MB_ENTROPY_DICTIONARY];
  probabilities p;
} scratch_space;

typedef struct {
  const uint8_t *at, *end;
  uint32_t range, code;
  bool overrun; /* more bytes were wanted than there are */
} range_decoder;

static void normalise(range_decoder *d) {
  if (d->range >= 1u << 24) return;
  uint8_t byte = 0;
  if (d->at < d->end)
    byte = *d->at++;
  else
    d->overrun = true;
  d->range <<= 8;
  d->code = d->code << 8 | byte;
}

static uint32_t bit(range_decoder *d, probability *p) {
  normalise(d);
  const uint32_t bound = (d->range >> 11) * *p;
  if (d->code < bound) {
    d->range = bound;
    *p = (probability)(*p + ((2048 - *p) >> 5));
    return 0;
  }
  d->range -= bound;
  d->code -= bound;
  *p = (probability)(*p - (*p >> 5));
  return 1;
}

static uint32_t direct_bits(range_decoder *d, uint32_t count) {
  uint32_t value = 0;
  for (; count > 0; count--) {
    normalise(d);
    d->range >>= 1;
    const uint32_t one = d->code >= d->range;
    d->code -= d->range & (0 - one);
    value = value << 1 | one;
  }
  return value;
}

/* `bits` bits through a tree, the highest first. */
static uint32_t tree(range_decoder *d, probability *p, uint32_t bits) {
  uint32_t node = 1;
  for (uint32_t i = 0; i < bits; i++) node = node << 1 | bit(d, &p[node]);
  return node - (1u << bits);
}

/* The lowest first. */
static uint32_t reverse_tree(range_decoder *d, probability *p, uint32_t bits) {
  uint32_t node = 1, value = 0;
  for (uint32_t i = 0; i < bits; i++) {
    const uint32_t one = bit(d, &p[node]);
    node = node << 1 | one;
    value |= one << i;
  }
  return value;
}

static uint32_t length(range_decoder *d, length_coder *c, uint32_t position) {
  if (bit(d, &c->choice) == 0) return tree(d, c->low[position], 3);
  if (bit(d, &c->choice_high) == 0) return 8 + tree(d, c->middle[position], 3);
  return 16 + tree(d, c->high, 8);
}

/* Distance less one; or END_MARKER. `length` is less MIN_LENGTH. */
static uint32_t distance(range_decoder *d, probabilities *p, uint32_t length) {
  const uint32_t slot = tree(d, p->slot[length < DISTANCE_CLASSES - 1 ? length : DISTANCE_CLASSES - 1], 6);
  if (slot < 4) return slot;
  const uint32_t bits = (slot >> 1) - 1, base = (2 | (slot & 1)) << bits;
  /* Slots 4..13 share one table: slot's tree begins where base - slot says, so that trees do not overlap. */
  if (slot < 14) return base + reverse_tree(d, p->distance + (base - slot), bits);
  const uint32_t high = direct_bits(d, bits - ALIGN_BITS);
  return base + (high << ALIGN_BITS) + reverse_tree(d, p->align, ALIGN_BITS);
}

/* match: the byte at the last distance, or -1 where the last thing decoded was a literal. */
static uint8_t literal(range_decoder *d, probability *p, int32_t match) {
  uint32_t node = 1;
  if (match >= 0) { /* the byte is likely to differ from `match`: its bits choose the probabilities while they agree */
    uint32_t rest = (uint32_t)match;
    while (node < 0x100) {
      const uint32_t expected = rest >> 7 & 1, got = bit(d, &p[((1 + expected) << 8) + node]);
      rest <<= 1;
      node = node << 1 | got;
      if (got != expected) break;
    }
  }
  while (node < 0x100) node = node << 1 | bit(d, &p[node]);
  return (uint8_t)node;
}

static void reset(probabilities *p) {
  probability *all = (probability *)(void *)p;
  for (size_t i = 0; i < sizeof *p / sizeof *all; i++) all[i] = HALF;
}

typedef struct {
  uint32_t literal_bits, literal_mask, position_mask; /* lc, 2^lp - 1, 2^pb - 1 */
} properties;

/* last: the last four distances, less one. Moves number `which` of them to the front. */
static void move_to_front(uint32_t last[4], uint32_t which) {
  const uint32_t found = last[which];
  memmove(last + 1, last, which * sizeof *last);
  last[0] = found;
}

static uint32_t repeated(range_decoder *d, probabilities *p, uint32_t state) {
  if (bit(d, &p->is_older[state]) == 0) return 0;
  if (bit(d, &p->is_third_or_fourth[state]) == 0) return 1;
  return 2 + bit(d, &p->is_fourth[state]);
}

static bool decode(range_decoder *d, probabilities *p, mb_window *w, properties props) {
  uint32_t state = 0, last[4] = {0}; /* state: what kinds of things came last; from 7 on not a literal */
  while (!d->overrun) {
    const uint32_t position = (uint32_t)w->given & props.position_mask;
    if (bit(d, &p->is_match[state][position]) == 0) {
      const uint32_t before = w->given > 0 ? mb_window_back(w, 1) : 0;
      const uint32_t coder =
          (((uint32_t)w->given & props.literal_mask) << props.literal_bits) + (before >> (8 - props.literal_bits));
      /* A state from 7 on means that a copy from last[0] has succeeded: the byte is there. */
      const int32_t match = state >= 7 ? mb_window_back(w, last[0] + (size_t)1) : -1;
      if (!mb_window_put(w, literal(d, p->literal[coder], match))) return false;
      state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
      continue;
    }
    uint32_t count;
    if (bit(d, &p->is_repeat[state]) == 0) {
      memmove(last + 1, last, 3 * sizeof *last);
      count = MIN_LENGTH + length(d, &p->match_length, position);
      last[0] = distance(d, p, count - MIN_LENGTH);
      if (last[0] == END_MARKER) break;
      state = state < 7 ? 7 : 10;
    } else {
      const uint32_t which = repeated(d, p, state);
      move_to_front(last, which);
      if (which == 0 && bit(d, &p->is_long[state][position]) == 0) {
        count = 1;
        state = state < 7 ? 9 : 11;
      } else {
        count = MIN_LENGTH + length(d, &p->repeat_length, position);
        state = state < 7 ? 8 : 11;
      }
    }
    if (!mb_window_copy(w, last[0] + (size_t)1, count)) return false;
  }
  normalise(d);
  return !d->overrun && d->code == 0 && d->at == d->end && w->given == w->limit;
}

size_t mb_lzma_scratch_bytes(void) { return sizeof(scratch_space); }

bool mb_lzma_body(const mb_entropy_body *body, void *scratch, mb_sink sink, void *context, const char **reason) {
  scratch_space *s = scratch;
  const uint32_t lc = body->properties % 9, lp = body->properties / 9 % 5, pb = body->properties / 45;
  *reason = "LZMA-coded blob is damaged";
  if (pb > 4 || lc + lp > 4 || body->bytes < 5 || body->data[0] != 0) return false;
  mb_window w = {.data = s->window,
                 .size = sizeof s->window,
                 .limit = body->inner->payload_bytes,
                 .sink = sink,
                 .context = context};
  range_decoder d = {.at = body->data + 5, .end = body->data + body->bytes, .range = 0xffffffffu};
  for (uint32_t i = 1; i < 5; i++) d.code = d.code << 8 | body->data[i];
  reset(&s->p);
  const properties props = {lc, (1u << lp) - 1, (1u << pb) - 1};
  const bool done = decode(&d, &s->p, &w, props) && mb_window_flush(&w);
  if (done || w.stopped) *reason = NULL;
  return done;
}
