/* Ranges of decimal numbers as programs: the digits that are free once a number's first ones are neither the lowest's
 * nor the highest's. */
#include <inttypes.h>
#include <stdio.h>

#include "constraint/constraint.h"

static fragment digit(program *p, char low, char high) {
  fragment one = program_nothing(p);
  one.begin = program_read(p, (uint8_t)low, (uint8_t)high, one.begin);
  return one;
}

static fragment one_digit(program *p, void *unused) {
  (void)unused;
  return digit(p, '0', '9');
}

static fragment digits(program *p, uint32_t least, uint32_t most) {
  return program_repeat(p, one_digit, NULL, least, most);
}

/* Of `count` digits, from low to high. */
static fragment same_length(program *p, const char *low, const char *high, uint32_t count) {
  if (count == 0 || p->status != MB_OK) return program_nothing(p);
  bool all = true;
  for (uint32_t i = 0; i < count; i++) all = all && low[i] == '0' && high[i] == '9';
  if (all) return digits(p, count, count);
  if (low[0] == high[0]) return program_then(p, digit(p, low[0], low[0]), same_length(p, low + 1, high + 1, count - 1));
  static const char nines[] = "999999999999999999", zeros[] = "000000000000000000";
  const fragment first = program_then(p, digit(p, low[0], low[0]), same_length(p, low + 1, nines, count - 1));
  const fragment last = program_then(p, digit(p, high[0], high[0]), same_length(p, zeros, high + 1, count - 1));
  const fragment ends = program_either(p, first, last);
  if (high[0] - low[0] == 1) return ends;
  const fragment middle =
      program_then(p, digit(p, (char)(low[0] + 1), (char)(high[0] - 1)), digits(p, count - 1, count - 1));
  return program_either(p, ends, middle);
}

/* 0 <= low <= high <= NUMBER_MOST. */
static fragment natural(program *p, int64_t low, int64_t high) {
  if (low == 0 && high == NUMBER_MOST)
    return program_either(p, digit(p, '0', '0'), program_then(p, digit(p, '1', '9'), digits(p, 0, NUMBER_DIGITS - 1)));
  fragment whole = {0};
  bool has = false;
  int64_t first = 0, last = 9; /* of that length */
  for (uint32_t count = 1; count <= NUMBER_DIGITS; count++, first = last + 1, last = last * 10 + 9) {
    const int64_t from = low > first ? low : first, to = high < last ? high : last;
    if (from > to) continue;
    char a[24], b[24];
    snprintf(a, sizeof a, "%" PRId64, from);
    snprintf(b, sizeof b, "%" PRId64, to);
    const fragment one = same_length(p, a, b, count);
    whole = has ? program_either(p, whole, one) : one;
    has = true;
  }
  return whole;
}

static fragment negative(program *p, fragment number) { return program_then(p, program_text(p, "-"), number); }

fragment number_integers(program *p, int64_t low, int64_t high) {
  if (low >= 0) return natural(p, low, high);
  const fragment below = negative(p, natural(p, high < 0 ? -high : 1, -low));
  return high < 0 ? below : program_either(p, below, natural(p, 0, high));
}

/* Of numbers with bounds: with so few digits float64 keeps NUMBER_MOST_OPEN and what is next to it apart. */
enum { BOUNDED_FRACTION = 6 };

/* ".", and digits that need not, or must, be other than 0. */
static fragment fraction(program *p, bool not_zero) {
  const fragment point = program_text(p, ".");
  if (!not_zero) return program_then(p, point, digits(p, 1, BOUNDED_FRACTION));
  fragment whole = {0};
  for (uint32_t zeros = 0; zeros < BOUNDED_FRACTION; zeros++) {
    const fragment rest = digits(p, 0, BOUNDED_FRACTION - 1 - zeros);
    const fragment one = program_then(p, digits(p, zeros, zeros), program_then(p, digit(p, '1', '9'), rest));
    whole = zeros ? program_either(p, whole, one) : one;
  }
  return program_then(p, point, whole);
}

/* From low to high, 0 <= low <= high, both numbers without their signs; false: there is none. */
static bool between(program *p, int64_t low, bool above, int64_t high, bool below, fragment *out) {
  bool has = false;
  if (above && low < high) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, low);
    *out = program_then(p, program_text(p, text), fraction(p, true));
    has = true;
  }
  const int64_t first = above ? low + 1 : low;
  if (first < high) {
    const fragment one = program_then(p, natural(p, first, high - 1), program_maybe(p, fraction(p, false)));
    *out = has ? program_either(p, *out, one) : one;
    has = true;
  }
  if (!below && first <= high) {
    const fragment one = natural(p, high, high);
    *out = has ? program_either(p, *out, one) : one;
    has = true;
  }
  return has;
}

fragment number_decimals(program *p, int64_t low, bool above, int64_t high, bool below) {
  fragment plus = {0}, minus = {0};
  bool has_plus = false, has_minus = false;
  if (high >= 0) has_plus = between(p, low < 0 ? 0 : low, low >= 0 && above, high, below, &plus);
  /* Without 0 below it: "-0" is left to the numbers above. */
  if (low < 0) has_minus = between(p, high < 0 ? -high : 0, high >= 0 || below, -low, above, &minus);
  if (!has_plus && !has_minus) {
    if (p->status == MB_OK) p->status = MB_ERROR_ARGUMENT;
    return plus;
  }
  if (has_minus) minus = negative(p, minus);
  if (!has_plus) return minus;
  return has_minus ? program_either(p, plus, minus) : plus;
}

fragment number_any(program *p) {
  const fragment whole = program_then(p, program_maybe(p, program_text(p, "-")), natural(p, 0, NUMBER_MOST));
  const fragment exponent =
      program_then(p,
                   program_then(p, program_either(p, program_text(p, "e"), program_text(p, "E")),
                                program_maybe(p, program_either(p, program_text(p, "+"), program_text(p, "-")))),
                   digits(p, 1, 2));
  const fragment fraction = program_then(p, program_text(p, "."), digits(p, 1, NUMBER_DIGITS));
  return program_then(p, program_then(p, whole, program_maybe(p, fraction)), program_maybe(p, exponent));
}
