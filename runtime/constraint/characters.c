/* Sets of characters, and how they are read as UTF-8: ranges of code points are cut where their bytes are ranges, too
 * (as in RE2 and Rust's utf8-ranges). */
#include <stdlib.h>
#include <string.h>

#include "base/unicode.h"
#include "constraint/program.h"

enum { FIRST_SURROGATE = 0xD800, LAST_SURROGATE = 0xDFFF, LAST_POINT = 0x10FFFF };

static void put(characters *set, uint32_t low, uint32_t high) {
  set->ranges[set->count].low = low;
  set->ranges[set->count++].high = high;
}

bool characters_add(characters *set, uint32_t low, uint32_t high) {
  if (set->count >= CHARACTERS_MOST) return false;
  put(set, low, high);
  return true;
}

void characters_take_out(characters *set, uint32_t low, uint32_t high) {
  characters left = {0};
  for (uint32_t i = 0; i < set->count; i++) {
    const uint32_t a = set->ranges[i].low, b = set->ranges[i].high;
    if (b < low || a > high) {
      put(&left, a, b);
      continue;
    }
    if (a < low) put(&left, a, low - 1);
    if (b > high) put(&left, high + 1, b);
  }
  *set = left;
}

static int by_low(const void *a, const void *b) {
  const uint32_t *x = a, *y = b;
  return (*x > *y) - (*x < *y);
}

void characters_settle(characters *set) {
  uint32_t kept = 0;
  if (set->count == 0) return;
  qsort(set->ranges, set->count, sizeof set->ranges[0], by_low);
  for (uint32_t i = 1; i < set->count; i++) {
    if (set->ranges[i].low <= set->ranges[kept].high + 1) {
      if (set->ranges[i].high > set->ranges[kept].high) set->ranges[kept].high = set->ranges[i].high;
    } else {
      set->ranges[++kept] = set->ranges[i];
    }
  }
  set->count = kept + 1;
  characters_take_out(set, FIRST_SURROGATE, LAST_SURROGATE);
}

void characters_complement(characters *set) {
  characters others = {0};
  uint32_t next = 0;
  characters_settle(set);
  for (uint32_t i = 0; i < set->count; i++) {
    if (set->ranges[i].low > next) put(&others, next, set->ranges[i].low - 1);
    next = set->ranges[i].high + 1;
  }
  if (next <= LAST_POINT) put(&others, next, LAST_POINT);
  characters_settle(&others);
  *set = others;
}

/* Alternatives of first bytes, and the runs of continuation bytes of any value that many of them end with. */
typedef struct {
  program *p;
  uint32_t first; /* the chain's last step but one: what comes before it; PROGRAM_NOWHERE: empty */
  uint32_t end;
  uint32_t tails[4]; /* [n]: reads n bytes from 80 to BF; 0: not made yet. [0]: the end */
} reading;

static uint32_t tail(reading *r, uint32_t bytes) {
  if (bytes == 0) return r->end;
  if (!r->tails[bytes]) r->tails[bytes] = program_read(r->p, 0x80, 0xBF, tail(r, bytes - 1));
  return r->tails[bytes];
}

/* Characters of the same length whose bytes are ranges one by one. */
static void put_bytes(reading *r, uint32_t low, uint32_t high) {
  uint8_t from[4], to[4];
  const size_t bytes = mb_utf8_encode(low, from);
  (void)mb_utf8_encode(high, to);
  uint32_t next = r->end;
  for (size_t i = bytes; i-- > 1;) {
    const bool any = from[i] == 0x80 && to[i] == 0xBF;
    const uint32_t behind = (uint32_t)(bytes - 1 - i);
    next = any && next == tail(r, behind) ? tail(r, behind + 1) : program_read(r->p, from[i], to[i], next);
  }
  const uint32_t first = program_read(r->p, from[0], to[0], next);
  if (r->p->status == MB_OK) r->p->steps[first].other = r->first;
  r->first = first;
}

static void put_range(reading *r, uint32_t low, uint32_t high) {
  static const uint32_t last_of_length[] = {0x7F, 0x7FF, 0xFFFF};
  for (size_t i = 0; i < 3; i++) {
    if (low <= last_of_length[i] && high > last_of_length[i]) {
      put_range(r, low, last_of_length[i]);
      low = last_of_length[i] + 1;
    }
  }
  for (uint32_t bits = 6; low >= 0x80 && bits <= 18; bits += 6) {
    const uint32_t below = (1u << bits) - 1;
    if ((low & ~below) == (high & ~below)) break;
    if (low & below) {
      put_range(r, low, low | below);
      low = (low | below) + 1;
      bits = 0;
      continue;
    }
    if ((high & below) != below) {
      put_range(r, low, (high & ~below) - 1);
      low = high & ~below;
      bits = 0;
    }
  }
  put_bytes(r, low, high);
}

fragment program_characters(program *p, const characters *set) {
  const fragment end = program_nothing(p);
  reading r = {.p = p, .first = PROGRAM_NOWHERE, .end = end.end};
  for (uint32_t i = 0; i < set->count && p->status == MB_OK; i++)
    put_range(&r, set->ranges[i].low, set->ranges[i].high);
  return (fragment){p->status == MB_OK ? r.first : 0, end.end};
}

static bool holds(const characters *set, uint32_t point) {
  for (uint32_t i = 0; i < set->count; i++) {
    if (point >= set->ranges[i].low && point <= set->ranges[i].high) return true;
  }
  return false;
}

/* Adds what begins with a byte. */
static void put_first(reading *r, uint8_t byte, uint32_t next) {
  const uint32_t first = program_read(r->p, byte, byte, next);
  if (r->p->status == MB_OK) r->p->steps[first].other = r->first;
  r->first = first;
}

fragment program_json_characters(program *p, const characters *set) {
  static const char meant[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt", digits[] = "0123456789abcdef";
  const fragment end = program_nothing(p);
  reading whole = {.p = p, .first = PROGRAM_NOWHERE, .end = end.end}, escapes = whole;
  characters plain = *set;
  characters_take_out(&plain, 0, 0x1F);
  characters_take_out(&plain, '"', '"');
  characters_take_out(&plain, '\\', '\\');
  for (uint32_t i = 0; i < plain.count && p->status == MB_OK; i++)
    put_range(&whole, plain.ranges[i].low, plain.ranges[i].high);
  for (uint32_t point = 0; point < 0x80; point++) {
    const char *letter = point ? strchr(meant, (int)point) : NULL;
    if ((point >= 0x20 && !letter) || !holds(set, point)) continue;
    if (letter) {
      put_first(&escapes, (uint8_t)letters[letter - meant], end.begin);
    } else {
      const char escape[] = {'0', '0', digits[point >> 4], digits[point & 15]};
      const fragment rest = program_literal(p, escape, sizeof escape);
      program_lead(p, rest.end, end.begin);
      put_first(&escapes, 'u', rest.begin);
    }
  }
  if (escapes.first != PROGRAM_NOWHERE) put_first(&whole, '\\', escapes.first);
  return (fragment){p->status == MB_OK ? whole.first : 0, end.end};
}
