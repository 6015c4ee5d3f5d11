/* JSON Schema (2020-12): the part of it whose texts an automaton can tell. What it cannot is refused by name. Whatever
 * is written is valid; not everything that is valid is written: an object's properties stand in the schema's order, and
 * values in one form (docs/SERVE.md). */
#include "constraint/schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/unicode.h"

enum { DEEPEST = 32, MOST_COUNT = 1 << 20 };

const char *const keyword_names[KEY_COUNT] = {"type",
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

void say_place(const place *where, char out[PLACE_BYTES]) {
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

fragment refuse(compiler *c, const place *where, const char *what, const char *name) {
  char shown[PLACE_BYTES];
  if (c->p->status == MB_OK) {
    say_place(where, shown);
    char said[160];
    snprintf(said, sizeof said, what, name);
    c->p->status = mb_fail(MB_ERROR_ARGUMENT, "json_schema: %s (at %s)", said, shown);
  }
  return program_nothing(c->p);
}

place place_below(const place *from, const json_value *schema, const char *step, size_t bytes) {
  return (place){from, step, bytes, schema->at, from->depth + 1};
}

bool read_keywords(compiler *c, const json_value *schema, const place *where, keywords *k) {
  const char *at = NULL;
  json_value name, value;
  k->present = 0;
  while (json_next(schema, &at, &name, &value)) {
    size_t key = 0, note = 0;
    while (key < KEY_COUNT && !json_is(&name, keyword_names[key])) key++;
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

uint32_t count_of(compiler *c, const keywords *k, keyword key, uint32_t otherwise, const place *where) {
  if (!has(k, key)) return otherwise;
  const json_value *v = &k->values[key];
  uint32_t count = 0;
  bool whole = v->kind == '0';
  for (const char *at = v->at; whole && at < v->end; at++) {
    whole = *at >= '0' && *at <= '9' && count <= MOST_COUNT;
    if (whole) count = count * 10 + (uint32_t)(*at - '0');
  }
  if (!whole || count > MOST_COUNT) refuse(c, where, "%s is not a whole number from 0 to 1048576", keyword_names[key]);
  return count;
}

/* ---- types */

static uint32_t type_named(const json_value *name) {
  for (uint32_t i = 0; i < TYPE_COUNT; i++) {
    if (json_is(name, types[i])) return 1u << i;
  }
  return 0;
}

uint32_t allowed_types(compiler *c, const keywords *k, const place *where) {
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

double number_of(const json_value *v) {
  char text[64] = {0};
  const size_t bytes = (size_t)(v->end - v->at);
  if (v->kind != '0' || bytes >= sizeof text) return NAN;
  memcpy(text, v->at, bytes);
  return strtod(text, NULL);
}

uint32_t types_of(const json_value *v) {
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

/* ---- schemas */

static fragment of_types(compiler *c, const keywords *k, const place *where) {
  program *p = c->p;
  const uint32_t allowed = allowed_types(c, k, where);
  if (!allowed && p->status == MB_OK) return schema_any(p, ANY_DEPTH);
  fragment whole = program_nothing(p);
  bool first = true;
  for (uint32_t i = 0; i < TYPE_COUNT && p->status == MB_OK; i++) {
    const uint32_t type = 1u << i;
    if (!(allowed & type)) continue;
    const fragment one = type == OBJECT    ? schema_object(c, k, where)
                         : type == ARRAY   ? schema_array(c, k, where)
                         : type == STRING  ? schema_string(c, k, where)
                         : type == INTEGER ? schema_number(c, k, true, where)
                         : type == NUMBER  ? schema_number(c, k, false, where)
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

bool follow_reference(compiler *c, const keywords *k, const place *where, json_value *schema) {
  const json_value *ref = &k->values[KEY_REF];
  bool found = false;
  size_t bytes;
  char *pointer = ref->kind == '"' ? json_text(ref, &bytes) : NULL;
  if (ref->kind != '"') {
    refuse(c, where, "%s is not a string", "$ref");
  } else if (!pointer) {
    c->p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  } else {
    *schema = resolve(c, pointer, bytes, &found);
    if (!found) refuse(c, where, "%s leads nowhere: only \"#/$defs/NAME\" and such are supported", "$ref");
  }
  free(pointer);
  return found;
}

static fragment reference(compiler *c, const keywords *k, const place *where) {
  json_value schema;
  if (!follow_reference(c, k, where, &schema)) return program_nothing(c->p);
  for (const place *outer = where; outer; outer = outer->from) {
    if (outer->at == schema.at)
      return refuse(c, where, "%s leads to itself: a recursive schema is not supported", "$ref");
  }
  const place inner = place_below(where, &schema, "$ref", 4);
  return schema_value(c, &schema, &inner);
}

/* anyOf, oneOf, or allOf of one schema. */
static fragment of_schemas(compiler *c, const keywords *k, keyword key, const place *where) {
  const json_value *list = &k->values[key];
  const char *at = NULL;
  json_value unused, schema;
  fragment whole = program_nothing(c->p);
  uint32_t count = 0;
  const place all = place_below(where, list, keyword_names[key], strlen(keyword_names[key]));
  if (list->kind != '[') return refuse(c, where, "%s is not a list of schemas", keyword_names[key]);
  for (; c->p->status == MB_OK && json_next(list, &at, &unused, &schema); count++) {
    char number[12];
    snprintf(number, sizeof number, "%u", count);
    const place inner = place_below(&all, &schema, number, strlen(number));
    if (key == KEY_ALL_OF && count > 0)
      return refuse(c, where, "%s of more than one schema is not supported", keyword_names[key]);
    const char *before = NULL;
    json_value other;
    while (key == KEY_ONE_OF && c->p->status == MB_OK && json_next(list, &before, &unused, &other) &&
           other.at != schema.at) {
      if (!schemas_differ(c, &other, &schema, &inner))
        return refuse(c, &inner, "%s whose schemas may both hold is not supported: use anyOf, or a const in each",
                      "oneOf");
    }
    const fragment one = schema_value(c, &schema, &inner);
    whole = count ? program_either(c->p, whole, one) : one;
  }
  return count ? whole : refuse(c, where, "%s is empty", keyword_names[key]);
}

/* Of the keywords that each say all, one may stand there; beside const and enum the type, too. */
static bool stands_alone(compiler *c, const keywords *k, keyword key, const place *where) {
  uint32_t others = k->present & ~(1u << key);
  if (key == KEY_CONST || key == KEY_ENUM) others &= ~(1u << KEY_TYPE);
  if (others == 0) return true;
  char what[64];
  keyword other = KEY_TYPE;
  while (!(others >> other & 1)) other++;
  snprintf(what, sizeof what, "%s besides %s", keyword_names[key], keyword_names[other]);
  refuse(c, where, "%s is not supported", what);
  return false;
}

fragment schema_value(compiler *c, const json_value *schema, const place *where) {
  static const keyword alone[] = {KEY_CONST, KEY_ENUM, KEY_REF, KEY_ANY_OF, KEY_ONE_OF, KEY_ALL_OF};
  keywords k;
  if (!program_goes_on(c->p, (size_t)(schema->end - schema->at))) return program_nothing(c->p);
  if (where->depth > DEEPEST) return refuse(c, where, "%s is too deeply nested", "the schema");
  if (schema->kind == 't') return schema_any(c->p, ANY_DEPTH);
  if (schema->kind != '{') return refuse(c, where, "%s is neither an object nor true", "a schema");
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
  return schema_value(&c, &c.root, &root);
}
