/* Regular expressions: what ECMAScript and Python have in common and an automaton can do. */
#include <string.h>

#include "base/error.h"
#include "base/unicode.h"
#include "constraint/constraint.h"

enum { DEEPEST = 64, MOST_COUNT = 65535, LAST_POINT = 0x10FFFF };

typedef struct {
  program *p;
  const char *where;
  const uint8_t *text, *at, *end;
  bool in_json;
  int depth;
} parser;

static fragment refuse(parser *x, const char *what) {
  if (x->p->status == MB_OK)
    x->p->status = mb_fail(MB_ERROR_ARGUMENT, "%s: %s (byte %zu)", x->where, what, (size_t)(x->at - x->text));
  return program_nothing(x->p);
}

static bool next_is(const parser *x, char c) { return x->at < x->end && *x->at == (uint8_t)c; }

static bool take(parser *x, char c) {
  const bool is = next_is(x, c);
  x->at += is;
  return is;
}

/* A set in a class: what belongs to it for certain, and what does for some readers (Python counts letters of every
 * script as \w, ECMAScript does not). Of a complement it is the other way round. */
typedef struct {
  characters sure, maybe;
} class;

static void put(parser *x, characters *set, uint32_t low, uint32_t high) {
  if (!characters_add(set, low, high)) refuse(x, "a class has too many ranges");
}

static void put_both(parser *x, class *c, uint32_t low, uint32_t high) {
  put(x, &c->sure, low, high);
  put(x, &c->maybe, low, high);
}

static void merge(parser *x, characters *into, const characters *set) {
  for (uint32_t i = 0; i < set->count; i++) put(x, into, set->ranges[i].low, set->ranges[i].high);
}

static void complement(class *c) {
  characters_complement(&c->sure);
  characters_complement(&c->maybe);
  const class given = *c;
  c->sure = given.maybe;
  c->maybe = given.sure;
}

/* \d, \w, \s and their complements. */
static void put_shorthand(parser *x, class *into, char letter) {
  static const uint32_t spaces[][2] = {{0x1C, 0x1F},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
                                       {0x180E, 0x180E}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                                       {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
  class c = {{0}, {0}};
  const char kind = (char)(letter | 0x20);
  if (kind == 's') {
    put_both(x, &c, '\t', '\r');
    put_both(x, &c, ' ', ' ');
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++) put(x, &c.maybe, spaces[i][0], spaces[i][1]);
  } else {
    put_both(x, &c, '0', '9');
    if (kind == 'w') {
      put_both(x, &c, 'A', 'Z');
      put_both(x, &c, 'a', 'z');
      put_both(x, &c, '_', '_');
    }
    put(x, &c.maybe, 0x80, LAST_POINT);
  }
  if (letter != kind) complement(&c);
  merge(x, &into->sure, &c.sure);
  merge(x, &into->maybe, &c.maybe);
}

static bool is_shorthand(uint8_t c) { return c && strchr("dDwWsS", c) != NULL; }

/* The number of `count` hexadecimal digits. */
static uint32_t hex(parser *x, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; i++, x->at++) {
    const uint8_t c = x->at < x->end ? *x->at : 0, lower = c | 0x20;
    if (!(c >= '0' && c <= '9') && !(lower >= 'a' && lower <= 'f')) {
      refuse(x, "hexadecimal digits are missing");
      return 0;
    }
    value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : lower - 'a' + 10);
  }
  return value;
}

/* The character of an escape; x->at is behind the backslash. */
static uint32_t escaped(parser *x) {
  static const char letters[] = "tnrfv", meant[] = "\t\n\r\f\v";
  const uint8_t c = x->at < x->end ? *x->at : 0;
  const char *letter = c ? strchr(letters, c) : NULL;
  if (letter) {
    x->at++;
    return (uint8_t)meant[letter - letters];
  }
  if (take(x, 'x')) return hex(x, 2);
  if (take(x, 'u')) {
    const uint32_t point = hex(x, 4);
    if (point >= 0xD800 && point <= 0xDFFF) refuse(x, "half of a surrogate pair");
    return point;
  }
  if (c == 0 || c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) {
    refuse(x, "this escape is not supported");
    return 0;
  }
  x->at++;
  return c;
}

static uint32_t character(parser *x) {
  uint32_t point;
  if (take(x, '\\')) return escaped(x);
  x->at += mb_utf8_decode(x->at, &point);
  return point;
}

static fragment emit(parser *x, characters *set) {
  characters_settle(set);
  if (set->count == 0) return refuse(x, "a class that no character is in");
  return x->in_json ? program_json_characters(x->p, set) : program_characters(x->p, set);
}

/* x->at is behind the bracket. */
static fragment bracket(parser *x) {
  class c = {{0}, {0}};
  const bool others = take(x, '^');
  if (next_is(x, ']')) return refuse(x, "an empty class");
  while (x->p->status == MB_OK && !take(x, ']')) {
    if (x->at == x->end) return refuse(x, "a class does not end");
    if (next_is(x, '[')) return refuse(x, "write \\[ for a bracket in a class");
    if (next_is(x, '\\') && x->end - x->at > 1 && is_shorthand(x->at[1])) {
      put_shorthand(x, &c, (char)x->at[1]);
      x->at += 2;
      if (next_is(x, '-') && x->end - x->at > 1 && x->at[1] != ']')
        return refuse(x, "a range that begins with a class");
      continue;
    }
    const uint32_t low = character(x);
    uint32_t high = low;
    if (next_is(x, '-') && x->end - x->at > 1 && x->at[1] != ']') {
      x->at++;
      if (next_is(x, '\\') && x->end - x->at > 1 && is_shorthand(x->at[1]))
        return refuse(x, "a range that ends with a class");
      high = character(x);
    }
    if (high < low) return refuse(x, "a range whose end is before its begin");
    put_both(x, &c, low, high);
  }
  if (others) complement(&c);
  return emit(x, &c.sure);
}

static fragment alternatives(parser *x);

static fragment atom(parser *x) {
  class c = {{0}, {0}};
  if (!program_goes_on(x->p, 1)) return program_nothing(x->p);
  if (take(x, '(')) {
    if (next_is(x, '?') && !(x->end - x->at > 1 && x->at[1] == ':'))
      return refuse(x, "of (?...) only (?:...) is supported: no lookaround, names or flags");
    if (take(x, '?')) x->at++;
    if (x->depth == DEEPEST) return refuse(x, "too deeply nested");
    x->depth++;
    const fragment inner = alternatives(x);
    x->depth--;
    return take(x, ')') ? inner : refuse(x, "a group does not end");
  }
  if (take(x, '[')) return bracket(x);
  if (next_is(x, '\\') && x->end - x->at > 1 && is_shorthand(x->at[1])) {
    put_shorthand(x, &c, (char)x->at[1]);
    x->at += 2;
  } else if (take(x, '.')) {
    put(x, &c.sure, '\n', '\n');
    put(x, &c.sure, '\r', '\r');
    put(x, &c.sure, 0x2028, 0x2029);
    characters_complement(&c.sure);
  } else if (next_is(x, '^') || next_is(x, '$')) {
    return refuse(x,
                  "^ and $ are only supported where the expression, or one of its outermost alternatives, begins and "
                  "ends");
  } else if (next_is(x, '*') || next_is(x, '+') || next_is(x, '?') || next_is(x, '{') || next_is(x, '}') ||
             next_is(x, ']')) {
    return refuse(x, "write a backslash before this character, or something to repeat");
  } else {
    const uint32_t point = character(x);
    put(x, &c.sure, point, point);
  }
  return emit(x, &c.sure);
}

static bool count(parser *x, uint32_t *out) {
  const uint8_t *begin = x->at;
  *out = 0;
  for (; x->at < x->end && *x->at >= '0' && *x->at <= '9'; x->at++) {
    if (*out <= MOST_COUNT) *out = *out * 10 + (uint32_t)(*x->at - '0');
  }
  return x->at > begin && *out <= MOST_COUNT;
}

/* Whether there is a quantifier; what it says. */
static bool quantifier(parser *x, uint32_t *least, uint32_t *most) {
  *least = *most = 1;
  if (take(x, '*')) {
    *least = 0;
    *most = PROGRAM_ANY_NUMBER;
  } else if (take(x, '+')) {
    *most = PROGRAM_ANY_NUMBER;
  } else if (take(x, '?')) {
    *least = 0;
  } else if (take(x, '{')) {
    if (!count(x, least)) refuse(x, "a count is missing, or too large");
    *most = *least;
    if (take(x, ',')) {
      *most = PROGRAM_ANY_NUMBER;
      if (!next_is(x, '}') && !count(x, most)) refuse(x, "a count is too large");
    }
    if (!take(x, '}')) refuse(x, "a count does not end");
    if (*most < *least) refuse(x, "a count whose most is below its least");
  } else {
    return false;
  }
  take(x, '?'); /* lazy: the texts are the same */
  if (next_is(x, '*') || next_is(x, '+') || next_is(x, '?') || next_is(x, '{'))
    refuse(x, "a quantifier of a quantifier is not supported");
  return true;
}

typedef struct {
  parser *x;
  const uint8_t *at;
} copied;

static fragment copy(program *p, void *context) {
  const copied *c = context;
  (void)p;
  c->x->at = c->at;
  return atom(c->x);
}

static fragment sequence(parser *x) {
  fragment whole = program_nothing(x->p);
  while (x->p->status == MB_OK && x->at < x->end && !next_is(x, '|') && !next_is(x, ')')) {
    if (next_is(x, '$') && x->depth == 0) break;
    copied c = {x, x->at};
    uint32_t least, most;
    fragment piece = atom(x);
    if (x->p->status == MB_OK && quantifier(x, &least, &most)) {
      const uint8_t *behind = x->at;
      const bool endless = most == PROGRAM_ANY_NUMBER;
      if (least == 0 && most == 1)
        piece = program_maybe(x->p, piece);
      else if (least == 0 && endless)
        piece = program_many(x->p, piece);
      else if (least == 1 && endless)
        piece = program_once_or_more(x->p, piece);
      else
        piece = program_repeat(x->p, copy, &c, least, most); /* the one above only found the end */
      x->at = behind;
    }
    whole = program_then(x->p, whole, piece);
  }
  return whole;
}

static fragment alternatives(parser *x) {
  fragment whole = sequence(x);
  while (x->p->status == MB_OK && take(x, '|')) whole = program_either(x->p, whole, sequence(x));
  return whole;
}

static fragment anything(program *p) {
  static const characters all = {.count = 2, .ranges = {{0, 0xD7FF}, {0xE000, LAST_POINT}}};
  return program_many(p, program_json_characters(p, &all));
}

/* One of the outermost alternatives. */
static fragment outermost(parser *x, regex_use use) {
  const bool from_begin = take(x, '^') || use == REGEX_WHOLE;
  fragment whole = sequence(x);
  const bool to_end = take(x, '$') || use == REGEX_WHOLE;
  if (!from_begin) whole = program_then(x->p, anything(x->p), whole);
  return to_end ? whole : program_then(x->p, whole, anything(x->p));
}

fragment regex_compile(program *p, const char *where, const char *text, size_t bytes, regex_use use) {
  const uint8_t *begin = (const uint8_t *)text;
  parser x = {p, where, begin, begin, begin + bytes, use == REGEX_IN_JSON, 0};
  if (!mb_utf8_valid(begin, bytes)) return refuse(&x, "not valid UTF-8");
  fragment whole = outermost(&x, use);
  while (p->status == MB_OK && take(&x, '|')) whole = program_either(p, whole, outermost(&x, use));
  if (p->status == MB_OK && x.at < x.end)
    return refuse(&x, next_is(&x, ')') ? "a ) without its ("
                                       : "^ and $ are only supported at an outermost alternative's begin and end");
  return whole;
}
