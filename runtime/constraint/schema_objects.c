/* Arrays and objects of a schema. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/unicode.h"
#include "constraint/schema.h"

enum { MOST_NAME_BYTES = 128 /* beside names that are not listed */ };

typedef struct {
  compiler *c;
  const json_value *schema;
  const place *where;
  bool first; /* the next copy has nothing before it */
} element;

static fragment make_element(program *p, void *context) {
  element *e = context;
  const fragment value = schema_value(e->c, e->schema, e->where);
  if (e->first) {
    e->first = false;
    return value;
  }
  return program_then(p, program_text(p, ", "), value);
}

static fragment in(program *p, const char *open, fragment inner, const char *close) {
  return program_then(p, program_text(p, open), program_then(p, inner, program_text(p, close)));
}

/* One piece or more, with a comma between two. */
static fragment separated(program *p, fragment piece) {
  const fragment comma = program_text(p, ", "), end = program_nothing(p);
  program_lead(p, piece.end, program_fork(p, comma.begin, end.begin));
  program_lead(p, comma.end, piece.begin);
  return (fragment){piece.begin, end.end};
}

fragment schema_array(compiler *c, const keywords *k, const place *where) {
  program *p = c->p;
  const uint32_t least = count_of(c, k, KEY_MIN_ITEMS, 0, where);
  const uint32_t most = count_of(c, k, KEY_MAX_ITEMS, PROGRAM_ANY_NUMBER, where);
  if (least > most) return refuse(c, where, "minItems is above %s", "maxItems");
  fragment items = program_nothing(p);
  if (most > 0) {
    const json_value any = {.at = "true", .kind = 't'}, *schema = has(k, KEY_ITEMS) ? &k->values[KEY_ITEMS] : &any;
    const place inner = place_below(where, schema, "items", 5);
    element e = {c, schema, &inner, true};
    if (most == PROGRAM_ANY_NUMBER && least <= 1) {
      items = separated(p, make_element(p, &e));
    } else {
      /* The first one apart, which has no comma. */
      items = make_element(p, &e);
      const uint32_t more = most == PROGRAM_ANY_NUMBER ? most : most - 1;
      items = program_then(p, items, program_repeat(p, make_element, &e, least ? least - 1 : 0, more));
    }
    if (least == 0) items = program_maybe(p, items);
  }
  return in(p, "[", items, "]");
}

bool same_text(compiler *c, const json_value *a, const json_value *b) {
  size_t a_bytes = 0, b_bytes = 0;
  char *x = json_text(a, &a_bytes), *y = json_text(b, &b_bytes);
  const bool same = x && y && a_bytes == b_bytes && memcmp(x, y, a_bytes) == 0;
  if (!x || !y) c->p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  free(x);
  free(y);
  return same;
}

/* Whether a list has the string. */
static bool lists(compiler *c, const json_value *list, const json_value *name) {
  const char *at = NULL;
  json_value unused, one;
  while (program_goes_on(c->p, (size_t)(name->end - name->at)) && json_next(list, &at, &unused, &one)) {
    if (same_text(c, &one, name)) return true;
  }
  return false;
}

/* The first property of that name; false: there is none. */
static bool find_property(compiler *c, const keywords *k, const json_value *name, json_value *found) {
  const char *at = NULL;
  json_value schema;
  while (has(k, KEY_PROPERTIES) && program_goes_on(c->p, (size_t)(name->end - name->at)) &&
         json_next(&k->values[KEY_PROPERTIES], &at, found, &schema)) {
    if (same_text(c, found, name)) return true;
  }
  return false;
}

static bool check_required(compiler *c, const keywords *k, const place *where) {
  const char *at = NULL;
  json_value unused, name, property;
  if (!has(k, KEY_REQUIRED)) return true;
  const json_value *list = &k->values[KEY_REQUIRED];
  if (list->kind != '[') refuse(c, where, "%s is not a list of strings", "required");
  while (c->p->status == MB_OK && json_next(list, &at, &unused, &name)) {
    if (name.kind != '"')
      refuse(c, where, "%s is not a list of strings", "required");
    else if (!find_property(c, k, &name, &property))
      refuse(c, where, "%s has a name that properties has not", "required");
  }
  return c->p->status == MB_OK;
}

static fragment named(program *p, fragment name, fragment value) {
  return program_then(p, program_then(p, name, program_text(p, ": ")), value);
}

/* `"name": value` */
static fragment member(compiler *c, const json_value *name, const json_value *schema, const place *where) {
  const place inner = place_below(where, schema, name->at + 1, (size_t)(name->end - name->at) - 2);
  char shown[PLACE_BYTES];
  say_place(&inner, shown);
  const fragment key = json_write(c->p, shown, name);
  return named(c->p, key, schema_value(c, schema, &inner));
}

/* ---- names that properties do not list ---- */

typedef struct {
  const uint8_t *text;
  size_t bytes;
} listed_name;

/* Characters that stand for themselves in a string: a name is not written with escapes, so that it has one form. */
static const characters plain = {
    .count = 4, .ranges = {{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, 0xD7FF}, {0xE000, 0x10FFFF}}};

/* The begin of what is none of the names, which are alike up to `at` and sorted: it ends (`done`) where none of them
 * does, goes on like some of them, or otherwise and then as it likes (`rest`). */
static uint32_t other_name(compiler *c, const listed_name *names, size_t count, size_t at, uint32_t rest,
                           uint32_t done) {
  program *p = c->p;
  const bool one_ends = count > 0 && names[0].bytes == at;
  characters others = plain;
  uint32_t begin = one_ends ? PROGRAM_NOWHERE : done;
  for (size_t i = one_ends, alike; i < count && program_goes_on(p, 1); i += alike) {
    uint32_t point, next;
    const size_t bytes = mb_utf8_decode(names[i].text + at, &point);
    for (alike = 1; i + alike < count; alike++) {
      (void)mb_utf8_decode(names[i + alike].text + at, &next);
      if (next != point) break;
    }
    characters_take_out(&others, point, point);
    if (others.count >= CHARACTERS_MOST) {
      refuse(c, NULL, "%s besides so many properties is not supported", "additionalProperties");
      return 0;
    }
    const fragment same = program_literal(p, names[i].text + at, bytes);
    program_lead(p, same.end, other_name(c, names + i, alike, at + bytes, rest, done));
    begin = program_fork(p, same.begin, begin);
  }
  const fragment otherwise = program_characters(p, &others);
  program_lead(p, otherwise.end, rest);
  return program_fork(p, otherwise.begin, begin);
}

static int by_text(const void *a, const void *b) {
  const listed_name *x = a, *y = b;
  const int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
  return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Whether the name can be written without escapes. */
static bool is_plain(const char *text, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    if ((uint8_t)text[i] < 0x20 || text[i] == '"' || text[i] == '\\') return false;
  }
  return true;
}

/* Any name in quotes but those of properties (NULL: there are none). */
static fragment free_name(compiler *c, const json_value *properties, const place *where) {
  program *p = c->p;
  const char *at = NULL;
  json_value name, unused;
  size_t count = 0, room = 0;
  while (properties && json_next(properties, &at, &name, &unused)) room++;
  listed_name *names = calloc(room + 1, sizeof *names);
  if (!names) c->p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  for (at = NULL; p->status == MB_OK && properties && json_next(properties, &at, &name, &unused);) {
    size_t bytes = 0;
    char *text = json_text(&name, &bytes);
    if (!text) c->p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
    if (bytes > MOST_NAME_BYTES)
      refuse(c, where, "%s besides a property of so long a name is not supported", "additionalProperties");
    if (text && is_plain(text, bytes))
      names[count++] = (listed_name){(uint8_t *)text, bytes};
    else
      free(text);
  }
  fragment end = program_text(p, "\"");
  const fragment any = program_many(p, program_characters(p, &plain)), quote = program_text(p, "\"");
  if (p->status == MB_OK) {
    qsort(names, count, sizeof *names, by_text);
    program_lead(p, any.end, end.begin);
    program_lead(p, quote.end, other_name(c, names, count, 0, any.begin, end.begin));
  }
  for (size_t i = 0; i < count; i++) free((void *)names[i].text);
  free(names);
  return (fragment){quote.begin, end.end};
}

/* Members that properties do not list, one or more. false: there are none. */
static bool additional(compiler *c, const keywords *k, const place *where, fragment *out) {
  const json_value *listed = has(k, KEY_PROPERTIES) ? &k->values[KEY_PROPERTIES] : NULL;
  const json_value *schema = has(k, KEY_ADDITIONAL) ? &k->values[KEY_ADDITIONAL] : NULL;
  const bool any = !schema || schema->kind == 't';
  if (any && listed) return false; /* nothing has to be written that nothing is known of */
  if (schema && schema->kind == 'f') return false;
  const fragment name = free_name(c, listed, where);
  fragment value;
  if (any) {
    value = schema_any(c->p, ANY_DEPTH - 1);
  } else {
    const place inner = place_below(where, schema, "additionalProperties", strlen("additionalProperties"));
    value = schema_value(c, schema, &inner);
  }
  *out = separated(c->p, named(c->p, name, value));
  return true;
}

fragment schema_any(program *p, int depth) {
  compiler c = {.p = p};
  static const keywords none;
  fragment whole = program_either(p, schema_string(&c, &none, NULL), number_any(p));
  static const char *const words[] = {"true", "false", "null"};
  for (size_t i = 0; i < 3; i++) whole = program_either(p, whole, program_text(p, words[i]));
  if (depth == 0 || p->status != MB_OK) return whole;
  const fragment items = separated(p, schema_any(p, depth - 1));
  const fragment members = separated(p, named(p, free_name(&c, NULL, NULL), schema_any(p, depth - 1)));
  whole = program_either(p, whole, in(p, "[", program_maybe(p, items), "]"));
  return program_either(p, whole, in(p, "{", program_maybe(p, members), "}"));
}

/* Two places go along the properties: `empty` while none is written yet, `more` behind one. */
fragment schema_object(compiler *c, const keywords *k, const place *where) {
  program *p = c->p;
  if (has(k, KEY_PROPERTIES) && k->values[KEY_PROPERTIES].kind != '{')
    return refuse(c, where, "%s is not an object", "properties");
  if (!check_required(c, k, where)) return program_nothing(p);
  const fragment begin = program_text(p, "{");
  uint32_t empty = begin.end, more = PROGRAM_NOWHERE;
  bool may_be_empty = true;
  const place properties = place_below(where, &k->values[KEY_PROPERTIES], "properties", strlen("properties"));
  const char *at = NULL;
  json_value name, schema;
  while (has(k, KEY_PROPERTIES) && p->status == MB_OK && json_next(&k->values[KEY_PROPERTIES], &at, &name, &schema)) {
    json_value first;
    if (find_property(c, k, &name, &first) && first.at != name.at)
      return refuse(c, where, "%s has a name twice", "properties");
    const bool required = has(k, KEY_REQUIRED) && lists(c, &k->values[KEY_REQUIRED], &name);
    const fragment one = member(c, &name, &schema, &properties);
    const fragment behind = program_nothing(p);
    program_lead(p, one.end, behind.begin);
    if (more != PROGRAM_NOWHERE) {
      const fragment comma = program_text(p, ", ");
      program_lead(p, comma.end, one.begin);
      program_lead(p, more, required ? comma.begin : program_fork(p, comma.begin, behind.begin));
    }
    if (may_be_empty) {
      const fragment still = program_nothing(p);
      program_lead(p, empty, required ? one.begin : program_fork(p, one.begin, still.begin));
      empty = still.end;
      may_be_empty = !required;
    }
    more = behind.end;
  }
  const fragment end = program_text(p, "}");
  fragment others;
  if (additional(c, k, where, &others)) {
    const fragment comma = program_text(p, ", "), behind = program_nothing(p);
    program_lead(p, others.end, behind.begin);
    program_lead(p, comma.end, others.begin);
    if (more != PROGRAM_NOWHERE) program_lead(p, more, program_fork(p, comma.begin, behind.begin));
    if (may_be_empty) {
      const fragment still = program_nothing(p);
      program_lead(p, empty, program_fork(p, others.begin, still.begin));
      empty = still.end;
    }
    more = behind.end;
  }
  if (more != PROGRAM_NOWHERE) program_lead(p, more, end.begin);
  if (may_be_empty) program_lead(p, empty, end.begin);
  return (fragment){begin.begin, end.end};
}
