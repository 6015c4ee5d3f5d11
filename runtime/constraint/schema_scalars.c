/* Strings and numbers of a schema. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "constraint/schema.h"

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
    return refuse(c, where, "%s besides minLength or maxLength is not supported", keyword_names[key]);
  if (k->values[key].kind != '"') return refuse(c, where, "%s is not a string", keyword_names[key]);
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

fragment schema_string(compiler *c, const keywords *k, const place *where) {
  if (has(k, KEY_PATTERN) || has(k, KEY_FORMAT)) return quoted(c->p, by_pattern(c, k, where));
  const uint32_t least = count_of(c, k, KEY_MIN_LENGTH, 0, where);
  const uint32_t most = count_of(c, k, KEY_MAX_LENGTH, PROGRAM_ANY_NUMBER, where);
  if (least > most) return refuse(c, where, "minLength is above %s", "maxLength");
  return quoted(c->p, program_repeat(c->p, any_character, NULL, least, most));
}

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
    refuse(c, where, "%s is not a number, or too large", keyword_names[key]);
    return false;
  }
  if (!integer && given != floor(given)) {
    refuse(c, where, "%s of a number has to be whole", keyword_names[key]);
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

fragment schema_number(compiler *c, const keywords *k, bool integer, const place *where) {
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
