/* JSON Schema (2020-12): the part of it whose texts an automaton can tell. What it cannot is refused by name. Whatever
 * is written is valid; not everything that is valid is written: an object's properties stand in the schema's order, and
 * values in one form (docs/SERVE.md). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/unicode.h"
#include "constraint/constraint.h"

enum { DEEPEST = 32, PLACE_BYTES = 256, MOST_COUNT = 1 << 20 };

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

static const char *const names[KEY_COUNT] = {"type",
                                             "const",
                                             "enum",
                                             "$ref",
                                             "anyOf",
                                             "oneOf",
                                             "allOf",
                                             "properties",
                                             "required",
                                             "additionalProperties",
                                             "items",
                                             "minItems",
                                             "maxItems",
                                             "minLength",
                                             "maxLength",
                                             "pattern",
                                             "format",
                                             "minimum",
                                             "maximum",
                                             "exclusiveMinimum",
                                             "exclusiveMaximum"};

/* Keywords that say nothing of what is valid, or stand for others to refer to. */
static const char *const notes[] = {"title", "description", "default",  "examples",   "$schema",  "$id",
                                    "$defs", "definitions", "$comment", "deprecated", "readOnly", "writeOnly"};

static const char *const types[] = {"object", "array", "string", "integer", "number", "boolean", "null"};
enum { OBJECT = 1, ARRAY = 2, STRING = 4, INTEGER = 8, NUMBER = 16, BOOLEAN = 32, NOTHING = 64, TYPE_COUNT = 7 };

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

static bool has(const keywords *k, keyword key) { return k->present >> key & 1; }

/* "#/properties/name", what is too long without its begin. */
static void say_place(const place *where, char out[PLACE_BYTES]) {
  size_t at = PLACE_BYTES - 1;
  out[at] = 0;
  for (; where && where->step; where = where->from) {
    if (where->step_bytes + 8 > at) {
      memcpy(out + (at -= 3), "...", 3);
      break;
    }
    at -= where->step_bytes;
    memcpy(out + at, where->step, where->step_bytes);
    out[--at] = '/';
  }
  out[--at] = '#';
  memmove(out, out + at, PLACE_BYTES - at);
}

/* what: with one %s, for the name. */
static fragment refuse(compiler *c, const place *where, const char *what, const char *name) {
  char shown[PLACE_BYTES];
  if (c->p->status == MB_OK) {
    say_place(where, shown);
    char said[160];
    snprintf(said, sizeof said, what, name);
    c->p->status = mb_fail(MB_ERROR_ARGUMENT, "json_schema: %s (at %s)", said, shown);
  }
  return program_nothing(c->p);
}

static fragment compile(compiler *c, const json_value *schema, const place *where);

static place below(const place *from, const json_value *schema, const char *step, size_t bytes) {
  return (place){from, step, bytes, schema->at, from->depth + 1};
}

static bool read_keywords(compiler *c, const json_value *schema, const place *where, keywords *k) {
  const char *at = NULL;
  json_value name, value;
  k->present = 0;
  while (json_next(schema, &at, &name, &value)) {
    size_t key = 0, note = 0;
    while (key < KEY_COUNT && !json_is(&name, names[key])) key++;
    while (note < sizeof notes / sizeof *notes && !json_is(&name, notes[note])) note++;
    if (key < KEY_COUNT && !has(k, (keyword)key)) {
      k->values[key] = value;
      k->present |= 1u << key;
    } else if (note == sizeof notes / sizeof *notes) {
      char shown[64];
      snprintf(shown, sizeof shown, "%.*s", (int)(name.end - name.at < 48 ? name.end - name.at : 48), name.at);
      refuse(c, where, key < KEY_COUNT ? "%s stands there twice" : "the keyword %s is not supported", shown);
      return false;
    }
  }
  return true;
}

/* A number that counts: whole, from 0. */
static uint32_t count_of(compiler *c, const keywords *k, keyword key, uint32_t otherwise, const place *where) {
  if (!has(k, key)) return otherwise;
  const json_value *v = &k->values[key];
  uint32_t count = 0;
  bool whole = v->kind == '0';
  for (const char *at = v->at; whole && at < v->end; at++) {
    whole = *at >= '0' && *at <= '9' && count <= MOST_COUNT;
    if (whole) count = count * 10 + (uint32_t)(*at - '0');
  }
  if (!whole || count > MOST_COUNT) refuse(c, where, "%s is not a whole number from 0 to 1048576", names[key]);
  return count;
}

/* ---- types */

static uint32_t type_named(const json_value *name) {
  for (uint32_t i = 0; i < TYPE_COUNT; i++) {
    if (json_is(name, types[i])) return 1u << i;
  }
  return 0;
}

/* The types that the schema allows; 0 with an error. */
static uint32_t allowed_types(compiler *c, const keywords *k, const place *where) {
  const char *at = NULL;
  json_value unused, name;
  uint32_t allowed = 0;
  if (!has(k, KEY_TYPE)) {
    if (has(k, KEY_PROPERTIES) || has(k, KEY_REQUIRED) || has(k, KEY_ADDITIONAL))
      allowed = OBJECT;
    else if (has(k, KEY_ITEMS) || has(k, KEY_MIN_ITEMS) || has(k, KEY_MAX_ITEMS))
      allowed = ARRAY;
    else if (has(k, KEY_MIN_LENGTH) || has(k, KEY_MAX_LENGTH) || has(k, KEY_PATTERN) || has(k, KEY_FORMAT))
      allowed = STRING;
    else if (has(k, KEY_MINIMUM) || has(k, KEY_MAXIMUM) || has(k, KEY_ABOVE) || has(k, KEY_BELOW))
      allowed = NUMBER;
    else
      refuse(c, where, "%s is missing: any value at all is not supported", "type");
    return allowed;
  }
  const json_value *type = &k->values[KEY_TYPE];
  if (type->kind == '"') {
    allowed = type_named(type);
  } else if (type->kind == '[') {
    while (json_next(type, &at, &unused, &name)) {
      const uint32_t one = type_named(&name);
      if (!one) {
        allowed = 0;
        break;
      }
      allowed |= one;
    }
  }
  if (!allowed) refuse(c, where, "%s is none of JSON Schema's types", "type");
  return allowed & NUMBER ? allowed & ~(uint32_t)INTEGER : allowed;
}

static double number_of(const json_value *v) {
  char text[64] = {0};
  const size_t bytes = (size_t)(v->end - v->at);
  if (v->kind != '0' || bytes >= sizeof text) return NAN;
  memcpy(text, v->at, bytes);
  return strtod(text, NULL);
}

/* The types that a value has. */
static uint32_t types_of(const json_value *v) {
  switch (v->kind) {
    case '{':
      return OBJECT;
    case '[':
      return ARRAY;
    case '"':
      return STRING;
    case 't':
    case 'f':
      return BOOLEAN;
    case 'n':
      return NOTHING;
    default: {
      const double number = number_of(v);
      return isfinite(number) && number == floor(number) ? NUMBER | INTEGER : NUMBER;
    }
  }
}

/* ---- strings */

static fragment any_character(program *p, void *unused) {
  static const characters all = {.count = 4,
                                 .ranges = {{'\b', '\n'}, {'\f', '\r'}, {0x20, 0xD7FF}, {0xE000, 0x10FFFF}}};
  (void)unused;
  return program_json_characters(p, &all);
}

#define DATE \
  "([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])))"
#define TIME "(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))"
#define BYTE_NUMBER "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"

static const struct {
  const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
    {"ipv4", "^" BYTE_NUMBER "\\." BYTE_NUMBER "\\." BYTE_NUMBER "\\." BYTE_NUMBER "$"},
    {"email", "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,16}){0,2}@([a-z0-9]{1,32}\\.){1,3}[a-z]{2,8}$"},
};

static fragment quoted(program *p, fragment inner) {
  return program_then(p, program_text(p, "\""), program_then(p, inner, program_text(p, "\"")));
}

/* The value of pattern or format. */
static fragment by_pattern(compiler *c, const keywords *k, const place *where) {
  char at[PLACE_BYTES + 32], shown[PLACE_BYTES];
  const keyword key = has(k, KEY_PATTERN) ? KEY_PATTERN : KEY_FORMAT;
  if (has(k, KEY_PATTERN) && has(k, KEY_FORMAT))
    return refuse(c, where, "pattern besides %s is not supported", "format");
  if (has(k, KEY_MIN_LENGTH) || has(k, KEY_MAX_LENGTH))
    return refuse(c, where, "%s besides minLength or maxLength is not supported", names[key]);
  if (k->values[key].kind != '"') return refuse(c, where, "%s is not a string", names[key]);
  if (key == KEY_FORMAT) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
      if (json_is(&k->values[key], formats[i].name))
        return regex_compile(c->p, "format", formats[i].pattern, strlen(formats[i].pattern), REGEX_IN_JSON);
    }
    return refuse(c, where, "this %s is not supported: date, time, date-time, uuid, ipv4 and email are", "format");
  }
  size_t bytes;
  char *text = json_text(&k->values[key], &bytes);
  if (!text) {
    c->p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
    return program_nothing(c->p);
  }
  say_place(where, shown);
  snprintf(at, sizeof at, "json_schema: %s/pattern", shown);
  const fragment whole = regex_compile(c->p, at, text, bytes, REGEX_IN_JSON);
  free(text);
  return whole;
}

static fragment string(compiler *c, const keywords *k, const place *where) {
  if (has(k, KEY_PATTERN) || has(k, KEY_FORMAT)) return quoted(c->p, by_pattern(c, k, where));
  const uint32_t least = count_of(c, k, KEY_MIN_LENGTH, 0, where);
  const uint32_t most = count_of(c, k, KEY_MAX_LENGTH, PROGRAM_ANY_NUMBER, where);
  if (least > most) return refuse(c, where, "minLength is above %s", "maxLength");
  return quoted(c->p, program_repeat(c->p, any_character, NULL, least, most));
}

/* ---- numbers */

/* Bounds of an integer, or of a number where they have to be whole themselves. */
typedef struct {
  int64_t low, high;
  bool above, below, bounded;
} bounds;

static bool read_bound(compiler *c, const keywords *k, keyword key, bool integer, const place *where, bounds *b) {
  if (!has(k, key)) return true;
  const bool low = key == KEY_MINIMUM || key == KEY_ABOVE, open = key == KEY_ABOVE || key == KEY_BELOW;
  const double given = number_of(&k->values[key]);
  const double most = open && !integer ? NUMBER_MOST_OPEN : NUMBER_MOST;
  if (!(given >= -most && given <= most)) {
    refuse(c, where, "%s is not a number, or too large", names[key]);
    return false;
  }
  if (!integer && given != floor(given)) {
    refuse(c, where, "%s of a number has to be whole", names[key]);
    return false;
  }
  int64_t bound = (int64_t)(low ? ceil(given) : floor(given));
  bool left_out = open && given == floor(given);
  if (integer && left_out) {
    bound += low ? 1 : -1;
    left_out = false;
  }
  if (low ? bound > b->low || (bound == b->low && left_out) : bound < b->high || (bound == b->high && left_out)) {
    if (low) {
      b->low = bound;
      b->above = left_out;
    } else {
      b->high = bound;
      b->below = left_out;
    }
  }
  b->bounded = true;
  return true;
}

static fragment number(compiler *c, const keywords *k, bool integer, const place *where) {
  bounds b = {.low = -NUMBER_MOST, .high = NUMBER_MOST};
  static const keyword keys[] = {KEY_MINIMUM, KEY_MAXIMUM, KEY_ABOVE, KEY_BELOW};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    if (!read_bound(c, k, keys[i], integer, where, &b)) return program_nothing(c->p);
  }
  if (b.low > b.high || (b.low == b.high && (b.above || b.below)))
    return refuse(c, where, "no number is within %s and maximum", "minimum");
  if (integer) return number_integers(c->p, b.low, b.high);
  return b.bounded ? number_decimals(c->p, b.low, b.above, b.high, b.below) : number_any(c->p);
}

/* ---- arrays */

typedef struct {
  compiler *c;
  const json_value *schema;
  const place *where;
  bool first; /* the next copy has nothing before it */
} element;

static fragment make_element(program *p, void *context) {
  element *e = context;
  const fragment value = compile(e->c, e->schema, e->where);
  if (e->first) {
    e->first = false;
    return value;
  }
  return program_then(p, program_text(p, ", "), value);
}

static fragment array(compiler *c, const keywords *k, const place *where) {
  program *p = c->p;
  const uint32_t least = count_of(c, k, KEY_MIN_ITEMS, 0, where);
  const uint32_t most = count_of(c, k, KEY_MAX_ITEMS, PROGRAM_ANY_NUMBER, where);
  if (least > most) return refuse(c, where, "minItems is above %s", "maxItems");
  fragment items = program_nothing(p);
  if (most > 0) {
    if (!has(k, KEY_ITEMS)) return refuse(c, where, "an array without %s is not supported", "items");
    const place inner = below(where, &k->values[KEY_ITEMS], "items", 5);
    element e = {c, &k->values[KEY_ITEMS], &inner, true};
    if (most == PROGRAM_ANY_NUMBER && least <= 1) {
      /* One copy: its end leads to ", " and to its begin again. */
      items = make_element(p, &e);
      const fragment comma = program_text(p, ", "), end = program_nothing(p);
      program_lead(p, items.end, program_fork(p, comma.begin, end.begin));
      program_lead(p, comma.end, items.begin);
      items.end = end.end;
    } else {
      /* The first one apart, which has no comma. */
      items = make_element(p, &e);
      const uint32_t more = most == PROGRAM_ANY_NUMBER ? most : most - 1;
      items = program_then(p, items, program_repeat(p, make_element, &e, least ? least - 1 : 0, more));
    }
    if (least == 0) items = program_maybe(p, items);
  }
  return program_then(p, program_text(p, "["), program_then(p, items, program_text(p, "]")));
}

/* ---- objects */

/* Whether two strings of the schema are the same text. -1: no memory. */
static int same_text(const json_value *a, const json_value *b) {
  size_t a_bytes = 0, b_bytes = 0;
  char *x = json_text(a, &a_bytes), *y = json_text(b, &b_bytes);
  const int same = x && y ? a_bytes == b_bytes && memcmp(x, y, a_bytes) == 0 : -1;
  free(x);
  free(y);
  return same;
}

/* Whether a list has the string. */
static bool lists(compiler *c, const json_value *list, const json_value *name) {
  const char *at = NULL;
  json_value unused, one;
  while (program_goes_on(c->p, (size_t)(name->end - name->at)) && json_next(list, &at, &unused, &one)) {
    const int same = same_text(&one, name);
    if (same < 0) c->p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
    if (same) return same > 0;
  }
  return false;
}

/* The first property of that name; false: there is none. */
static bool find_property(compiler *c, const keywords *k, const json_value *name, json_value *found) {
  const char *at = NULL;
  json_value schema;
  while (has(k, KEY_PROPERTIES) && program_goes_on(c->p, (size_t)(name->end - name->at)) &&
         json_next(&k->values[KEY_PROPERTIES], &at, found, &schema)) {
    const int same = same_text(found, name);
    if (same < 0) c->p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
    if (same) return same > 0;
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

/* `"name": value` */
static fragment member(compiler *c, const json_value *name, const json_value *schema, const place *where) {
  const place inner = below(where, schema, name->at + 1, (size_t)(name->end - name->at) - 2);
  char shown[PLACE_BYTES];
  say_place(&inner, shown);
  const fragment key = json_write(c->p, shown, name);
  return program_then(c->p, program_then(c->p, key, program_text(c->p, ": ")), compile(c, schema, &inner));
}

/* Two places go along the properties: `empty` while none is written yet, `more` behind one. */
static fragment object(compiler *c, const keywords *k, const place *where) {
  program *p = c->p;
  if (has(k, KEY_PROPERTIES) && k->values[KEY_PROPERTIES].kind != '{')
    return refuse(c, where, "%s is not an object", "properties");
  if (has(k, KEY_ADDITIONAL) && k->values[KEY_ADDITIONAL].kind == '{')
    return refuse(c, where, "%s with a schema is not supported", "additionalProperties");
  if (!has(k, KEY_PROPERTIES) && !(has(k, KEY_ADDITIONAL) && k->values[KEY_ADDITIONAL].kind == 'f'))
    return refuse(c, where, "an object without %s is not supported", "properties");
  if (!check_required(c, k, where)) return program_nothing(p);
  const fragment begin = program_text(p, "{");
  uint32_t empty = begin.end, more = PROGRAM_NOWHERE;
  bool may_be_empty = true;
  const place properties = below(where, &k->values[KEY_PROPERTIES], "properties", strlen("properties"));
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
  if (more != PROGRAM_NOWHERE) program_lead(p, more, end.begin);
  if (may_be_empty) program_lead(p, empty, end.begin);
  return (fragment){begin.begin, end.end};
}

/* ---- schemas */

static fragment of_types(compiler *c, const keywords *k, const place *where) {
  program *p = c->p;
  const uint32_t allowed = allowed_types(c, k, where);
  fragment whole = program_nothing(p);
  bool first = true;
  for (uint32_t i = 0; i < TYPE_COUNT && p->status == MB_OK; i++) {
    const uint32_t type = 1u << i;
    if (!(allowed & type)) continue;
    const fragment one = type == OBJECT    ? object(c, k, where)
                         : type == ARRAY   ? array(c, k, where)
                         : type == STRING  ? string(c, k, where)
                         : type == INTEGER ? number(c, k, true, where)
                         : type == NUMBER  ? number(c, k, false, where)
                         : type == BOOLEAN ? program_either(p, program_text(p, "true"), program_text(p, "false"))
                                           : program_text(p, "null");
    whole = first ? one : program_either(p, whole, one);
    first = false;
  }
  return whole;
}

/* const and enum: the values that the type allows. */
static fragment of_values(compiler *c, const keywords *k, const place *where) {
  const char *at = NULL;
  char shown[PLACE_BYTES];
  json_value unused, value;
  fragment whole = program_nothing(c->p);
  bool first = true;
  const uint32_t allowed = has(k, KEY_TYPE) ? allowed_types(c, k, where) : ~0u;
  say_place(where, shown);
  if (has(k, KEY_CONST)) {
    if (!(types_of(&k->values[KEY_CONST]) & allowed)) return refuse(c, where, "%s is not of the type", "const");
    return json_write(c->p, shown, &k->values[KEY_CONST]);
  }
  if (k->values[KEY_ENUM].kind != '[') return refuse(c, where, "%s is not a list", "enum");
  while (c->p->status == MB_OK && json_next(&k->values[KEY_ENUM], &at, &unused, &value)) {
    if (!(types_of(&value) & allowed)) continue;
    const fragment one = json_write(c->p, shown, &value);
    whole = first ? one : program_either(c->p, whole, one);
    first = false;
  }
  return first ? refuse(c, where, "%s has no value that is of the type", "enum") : whole;
}

/* The schema that a JSON pointer (RFC 6901) leads to; *found is false where it leads nowhere. */
static json_value resolve(const compiler *c, const char *pointer, size_t bytes, bool *found) {
  json_value at = c->root;
  const char *p = pointer, *end = pointer + bytes;
  *found = bytes > 0 && *p == '#';
  for (p += *found; *found && p < end;) {
    char step[128];
    size_t size = 0;
    *found = *p++ == '/';
    for (; p < end && *p != '/' && size < sizeof step - 1; p++) {
      if (*p == '%') *found = false;
      if (*p == '~' && p + 1 < end) {
        p++;
        step[size++] = *p == '1' ? '/' : '~';
      } else {
        step[size++] = *p;
      }
    }
    if (p < end && *p != '/') *found = false;
    const char *next = NULL;
    json_value name, value;
    bool there = false;
    if (at.kind != '{' && at.kind != '[') *found = false;
    char number[24];
    for (size_t i = 0; *found && !there && json_next(&at, &next, &name, &value); i++) {
      if (at.kind == '[') {
        snprintf(number, sizeof number, "%zu", i);
        there = strlen(number) == size && memcmp(number, step, size) == 0;
      } else {
        size_t name_bytes;
        char *text = json_text(&name, &name_bytes);
        there = text && name_bytes == size && memcmp(text, step, size) == 0;
        free(text);
      }
    }
    *found = *found && there;
    if (*found) at = value;
  }
  return at;
}

static fragment reference(compiler *c, const keywords *k, const place *where) {
  const json_value *ref = &k->values[KEY_REF];
  bool found = false;
  if (ref->kind != '"') return refuse(c, where, "%s is not a string", "$ref");
  size_t bytes;
  char *pointer = json_text(ref, &bytes);
  if (!pointer) {
    c->p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
    return program_nothing(c->p);
  }
  const json_value schema = resolve(c, pointer, bytes, &found);
  free(pointer);
  if (!found) return refuse(c, where, "%s leads nowhere: only \"#/$defs/NAME\" and such are supported", "$ref");
  for (const place *outer = where; outer; outer = outer->from) {
    if (outer->at == schema.at)
      return refuse(c, where, "%s leads to itself: a recursive schema is not supported", "$ref");
  }
  const place inner = below(where, &schema, "$ref", 4);
  return compile(c, &schema, &inner);
}

/* The types of the values of a schema, as far as its own keywords tell; all where they do not. */
static uint32_t surface_types(compiler *c, const json_value *schema, const place *where) {
  keywords k;
  const char *at = NULL;
  json_value unused, value;
  uint32_t found = 0;
  if (schema->kind != '{' || !read_keywords(c, schema, where, &k)) return ~0u;
  if (has(&k, KEY_CONST)) return types_of(&k.values[KEY_CONST]);
  if (has(&k, KEY_ENUM) && k.values[KEY_ENUM].kind == '[') {
    while (json_next(&k.values[KEY_ENUM], &at, &unused, &value)) found |= types_of(&value);
    return found;
  }
  if (has(&k, KEY_REF) || has(&k, KEY_ANY_OF) || has(&k, KEY_ONE_OF) || has(&k, KEY_ALL_OF)) return ~0u;
  found = allowed_types(c, &k, where);
  return found & NUMBER ? found | INTEGER : found;
}

/* anyOf, oneOf, or allOf of one schema. */
static fragment of_schemas(compiler *c, const keywords *k, keyword key, const place *where) {
  const json_value *list = &k->values[key];
  const char *at = NULL;
  json_value unused, schema;
  fragment whole = program_nothing(c->p);
  uint32_t count = 0, seen = 0;
  const place all = below(where, list, names[key], strlen(names[key]));
  if (list->kind != '[') return refuse(c, where, "%s is not a list of schemas", names[key]);
  for (; c->p->status == MB_OK && json_next(list, &at, &unused, &schema); count++) {
    char number[12];
    snprintf(number, sizeof number, "%u", count);
    const place inner = below(&all, &schema, number, strlen(number));
    if (key == KEY_ALL_OF && count > 0)
      return refuse(c, where, "%s of more than one schema is not supported", names[key]);
    if (key == KEY_ONE_OF) {
      const uint32_t types_here = surface_types(c, &schema, &inner);
      if (seen & types_here)
        return refuse(c, &inner, "%s whose schemas do not differ in their types is not supported: use anyOf",
                      names[key]);
      seen |= types_here;
    }
    const fragment one = compile(c, &schema, &inner);
    whole = count ? program_either(c->p, whole, one) : one;
  }
  return count ? whole : refuse(c, where, "%s is empty", names[key]);
}

/* Of the keywords that each say all, one may stand there; beside const and enum the type, too. */
static bool stands_alone(compiler *c, const keywords *k, keyword key, const place *where) {
  uint32_t others = k->present & ~(1u << key);
  if (key == KEY_CONST || key == KEY_ENUM) others &= ~(1u << KEY_TYPE);
  if (others == 0) return true;
  char what[64];
  keyword other = KEY_TYPE;
  while (!(others >> other & 1)) other++;
  snprintf(what, sizeof what, "%s besides %s", names[key], names[other]);
  refuse(c, where, "%s is not supported", what);
  return false;
}

static fragment compile(compiler *c, const json_value *schema, const place *where) {
  static const keyword alone[] = {KEY_CONST, KEY_ENUM, KEY_REF, KEY_ANY_OF, KEY_ONE_OF, KEY_ALL_OF};
  keywords k;
  if (!program_goes_on(c->p, (size_t)(schema->end - schema->at))) return program_nothing(c->p);
  if (where->depth > DEEPEST) return refuse(c, where, "%s is too deeply nested", "the schema");
  if (schema->kind != '{')
    return refuse(c, where, "%s is not an object: any value at all is not supported", "a schema");
  if (!read_keywords(c, schema, where, &k)) return program_nothing(c->p);
  for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
    if (!has(&k, alone[i])) continue;
    if (!stands_alone(c, &k, alone[i], where)) return program_nothing(c->p);
    return alone[i] == KEY_CONST || alone[i] == KEY_ENUM ? of_values(c, &k, where)
           : alone[i] == KEY_REF                         ? reference(c, &k, where)
                                                         : of_schemas(c, &k, alone[i], where);
  }
  return of_types(c, &k, where);
}

fragment schema_compile(program *p, const char *text, size_t bytes) {
  compiler c = {.p = p};
  if (!mb_utf8_valid((const uint8_t *)text, bytes)) {
    p->status = mb_fail(MB_ERROR_ARGUMENT, "json_schema: not valid UTF-8");
  } else if (!json_parse(text, bytes, &c.root)) {
    p->status = mb_fail(MB_ERROR_ARGUMENT, "json_schema: not valid JSON, or too deeply nested");
  }
  if (p->status != MB_OK) return program_nothing(p);
  const place root = {.at = c.root.at};
  return compile(&c, &c.root, &root);
}
