#include "constraint/automaton.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum {
  MOST_NEXT = 1 << 20, /* entries of the table of next states */
  MOST_IN_SETS = 1 << 18,
  TABLE_SLOTS = 1 << 15,
};

/* Where classes of bytes begin whatever the program: so that a class is of plain characters or is not, and of one kind
 * of UTF-8's bytes. */
static const uint8_t borders[] = {0x20, 0x22, 0x23, 0x5C, 0x5D, 0x80, 0x90, 0xA0, 0xC0,
                                  0xC2, 0xE0, 0xE1, 0xED, 0xEE, 0xF0, 0xF1, 0xF4, 0xF5};

static void make_classes(automaton *a) {
  bool begins[257] = {true};
  for (size_t i = 0; i < sizeof borders; i++) begins[borders[i]] = true;
  for (uint32_t i = 0; i < a->step_count; i++) {
    if (a->steps[i].kind != STEP_BYTES) continue;
    begins[a->steps[i].low] = true;
    begins[a->steps[i].high + 1] = true;
  }
  for (uint32_t byte = 0; byte < 256; byte++) {
    if (begins[byte]) a->sample[a->class_count++] = (uint8_t)byte;
    a->class_of[byte] = (uint8_t)(a->class_count - 1);
  }
}

/* Ascending (Shell 1959, gaps of Ciura 2001). */
static void sort(uint32_t *at, uint32_t count) {
  static const uint32_t gaps[] = {16577, 7369, 3276, 1456, 647, 288, 128, 57, 23, 10, 4, 1};
  for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++) {
    const uint32_t gap = gaps[g];
    for (uint32_t i = gap; i < count; i++) {
      const uint32_t moved = at[i];
      uint32_t j = i;
      for (; j >= gap && at[j - gap] > moved; j -= gap) at[j] = at[j - gap];
      at[j] = moved;
    }
  }
}

/* Puts what is reached from a step without reading a byte into found[]. */
static void reach(automaton *a, uint32_t step, uint32_t *count) {
  uint32_t piled = 0;
  if (a->marks[step] == a->marking) return;
  a->marks[step] = a->marking;
  a->pile[piled++] = step;
  while (piled > 0) {
    const uint32_t at = a->pile[--piled];
    const program_step *s = &a->steps[at];
    if (s->kind != STEP_GO) a->found[(*count)++] = at;
    const uint32_t to[] = {s->kind == STEP_GO ? s->next : PROGRAM_NOWHERE, s->other};
    for (size_t i = 0; i < 2; i++) {
      if (to[i] == PROGRAM_NOWHERE || a->marks[to[i]] == a->marking) continue;
      a->marks[to[i]] = a->marking;
      a->pile[piled++] = to[i];
    }
  }
}

static void begin_set(automaton *a) {
  if (++a->marking == 0) {
    memset(a->marks, 0, a->step_count * sizeof *a->marks);
    a->marking = 1;
  }
}

/* The state of found[count]. */
static uint16_t state_of(automaton *a, uint32_t count) {
  if (count == 0) return STATE_DEAD;
  sort(a->found, count);
  uint32_t hash = 2166136261u; /* FNV-1a, by words */
  for (uint32_t i = 0; i < count; i++) hash = (hash ^ a->found[i]) * 16777619u;
  uint32_t slot = (hash ^ hash >> 15) % TABLE_SLOTS;
  for (; a->table[slot] != STATE_UNKNOWN; slot = (slot + 1) % TABLE_SLOTS) {
    const automaton_state *s = &a->states[a->table[slot]];
    if (s->count == count && memcmp(a->sets + s->set, a->found, count * sizeof *a->sets) == 0) return a->table[slot];
  }
  if (a->state_count == a->state_room || count > MOST_IN_SETS - a->set_count) {
    a->full = true;
    return STATE_DEAD;
  }
  automaton_state made = {.set = a->set_count, .count = count};
  memcpy(a->sets + made.set, a->found, count * sizeof *a->sets);
  for (uint32_t i = 0; i < count; i++) made.whole = made.whole || a->steps[a->found[i]].kind == STEP_END;
  made.last = made.whole && count == 1;
  a->set_count += count;
  a->states[a->state_count] = made;
  memset(a->next + (size_t)a->state_count * a->class_count, 0, a->class_count * sizeof *a->next);
  a->table[slot] = (uint16_t)a->state_count;
  return (uint16_t)a->state_count++;
}

uint16_t automaton_make(automaton *a, uint16_t state, uint8_t class) {
  const automaton_state s = a->states[state];
  const uint8_t byte = a->sample[class];
  uint32_t count = 0;
  begin_set(a);
  for (uint32_t i = 0; i < s.count; i++) {
    const program_step *step = &a->steps[a->sets[s.set + i]];
    if (step->kind == STEP_BYTES && step->low <= byte && byte <= step->high) reach(a, step->next, &count);
  }
  const uint16_t next = state_of(a, count);
  if (!a->full) a->next[(size_t)state * a->class_count + class] = next;
  return next;
}

static void forget(automaton *a) {
  memset(a->table, 0, TABLE_SLOTS * sizeof *a->table);
  a->state_count = STATE_FIRST;
  a->set_count = 0;
  a->full = false;
}

uint16_t automaton_first(automaton *a) {
  uint32_t count = 0;
  if (automaton_crowded(a)) forget(a);
  begin_set(a);
  reach(a, a->begin, &count);
  return state_of(a, count);
}

mb_status automaton_open(automaton *a, program *p, uint32_t begin) {
  *a = (automaton){.steps = p->steps, .step_count = p->count, .begin = begin};
  p->steps = NULL;
  make_classes(a);
  a->state_room = MOST_NEXT / a->class_count;
  if (a->state_room > AUTOMATON_MOST_STATES) a->state_room = AUTOMATON_MOST_STATES;
  a->next = malloc((size_t)a->state_room * a->class_count * sizeof *a->next);
  a->states = malloc(a->state_room * sizeof *a->states);
  a->sets = malloc(MOST_IN_SETS * sizeof *a->sets);
  a->table = malloc(TABLE_SLOTS * sizeof *a->table);
  a->marks = calloc(a->step_count, sizeof *a->marks);
  a->pile = malloc(a->step_count * sizeof *a->pile);
  a->found = malloc(a->step_count * sizeof *a->found);
  if (!a->next || !a->states || !a->sets || !a->table || !a->marks || !a->pile || !a->found)
    return mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  forget(a);
  return MB_OK;
}

void automaton_close(automaton *a) {
  free(a->steps);
  free(a->next);
  free(a->states);
  free(a->sets);
  free(a->table);
  free(a->marks);
  free(a->pile);
  free(a->found);
  *a = (automaton){0};
}

/* next_entries: of the table of next states. */
static uint64_t bytes_of(uint64_t steps, uint64_t states, uint64_t next_entries) {
  const automaton *a = NULL;
  return steps * (sizeof *a->steps + sizeof *a->marks + sizeof *a->pile + sizeof *a->found) +
         next_entries * sizeof *a->next + states * sizeof *a->states + MOST_IN_SETS * sizeof *a->sets +
         TABLE_SLOTS * sizeof *a->table;
}

uint64_t automaton_bytes(const automaton *a) {
  return bytes_of(a->step_count, a->state_room, (uint64_t)a->state_room * a->class_count);
}

uint64_t automaton_most_bytes(void) { return bytes_of(PROGRAM_MOST_STEPS, AUTOMATON_MOST_STATES, MOST_NEXT); }

bool automaton_crowded(const automaton *a) {
  return a->full || a->state_count > a->state_room / 2 || a->set_count > MOST_IN_SETS / 2;
}

uint16_t automaton_renew(automaton *a, uint16_t state) {
  const automaton_state kept = a->states[state];
  memcpy(a->found, a->sets + kept.set, kept.count * sizeof *a->found);
  forget(a);
  return state_of(a, kept.count);
}
