#include "constraint/program.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

bool program_begin(program *p) {
  *p = (program){.room = 256, .count = 1};
  p->steps = malloc(p->room * sizeof *p->steps);
  if (!p->steps) return false;
  p->steps[0] = (program_step){PROGRAM_NOWHERE, PROGRAM_NOWHERE, STEP_GO, 0, 0};
  return true;
}

void program_free(program *p) {
  free(p->steps);
  p->steps = NULL;
}

static mb_status too_large(program *p) {
  return p->status =
             mb_fail(MB_ERROR_ARGUMENT,
                     "the answer's form is too large: fewer or shorter repetitions are needed (minItems, maxLength)");
}

bool program_goes_on(program *p, size_t work) {
  if (p->status == MB_OK && (p->work += work) > PROGRAM_MOST_WORK) too_large(p);
  return p->status == MB_OK;
}

static uint32_t add(program *p, step_kind kind, uint8_t low, uint8_t high, uint32_t next, uint32_t other) {
  if (p->status != MB_OK) return 0;
  if (p->count == PROGRAM_MOST_STEPS) {
    too_large(p);
    return 0;
  }
  if (p->count == p->room) {
    program_step *grown = realloc(p->steps, 2 * (size_t)p->room * sizeof *grown);
    if (!grown) {
      p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
      return 0;
    }
    p->steps = grown;
    p->room *= 2;
  }
  p->steps[p->count] = (program_step){next, other, (uint8_t)kind, low, high};
  return p->count++;
}

static uint32_t go(program *p) { return add(p, STEP_GO, 0, 0, PROGRAM_NOWHERE, PROGRAM_NOWHERE); }

void program_lead(program *p, uint32_t from, uint32_t to) {
  if (p->status == MB_OK) p->steps[from].next = to;
}

uint32_t program_fork(program *p, uint32_t next, uint32_t other) { return add(p, STEP_GO, 0, 0, next, other); }

mb_status program_finish(program *p, fragment whole, uint32_t *begin) {
  const uint32_t end = add(p, STEP_END, 0, 0, PROGRAM_NOWHERE, PROGRAM_NOWHERE);
  program_lead(p, whole.end, end);
  *begin = whole.begin;
  return p->status;
}

fragment program_nothing(program *p) {
  const uint32_t at = go(p);
  return (fragment){at, at};
}

uint32_t program_read(program *p, uint8_t low, uint8_t high, uint32_t next) {
  return add(p, STEP_BYTES, low, high, next, PROGRAM_NOWHERE);
}

fragment program_literal(program *p, const void *bytes, size_t count) {
  const uint8_t *at = bytes;
  fragment whole = program_nothing(p);
  while (count-- > 0 && p->status == MB_OK) whole.begin = program_read(p, at[count], at[count], whole.begin);
  return whole;
}

fragment program_text(program *p, const char *text) { return program_literal(p, text, strlen(text)); }

fragment program_then(program *p, fragment first, fragment second) {
  program_lead(p, first.end, second.begin);
  return (fragment){first.begin, second.end};
}

fragment program_either(program *p, fragment one, fragment other) {
  const uint32_t end = go(p);
  program_lead(p, one.end, end);
  program_lead(p, other.end, end);
  return (fragment){program_fork(p, one.begin, other.begin), end};
}

fragment program_maybe(program *p, fragment piece) {
  const uint32_t end = go(p);
  program_lead(p, piece.end, end);
  return (fragment){program_fork(p, piece.begin, end), end};
}

fragment program_many(program *p, fragment piece) {
  const uint32_t end = go(p), begin = program_fork(p, piece.begin, end);
  program_lead(p, piece.end, begin);
  return (fragment){begin, end};
}

fragment program_once_or_more(program *p, fragment piece) {
  const uint32_t end = go(p);
  program_lead(p, piece.end, program_fork(p, piece.begin, end));
  return (fragment){piece.begin, end};
}

fragment program_repeat(program *p, program_make make, void *context, uint32_t least, uint32_t most) {
  fragment whole = program_nothing(p);
  for (uint32_t i = 0; i < least && program_goes_on(p, 1); i++) whole = program_then(p, whole, make(p, context));
  if (most == PROGRAM_ANY_NUMBER) return program_then(p, whole, program_many(p, make(p, context)));
  const uint32_t end = go(p);
  for (uint32_t i = least; i < most && program_goes_on(p, 1); i++) {
    const fragment piece = make(p, context);
    program_lead(p, whole.end, program_fork(p, piece.begin, end));
    whole.end = piece.end;
  }
  program_lead(p, whole.end, end);
  return (fragment){whole.begin, end};
}
