/* oneOf: an automaton can say that one of two schemas holds, but not that only one does. So no value may satisfy both,
 * and their own keywords have to tell so: by their types, by their const or enum, or by those of a property that both
 * require (a tag). */
#include "constraint/schema.h"

enum { MOST_REFERENCES = 8 };

/* The keywords of a schema, or of what it refers to. false: they tell nothing. */
static bool surface(compiler *c, const json_value *schema, const place *where, keywords *k) {
  json_value at = *schema;
  for (int i = 0; i < MOST_REFERENCES; i++) {
    if (!program_goes_on(c->p, (size_t)(at.end - at.at)) || at.kind != '{' || !read_keywords(c, &at, where, k))
      return false;
    if (!has(k, KEY_REF)) return true;
    if (!follow_reference(c, k, where, &at)) return false;
  }
  return false;
}

/* One after the other, from *at = NULL on: the values that const or enum lists. */
static bool next_value(const keywords *k, const char **at, json_value *value) {
  json_value unused;
  if (has(k, KEY_CONST)) {
    if (*at) return false;
    *value = k->values[KEY_CONST];
    *at = value->end;
    return true;
  }
  return has(k, KEY_ENUM) && k->values[KEY_ENUM].kind == '[' && json_next(&k->values[KEY_ENUM], at, &unused, value);
}

static bool values_differ(compiler *c, const json_value *a, const json_value *b) {
  if (a->kind == '0' && b->kind == '0') return number_of(a) != number_of(b); /* also not where one is NaN */
  if (a->kind != b->kind) return true;
  if (a->kind == '"') return !same_text(c, a, b);
  return false; /* the same word, or two containers, which are not looked into */
}

/* Whether both list their values, and have none in common. */
static bool lists_differ(compiler *c, const keywords *a, const keywords *b) {
  json_value x, y;
  const char *in_a = NULL, *in_b = NULL;
  if (!next_value(a, &in_a, &x) || !next_value(b, &in_b, &y)) return false;
  for (in_a = NULL; next_value(a, &in_a, &x);) {
    for (in_b = NULL; program_goes_on(c->p, 1) && next_value(b, &in_b, &y);) {
      if (!values_differ(c, &x, &y)) return false;
    }
  }
  return c->p->status == MB_OK;
}

/* All bits where the keywords do not tell. */
static uint32_t surface_types(compiler *c, const keywords *k, const place *where) {
  const char *at = NULL;
  json_value value;
  uint32_t found = 0;
  while (next_value(k, &at, &value)) found |= types_of(&value);
  if (found) return found;
  if (has(k, KEY_ANY_OF) || has(k, KEY_ONE_OF) || has(k, KEY_ALL_OF)) return ~0u;
  found = allowed_types(c, k, where);
  return found == 0 ? ~0u : found & NUMBER ? found | INTEGER : found;
}

/* The schema of a property that is required; false: it is not, or has none. */
static bool required_property(compiler *c, const keywords *k, const json_value *name, json_value *schema) {
  const char *at = NULL;
  json_value unused, one;
  bool required = false;
  if (!has(k, KEY_REQUIRED) || k->values[KEY_REQUIRED].kind != '[') return false;
  while (!required && program_goes_on(c->p, 1) && json_next(&k->values[KEY_REQUIRED], &at, &unused, &one))
    required = one.kind == '"' && same_text(c, &one, name);
  if (!required || !has(k, KEY_PROPERTIES) || k->values[KEY_PROPERTIES].kind != '{') return false;
  for (at = NULL; program_goes_on(c->p, 1) && json_next(&k->values[KEY_PROPERTIES], &at, &one, schema);) {
    if (same_text(c, &one, name)) return true;
  }
  return false;
}

/* Whether a property that both require tells two objects apart. */
static bool tags_differ(compiler *c, const keywords *a, const keywords *b, const place *where) {
  const char *at = NULL;
  json_value name, in_a, in_b;
  if (!has(a, KEY_PROPERTIES) || a->values[KEY_PROPERTIES].kind != '{') return false;
  while (c->p->status == MB_OK && json_next(&a->values[KEY_PROPERTIES], &at, &name, &in_a)) {
    keywords x, y;
    if (required_property(c, a, &name, &in_a) && required_property(c, b, &name, &in_b) &&
        surface(c, &in_a, where, &x) && surface(c, &in_b, where, &y) && lists_differ(c, &x, &y))
      return true;
  }
  return false;
}

bool schemas_differ(compiler *c, const json_value *one, const json_value *other, const place *where) {
  keywords a, b;
  if (!surface(c, one, where, &a) || !surface(c, other, where, &b)) return false;
  const uint32_t types_a = surface_types(c, &a, where), types_b = surface_types(c, &b, where);
  if (!(types_a & types_b) || lists_differ(c, &a, &b)) return true;
  return types_a == OBJECT && types_b == OBJECT && tags_differ(c, &a, &b, where);
}
