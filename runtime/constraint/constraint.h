/* What the files of constraints share: how a schema and an expression become a program. */
#ifndef MB_CONSTRAINT_CONSTRAINT_H
#define MB_CONSTRAINT_CONSTRAINT_H

#include "base/json.h"
#include "constraint/program.h"
#include "mobile_bundle/constraint.h"

/* Every function here reports in p->status, with the message set, and gives some fragment in any case. */

typedef enum {
  REGEX_WHOLE,   /* the whole text has to match, as it stands */
  REGEX_IN_JSON, /* some part of a JSON string's characters has to match: they are written as in the string */
} regex_use;

/* where: what the expression is, for messages. */
fragment regex_compile(program *p, const char *where, const char *text, size_t bytes, regex_use use);

/* text: a JSON schema. */
fragment schema_compile(program *p, const char *text, size_t bytes);

/* Whole numbers from low to high, low <= high, without leading zeros and without "-0". */
fragment number_integers(program *p, int64_t low, int64_t high);
/* Numbers from low to high without an exponent. above, below: low and high themselves are left out. */
fragment number_decimals(program *p, int64_t low, bool above, int64_t high, bool below);
/* Any number. */
fragment number_any(program *p);
/* Bounds and values are of at most so many digits. */
#define NUMBER_DIGITS 15
#define NUMBER_MOST 999999999999999
#define NUMBER_MOST_OPEN 1000000000 /* of a bound that is left out itself */

/* A value as it is written: ", " and ": " between, nothing else. */
fragment json_write(program *p, const char *where, const json_value *value);
/* The same of the characters of a string: quoted, escaped where it has to be. */
fragment json_write_string(program *p, const char *text, size_t bytes);

#endif
