/* What the files that compile JSON schemas share. */
#ifndef MB_CONSTRAINT_SCHEMA_H
#define MB_CONSTRAINT_SCHEMA_H

#include "constraint/constraint.h"

enum { PLACE_BYTES = 256, ANY_DEPTH = 3 };

/* Types, as bits. */
enum { OBJECT = 1, ARRAY = 2, STRING = 4, INTEGER = 8, NUMBER = 16, BOOLEAN = 32, NOTHING = 64, TYPE_COUNT = 7 };

/* Keywords that mean something here. */
typedef enum {
  KEY_TYPE,
  KEY_CONST,
  KEY_ENUM,
  KEY_REF,
  KEY_ANY_OF,
  KEY_ONE_OF,
  KEY_ALL_OF,
  KEY_PROPERTIES,
  KEY_REQUIRED,
  KEY_ADDITIONAL,
  KEY_ITEMS,
  KEY_MIN_ITEMS,
  KEY_MAX_ITEMS,
  KEY_MIN_LENGTH,
  KEY_MAX_LENGTH,
  KEY_PATTERN,
  KEY_FORMAT,
  KEY_MINIMUM,
  KEY_MAXIMUM,
  KEY_ABOVE,
  KEY_BELOW,
  KEY_COUNT,
} keyword;

/* A schema within the schema, and how it was come to. */
typedef struct place place;
struct place {
  const place *from;
  const char *step; /* of a JSON pointer, without the slash; NULL: the root */
  size_t step_bytes;
  const char *at; /* of the schema's text */
  int depth;
};

typedef struct {
  program *p;
  json_value root;
} compiler;

typedef struct {
  json_value values[KEY_COUNT];
  uint32_t present; /* bits: 1 << keyword */
} keywords;

static inline bool has(const keywords *k, keyword key) { return k->present >> key & 1; }

/* schema.c
 *
 * "#/properties/name", what is too long without its begin. */
void say_place(const place *where, char out[PLACE_BYTES]);
/* Fails; what: with one %s, for the name. */
fragment refuse(compiler *c, const place *where, const char *what, const char *name);
place place_below(const place *from, const json_value *schema, const char *step, size_t bytes);
extern const char *const keyword_names[KEY_COUNT];
/* What a schema allows. */
fragment schema_value(compiler *c, const json_value *schema, const place *where);
/* false, with an error: there is one that is not supported, or twice. */
bool read_keywords(compiler *c, const json_value *schema, const place *where, keywords *k);
/* A number that counts: whole, from 0. */
uint32_t count_of(compiler *c, const keywords *k, keyword key, uint32_t otherwise, const place *where);
/* The types that the schema allows; 0: any, or with an error none. */
uint32_t allowed_types(compiler *c, const keywords *k, const place *where);
/* The types that a value has. */
uint32_t types_of(const json_value *value);
double number_of(const json_value *value); /* NaN: it is none */
/* What the keyword $ref leads to; false, with an error: to nothing. */
bool follow_reference(compiler *c, const keywords *k, const place *where, json_value *schema);

/* schema_scalars.c: the texts of one type. */
fragment schema_string(compiler *c, const keywords *k, const place *where);
fragment schema_number(compiler *c, const keywords *k, bool integer, const place *where);

/* schema_objects.c */
fragment schema_object(compiler *c, const keywords *k, const place *where);
fragment schema_array(compiler *c, const keywords *k, const place *where);
/* Any value that is nested at most so deep. */
fragment schema_any(program *p, int depth);
/* Whether two strings of the schema are the same text; false, with an error, where there is no memory. */
bool same_text(compiler *c, const json_value *a, const json_value *b);

/* schema_one_of.c: whether no value can satisfy both, as far as their own keywords tell. */
bool schemas_differ(compiler *c, const json_value *one, const json_value *other, const place *where);

#endif
