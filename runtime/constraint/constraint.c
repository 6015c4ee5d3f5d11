/* Which tokens may come next.
 *
 * The tokens of a state are found by walking the trie with the automaton, and kept: most states come again. In a JSON
 * string nearly all tokens are allowed, and a state that counts characters does not come again, so walking would cost
 * more than decoding. There it is enough to know how many plain characters, whichever they are, the state can read:
 * `sure` of them can always follow, and where no more than that ever can, exactly the plain tokens of at most so many
 * characters are allowed. Their masks are made once. What is left to walk are the few tokens that are not plain.
 *
 * Elsewhere, in "[a-z]{1,50}" for instance, states that count are often alike as far as most tokens reach: what follows
 * the two is compared, and the mask is copied, but for the few tokens that are longer. */
#include "constraint/constraint.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "constraint/automaton.h"
#include "constraint/vocabulary.h"

enum {
  MASKS_BYTES = 1 << 20, /* of all kept masks */
  AREAS = 24,            /* that are allocated at once, at most */
  AREA_END = 16 << 10,   /* of each a part of a page is lost */
  TEXTS = 4, /* copies of the form's text: a line while it is read, twice, the request's, what is kept of it */
  LEAST_MASKS = 8,
  NO_MASK = UINT16_MAX,
  MOST_FOLLOWING = 64, /* states behind a plain character */
  MOST_PAIRS = 512,    /* of states that are compared */
  DEAR_NODES = 2000,   /* of the trie: a walk over more of them is worth looking for a mask of a state that is alike */
  MOST_CANDIDATES = 24,
};

/* Numbers of plain characters that are known of a state. */
typedef struct {
  uint16_t only;    /* the state behind any of them, where that is one; STATE_DEAD: it is not; STATE_UNKNOWN */
  uint8_t sure;     /* so many can follow, whichever they are */
  uint8_t unsure;   /* this many cannot, if they are unlucky; 0: not known */
  uint8_t possible; /* some text of so many can follow */
  uint8_t too_many; /* none of this many can; 0: not known */
} plain_knowledge;

/* Which mask is a state's, if it was not made anew for another since. */
typedef struct {
  uint16_t slot; /* NO_MASK: none */
  uint16_t making;
} kept_mask;

typedef struct {
  uint16_t state;  /* that it was made for; STATE_UNKNOWN: none */
  uint16_t making; /* how often it was made */
  uint32_t nodes;  /* of the trie that it took */
} mask_owner;

struct mb_constraint {
  const mb_vocabulary *vocabulary;
  automaton automaton;
  uint16_t state;
  bool ended;      /* by an end token */
  uint32_t *masks; /* [mask_count][words] */
  uint32_t mask_count, next_mask;
  kept_mask *mask_of;         /* [state_room] */
  mask_owner *owners;         /* [mask_count] */
  plain_knowledge *knowledge; /* [state_room] */
};

/* Forgets what was known of states: they are about to be numbered anew. */
static void forget(mb_constraint *c) {
  memset(c->mask_of, 0xFF, c->automaton.state_room * sizeof *c->mask_of);
  for (uint32_t i = 0; i < c->mask_count; i++) c->owners[i].state = STATE_UNKNOWN;
  memset(c->knowledge, 0, c->automaton.state_room * sizeof *c->knowledge);
}

static mb_status compile(mb_constraint_kind kind, const char *text, size_t bytes, automaton *out) {
  program p;
  if (!program_begin(&p)) return mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  const fragment whole = kind == MB_CONSTRAINT_REGEX ? regex_compile(&p, "regex", text, bytes, REGEX_WHOLE)
                                                     : schema_compile(&p, text, bytes);
  uint32_t begin;
  mb_status status = program_finish(&p, whole, &begin);
  if (status == MB_OK) status = automaton_open(out, &p, begin);
  program_free(&p);
  return status;
}

/* How many masks of so many words are kept. */
static uint32_t count_masks(size_t words) {
  const uint32_t count = (uint32_t)(MASKS_BYTES / (words * sizeof(uint32_t)));
  return count < LEAST_MASKS ? LEAST_MASKS : count >= NO_MASK ? NO_MASK - 1 : count;
}

static mb_status make_room(mb_constraint *c) {
  const size_t words = c->vocabulary->words;
  c->mask_count = count_masks(words);
  c->masks = malloc(c->mask_count * words * sizeof *c->masks);
  c->mask_of = malloc(c->automaton.state_room * sizeof *c->mask_of);
  c->owners = calloc(c->mask_count, sizeof *c->owners);
  c->knowledge = malloc(c->automaton.state_room * sizeof *c->knowledge);
  if (!c->masks || !c->mask_of || !c->owners || !c->knowledge)
    return mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  forget(c);
  return MB_OK;
}

mb_status mb_constraint_open(const mb_vocabulary *vocabulary, mb_constraint_kind kind, const char *text, size_t bytes,
                             mb_constraint **out) {
  *out = NULL;
  if (bytes > MB_CONSTRAINT_MOST_TEXT)
    return mb_fail(MB_ERROR_ARGUMENT, "%s of %zu bytes: at most %d are supported",
                   kind == MB_CONSTRAINT_REGEX ? "a regex" : "a json_schema", bytes, MB_CONSTRAINT_MOST_TEXT);
  mb_constraint *c = calloc(1, sizeof *c);
  if (!c) return mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  c->vocabulary = vocabulary;
  mb_status status = compile(kind, text, bytes, &c->automaton);
  if (status == MB_OK) status = make_room(c);
  if (status != MB_OK) {
    mb_constraint_close(c);
    return status;
  }
  mb_constraint_begin(c);
  *out = c;
  return MB_OK;
}

void mb_constraint_close(mb_constraint *c) {
  if (!c) return;
  automaton_close(&c->automaton);
  free(c->masks);
  free(c->mask_of);
  free(c->owners);
  free(c->knowledge);
  free(c);
}

/* Of masks and of what is known of states. */
static uint64_t bytes_of(uint64_t masks, uint64_t words, uint64_t states) {
  const mb_constraint *c = NULL;
  return masks * (words * sizeof *c->masks + sizeof *c->owners) + states * (sizeof *c->mask_of + sizeof *c->knowledge);
}

uint64_t mb_constraint_bytes(const mb_constraint *c) {
  return automaton_bytes(&c->automaton) + bytes_of(c->mask_count, c->vocabulary->words, c->automaton.state_room);
}

uint64_t mb_constraint_most_bytes(const mb_tokenizer *tokenizer, uint32_t vocabulary) {
  const uint32_t words = (vocabulary + 31) / 32;
  uint64_t making;
  const uint64_t kept = vocabulary_most_bytes(tokenizer, vocabulary, &making);
  const uint64_t form = automaton_most_bytes() + bytes_of(count_masks(words), words, AUTOMATON_MOST_STATES) +
                        TEXTS * (uint64_t)MB_CONSTRAINT_MOST_TEXT;
  return kept + (making > form ? making : form) + AREAS * AREA_END;
}

void mb_constraint_begin(mb_constraint *c) {
  if (automaton_crowded(&c->automaton)) forget(c);
  c->state = automaton_first(&c->automaton);
  c->ended = false;
}

/* Where a text in UTF-8 stands within a character: how many bytes are missing, and which the next one may be. */
typedef struct {
  uint8_t missing, low, high;
} within;

/* false: the byte cannot come there. Of plain characters only. */
static bool read_plain(within *w, uint8_t byte) {
  if (w->missing > 0) {
    if (byte < w->low || byte > w->high) return false;
    *w = (within){(uint8_t)(w->missing - 1), 0x80, 0xBF};
    return true;
  }
  if (byte < 0x20 || byte == '"' || byte == '\\' || (byte >= 0x80 && byte < 0xC2) || byte > 0xF4) return false;
  *w = (within){(uint8_t)(byte < 0x80   ? 0
                          : byte < 0xE0 ? 1
                          : byte < 0xF0 ? 2
                                        : 3),
                (uint8_t)(byte == 0xE0   ? 0xA0
                          : byte == 0xF0 ? 0x90
                                         : 0x80),
                (uint8_t)(byte == 0xED   ? 0x9F
                          : byte == 0xF4 ? 0x8F
                                         : 0xBF)};
  return true;
}

typedef struct {
  uint16_t state;
  within within;
} reached;

static bool same(const reached *a, const reached *b) {
  return a->state == b->state && a->within.missing == b->within.missing &&
         (a->within.missing == 0 || (a->within.low == b->within.low && a->within.high == b->within.high));
}

/* The states that can be behind one plain character. *all: every plain character leads to one. false: too many to say.
 */
static bool follow(mb_constraint *c, uint16_t state, uint16_t *states, uint32_t *count, bool *all) {
  automaton *a = &c->automaton;
  reached list[MOST_FOLLOWING] = {{.state = state}};
  uint32_t known = 1;
  *count = 0;
  *all = true;
  for (uint32_t i = 0; i < known; i++) {
    if (i > 0 && list[i].within.missing == 0) {
      states[(*count)++] = list[i].state;
      continue;
    }
    const within *w = &list[i].within;
    const uint32_t last = a->class_of[w->missing ? w->high : 0xF4];
    for (uint32_t class = a->class_of[w->missing ? w->low : 0x20]; class <= last; class++) {
      reached next = {.within = list[i].within};
      if (!read_plain(&next.within, a->sample[class])) continue;
      next.state = automaton_next(a, list[i].state, a->sample[class]);
      if (next.state == STATE_DEAD) {
        *all = false;
        continue;
      }
      uint32_t seen = 1;
      while (seen < known && !same(&list[seen], &next)) seen++;
      if (seen < known) continue;
      if (known == MOST_FOLLOWING) return false;
      list[known++] = next;
    }
  }
  return true;
}

/* The one state behind any plain character; STATE_DEAD where it depends on the character. */
static uint16_t only_following(mb_constraint *c, uint16_t state) {
  plain_knowledge *k = &c->knowledge[state];
  if (k->only == STATE_UNKNOWN) {
    uint16_t states[MOST_FOLLOWING];
    uint32_t count;
    bool all;
    k->only = follow(c, state, states, &count, &all) && all && count == 1 ? states[0] : STATE_DEAD;
  }
  return k->only;
}

/* Whether so many plain characters can follow, whichever they are. */
static bool surely(mb_constraint *c, uint16_t state, uint8_t many) {
  plain_knowledge *k = &c->knowledge[state];
  if (many <= k->sure) return true;
  if (k->unsure && many >= k->unsure) return false;
  const uint16_t only = only_following(c, state);
  bool yes = only != STATE_DEAD;
  if (yes) {
    yes = only == state || surely(c, only, (uint8_t)(many - 1));
  } else {
    uint16_t states[MOST_FOLLOWING];
    uint32_t count;
    bool all;
    yes = follow(c, state, states, &count, &all) && all;
    for (uint32_t i = 0; yes && i < count; i++) yes = surely(c, states[i], (uint8_t)(many - 1));
  }
  if (yes) {
    k->sure = many;
  } else {
    k->unsure = many;
  }
  return yes;
}

/* Whether some text of so many plain characters can follow. */
static bool possibly(mb_constraint *c, uint16_t state, uint8_t many) {
  plain_knowledge *k = &c->knowledge[state];
  if (many <= k->possible) return true;
  if (k->too_many && many >= k->too_many) return false;
  uint16_t states[MOST_FOLLOWING];
  uint32_t count;
  bool all, yes = !follow(c, state, states, &count, &all);
  for (uint32_t i = 0; !yes && i < count; i++) yes = possibly(c, states[i], (uint8_t)(many - 1));
  if (yes) {
    k->possible = many;
  } else {
    k->too_many = many;
  }
  return yes;
}

typedef struct {
  uint16_t a, b;
} state_pair;

/* Whether the two go on alike for SHORT_BYTES, so that they allow the same tokens but for longer ones. false also where
 * it would take too long to tell. */
static bool alike(mb_constraint *c, uint16_t a, uint16_t b) {
  automaton *m = &c->automaton;
  state_pair pairs[MOST_PAIRS] = {{a, b}};
  uint32_t known = 1, at = 0;
  if (m->states[a].whole != m->states[b].whole) return false;
  for (uint32_t depth = 0; depth < SHORT_BYTES && at < known; depth++) {
    for (const uint32_t level = known; at < level; at++) {
      for (uint32_t class = 0; class < m->class_count; class++) {
        const state_pair next = {automaton_next(m, pairs[at].a, m->sample[class]),
                                 automaton_next(m, pairs[at].b, m->sample[class])};
        if (next.a == next.b) continue;
        if (next.a == STATE_DEAD || next.b == STATE_DEAD) return false;
        uint32_t seen = known; /* most often one of the last */
        while (seen > 0 && (pairs[seen - 1].a != next.a || pairs[seen - 1].b != next.b)) seen--;
        if (seen > 0) continue;
        if (known == MOST_PAIRS) return false;
        pairs[known++] = next;
      }
    }
  }
  return !m->full;
}

/* Adds the tokens of the trie that the state can go on with. Returns how many nodes were looked at. */
static uint32_t walk(mb_constraint *c, const trie *t, uint16_t state, uint32_t *mask) {
  uint32_t nodes = 0;
  uint16_t states[TOKEN_MOST_BYTES + 1];
  states[0] = state;
  for (uint32_t i = 0; i < t->count; nodes++) {
    const trie_node node = t->nodes[i];
    const uint16_t next = automaton_next(&c->automaton, states[node.depth], node.byte);
    if (next == STATE_DEAD) {
      i = (uint32_t)node.end;
      continue;
    }
    if (node.token != TOKEN_NONE) mask_set(mask, (uint32_t)node.token);
    states[node.depth + 1] = next;
    i++;
  }
  return nodes;
}

/* Sets the plain tokens if counting characters tells which. */
static bool count_plain(mb_constraint *c, uint16_t state, uint32_t *mask) {
  const mb_vocabulary *v = c->vocabulary;
  const uint8_t longest = (uint8_t)v->longest;
  uint8_t most = 0;
  if (longest == 0 || !surely(c, state, 1)) return false;
  if (surely(c, state, longest)) {
    most = longest;
  } else {
    while (surely(c, state, (uint8_t)(most + 1))) most++;
    if (possibly(c, state, (uint8_t)(most + 1))) return false;
  }
  const uint32_t *plain = v->plain_masks + (size_t)((most < PLAIN_MASKS ? most : PLAIN_MASKS) - 1) * v->words;
  for (uint32_t i = 0; i < v->words; i++) mask[i] |= plain[i];
  for (uint32_t i = 0; i < v->long_count && v->long_tokens[i].length <= most; i++)
    mask_set(mask, (uint32_t)v->long_tokens[i].token);
  return true;
}

/* Copies the mask of a state that is alike, if there is one. `slot` is the mask's own. */
static bool copy_alike(mb_constraint *c, uint32_t slot, uint32_t *mask) {
  const mb_vocabulary *v = c->vocabulary;
  uint32_t tried = 0;
  for (uint32_t back = 1; back < c->mask_count && tried < MOST_CANDIDATES; back++) {
    const uint32_t other = (slot + c->mask_count - back) % c->mask_count;
    const mask_owner *owner = &c->owners[other];
    if (owner->state == STATE_UNKNOWN) return false;
    if (owner->nodes < DEAR_NODES) continue;
    tried++;
    if (!alike(c, c->state, owner->state)) continue;
    const uint32_t *made = c->masks + (size_t)other * v->words;
    for (uint32_t i = 0; i < v->words; i++) mask[i] = made[i] & ~v->longs_mask[i];
    walk(c, &v->longs, c->state, mask);
    return true;
  }
  return false;
}

/* Returns how many nodes of the trie were looked at. */
static uint32_t find_allowed(mb_constraint *c, uint32_t slot, uint32_t *mask) {
  const mb_vocabulary *v = c->vocabulary;
  if (copy_alike(c, slot, mask)) return 0;
  memset(mask, 0, v->words * sizeof *mask);
  uint32_t nodes = count_plain(c, c->state, mask) ? 0 : walk(c, &v->plain, c->state, mask);
  nodes += walk(c, &v->others, c->state, mask);
  if (mb_constraint_may_end(c)) {
    for (uint32_t i = 0; i < v->words; i++) mask[i] |= v->ends[i];
  }
  return nodes;
}

static bool is_empty(const uint32_t *mask, uint32_t words) {
  for (uint32_t i = 0; i < words; i++) {
    if (mask[i]) return false;
  }
  return true;
}

static void renew(mb_constraint *c) {
  c->state = automaton_renew(&c->automaton, c->state);
  forget(c);
}

/* The state's mask where it was made before and is still there; NULL: it is not. */
static const uint32_t *kept(const mb_constraint *c) {
  const kept_mask *k = &c->mask_of[c->state];
  if (k->slot == NO_MASK || c->owners[k->slot].making != k->making) return NULL;
  return c->masks + (size_t)k->slot * c->vocabulary->words;
}

/* Makes the state's mask in the slot that was made longest ago. */
static mb_status make_mask(mb_constraint *c) {
  const mb_vocabulary *v = c->vocabulary;
  const uint32_t slot = c->next_mask;
  mask_owner *owner = &c->owners[slot];
  uint32_t *mask = c->masks + (size_t)slot * v->words;
  c->next_mask = (slot + 1) % c->mask_count;
  owner->state = STATE_UNKNOWN;
  owner->making++;
  owner->nodes = find_allowed(c, slot, mask);
  if (c->automaton.full) {
    renew(c);
    owner->nodes = find_allowed(c, slot, mask);
    if (c->automaton.full)
      return mb_fail(MB_ERROR_MEMORY, "the answer's form is too ambiguous: its automaton outgrows its memory");
  }
  if (is_empty(mask, v->words))
    return mb_fail(MB_ERROR_ARGUMENT, "this vocabulary has no token that the answer's form can go on with");
  owner->state = c->state;
  c->mask_of[c->state] = (kept_mask){(uint16_t)slot, owner->making};
  return MB_OK;
}

mb_status mb_constraint_allowed(mb_constraint *c, const uint32_t **allowed) {
  if (c->ended) return mb_fail(MB_ERROR_ARGUMENT, "the answer has ended");
  *allowed = kept(c);
  if (*allowed) return MB_OK;
  if (automaton_crowded(&c->automaton)) renew(c);
  const mb_status status = make_mask(c);
  if (status == MB_OK) *allowed = kept(c);
  return status;
}

/* The state behind a token, which does not end the answer; STATE_DEAD: it is not allowed. */
static uint16_t behind(mb_constraint *c, uint16_t state, int32_t token) {
  uint8_t bytes[TOKEN_MOST_BYTES];
  if (token < 0 || (uint32_t)token >= c->vocabulary->size) return STATE_DEAD;
  const size_t count = c->vocabulary->text(c->vocabulary->source, (uint32_t)token, bytes);
  if (count == 0 || count > sizeof bytes) return STATE_DEAD;
  for (size_t i = 0; i < count && state != STATE_DEAD; i++) state = automaton_next(&c->automaton, state, bytes[i]);
  return state;
}

static bool is_end(const mb_constraint *c, int32_t token) {
  return token >= 0 && (uint32_t)token < c->vocabulary->size && mask_has(c->vocabulary->ends, (uint32_t)token);
}

mb_status mb_constraint_accept(mb_constraint *c, int32_t token) {
  if (!c->ended && is_end(c, token) && mb_constraint_may_end(c)) {
    c->ended = true;
    return MB_OK;
  }
  uint16_t next = STATE_DEAD;
  if (!c->ended && !is_end(c, token)) {
    next = behind(c, c->state, token);
    if (next == STATE_DEAD && c->automaton.full) {
      renew(c);
      next = behind(c, c->state, token);
    }
  }
  if (next == STATE_DEAD) return mb_fail(MB_ERROR_ARGUMENT, "token %d does not go on with the answer's form", token);
  c->state = next;
  return MB_OK;
}

size_t mb_constraint_fitting(mb_constraint *c, const int32_t *tokens, size_t count) {
  uint16_t state = c->ended ? STATE_DEAD : c->state;
  for (size_t i = 0; i < count; i++) {
    if (state != STATE_DEAD && !is_end(c, tokens[i]))
      state = behind(c, state, tokens[i]);
    else
      state = STATE_DEAD;
    if (state == STATE_DEAD) return i;
  }
  return count;
}

bool mb_constraint_may_end(const mb_constraint *c) { return c->ended || c->automaton.states[c->state].whole; }

bool mb_constraint_complete(const mb_constraint *c) { return c->ended || c->automaton.states[c->state].last; }
