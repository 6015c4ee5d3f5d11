/* The form that an answer has to have: a JSON schema or a regular expression (mobile_bundle/constraint.h). */
#ifndef MB_RUNNER_FORM_H
#define MB_RUNNER_FORM_H

#include "mobile_bundle/constraint.h"
#include "runner/bundle.h"

typedef struct {
  mb_constraint_kind kind;
  char *text; /* NULL: any form */
  size_t bytes;
} form;

/* What a bundle's answers in a form need: the vocabulary's trie, and what was made for the last form, since the next
 * request often has the same. {0}: nothing yet. */
typedef struct {
  mb_vocabulary *vocabulary;
  mb_constraint *constraint;
  form made_for; /* its own copy */
} form_maker;

/* Whether an answer with these options can have a form. */
mb_status form_check(const runner_options *options);
/* The command line's; free its text in either case. */
mb_status form_of_options(const runner_options *options, form *out);
/* *constraint: at its begin, the maker's own; NULL for a text of any form. */
mb_status form_make(form_maker *maker, const open_bundle *bundle, const form *wanted, mb_constraint **constraint);
/* The most that answers in a form take of memory. */
uint64_t form_most_bytes(const open_bundle *bundle);
/* Of memory that the maker may take. */
uint64_t form_bytes(const form_maker *maker);
void form_end(form_maker *maker);

#endif
