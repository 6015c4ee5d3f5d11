/* The deterministic automaton of a program, by its sets of steps (Rabin and Scott 1959). A state is made when it is
 * first reached, in a memory of fixed size. */
#ifndef MB_CONSTRAINT_AUTOMATON_H
#define MB_CONSTRAINT_AUTOMATON_H

#include "constraint/program.h"

enum {
  STATE_UNKNOWN = 0, /* not made yet: never seen outside */
  STATE_DEAD = 1,    /* no text goes on like this */
  STATE_FIRST = 2,
  AUTOMATON_MOST_STATES = 1 << 14,
};

typedef struct {
  uint32_t set, count; /* its steps: sets[set ... set + count - 1], ascending, BYTES and END only */
  bool whole;          /* the text may end here */
  bool last;           /* and has to */
} automaton_state;

typedef struct {
  program_step *steps;
  uint32_t step_count, begin;
  uint8_t class_of[256]; /* bytes of a class are treated alike */
  uint8_t sample[256];   /* one byte of each class */
  uint32_t class_count;
  uint16_t *next;          /* [state_room][class_count]: STATE_UNKNOWN where nobody asked yet */
  automaton_state *states; /* [state_room] */
  uint32_t state_count, state_room;
  uint32_t *sets;
  uint32_t set_count;
  uint16_t *table;          /* states by their sets: open addressing, STATE_UNKNOWN: free */
  uint32_t *marks, marking; /* [step_count]: seen in this closure */
  uint32_t *pile, *found;   /* [step_count] */
  bool full;                /* a state was wanted that there is no memory for; it was given as STATE_DEAD */
} automaton;

/* Takes over the steps of a finished program. MB_ERROR_MEMORY. Close it in either case. */
mb_status automaton_open(automaton *a, program *p, uint32_t begin);
void automaton_close(automaton *a);
uint64_t automaton_bytes(const automaton *a);
/* Of the largest program. */
uint64_t automaton_most_bytes(void);
/* Where texts begin. Forgets all other states where memory is short. */
uint16_t automaton_first(automaton *a);
/* The state behind a byte of a class. */
uint16_t automaton_make(automaton *a, uint16_t state, uint8_t class);
static inline uint16_t automaton_next(automaton *a, uint16_t state, uint8_t byte) {
  const uint8_t class = a->class_of[byte];
  const uint16_t next = a->next[(size_t)state * a->class_count + class];
  return next == STATE_UNKNOWN ? automaton_make(a, state, class) : next;
}
/* Whether so little memory is left that it should be renewed before much is asked. */
bool automaton_crowded(const automaton *a);
/* Forgets all states but this one; returns its new number. */
uint16_t automaton_renew(automaton *a, uint16_t state);

#endif
