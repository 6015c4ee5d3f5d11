/* A nondeterministic automaton over bytes (Thompson 1968), made piece by piece. Every step leads to the end, so a set
 * of steps that is not empty can always go on. */
#ifndef MB_CONSTRAINT_PROGRAM_H
#define MB_CONSTRAINT_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mobile_bundle/mobile_bundle.h"

enum {
  PROGRAM_MOST_STEPS = 1 << 18,
  PROGRAM_MOST_WORK = 1 << 26, /* bytes of schemas and expressions that are read, copies counted each time */
};
#define PROGRAM_NOWHERE UINT32_MAX

typedef enum {
  STEP_GO,    /* to next and to other, reading nothing */
  STEP_BYTES, /* reads a byte from low to high and goes to next; besides, as if it were GO, to other */
  STEP_END,   /* the text is whole */
} step_kind;

typedef struct {
  uint32_t next, other; /* PROGRAM_NOWHERE: nowhere */
  uint8_t kind, low, high;
} program_step;

/* steps[0] leads nowhere: what is made after a failure is put there, so that only the end has to look at `status`. */
typedef struct {
  program_step *steps;
  uint32_t count, room;
  uint64_t work;
  mb_status status;
} program;

/* From `begin` to `end`, a GO whose next is nowhere yet. */
typedef struct {
  uint32_t begin, end;
} fragment;

/* Sorted, apart from each other, and within Unicode without surrogates after characters_settle. */
enum { CHARACTERS_MOST = 256, CHARACTERS_ROOM = CHARACTERS_MOST + 8 /* ranges that are cut in two */ };
typedef struct {
  uint32_t count;
  struct {
    uint32_t low, high;
  } ranges[CHARACTERS_ROOM];
} characters;

bool program_begin(program *p);
void program_free(program *p);
/* Counts work; false: it failed, now or before. */
bool program_goes_on(program *p, size_t work);
/* Makes `whole` the program; *begin: its first step. MB_ERROR_ARGUMENT: too large; MB_ERROR_MEMORY. */
mb_status program_finish(program *p, fragment whole, uint32_t *begin);

fragment program_nothing(program *p);
/* A step that reads a byte from low to high and goes on with `next`. */
uint32_t program_read(program *p, uint8_t low, uint8_t high, uint32_t next);
fragment program_literal(program *p, const void *bytes, size_t count);
fragment program_text(program *p, const char *text);
fragment program_then(program *p, fragment first, fragment second);
fragment program_either(program *p, fragment one, fragment other);
fragment program_maybe(program *p, fragment piece);
fragment program_many(program *p, fragment piece); /* any number, none too */
fragment program_once_or_more(program *p, fragment piece);
/* Leads from `from`, a fragment's end, to `to` and nowhere else. */
void program_lead(program *p, uint32_t from, uint32_t to);
/* A GO from one place to two. */
uint32_t program_fork(program *p, uint32_t next, uint32_t other);

#define PROGRAM_ANY_NUMBER UINT32_MAX
/* `make` makes one more copy. least <= most; most may be PROGRAM_ANY_NUMBER. */
typedef fragment (*program_make)(program *p, void *context);
fragment program_repeat(program *p, program_make make, void *context, uint32_t least, uint32_t most);

/* One character of the set, which is not empty, as UTF-8. */
fragment program_characters(program *p, const characters *set);
/* The same inside of a JSON string: quotes, backslashes and controls are escaped, in their shortest form. */
fragment program_json_characters(program *p, const characters *set);

bool characters_add(characters *set, uint32_t low, uint32_t high); /* false: too many ranges */
void characters_settle(characters *set);
/* Without those from low to high. Of a settled set; cuts at most one range in two. */
void characters_take_out(characters *set, uint32_t low, uint32_t high);
/* All others. */
void characters_complement(characters *set);

#endif
