/* The regular expressions of the pre-tokenizers, by hand. Alternatives are tried in the order in which they stand in
 * the expression (tokenizer_format.h), and no character is left over by any of them. */
#include "base/unicode.h"
#include "base/unicode_tables.h"
#include "tokenizer/tokenizer.h"

/* Neither white space nor letter nor number. */
enum { NAMED = MB_UNICODE_LETTER | MB_UNICODE_NUMBER | MB_UNICODE_SPACE };

static inline uint32_t class_at(const uint8_t *text, size_t at, size_t *next) {
  if (text[at] < 0x80) {
    *next = at + 1;
    return mb_unicode_ascii[text[at]];
  }
  uint32_t point;
  *next = at + mb_utf8_decode(text + at, &point);
  return mb_unicode_class(point);
}

/* The end of the run of characters that have the bit. */
static size_t run_of(const uint8_t *text, size_t at, size_t end, uint32_t bit) {
  size_t next;
  while (at < end && (class_at(text, at, &next) & bit)) at = next;
  return at;
}

static size_t run_of_others(const uint8_t *text, size_t at, size_t end) {
  size_t next;
  while (at < end && !(class_at(text, at, &next) & NAMED)) at = next;
  return at;
}

static inline bool is_newline(uint8_t byte) { return byte == '\n' || byte == '\r'; }

/* 's|'t|'re|'ve|'m|'ll|'d at an apostrophe: the end, or `at` when there is none. Without case U+017F counts as s. */
static size_t contraction(const uint8_t *text, size_t at, size_t end, bool any_case) {
  uint8_t fold = any_case ? 0x20 : 0, first = at + 1 < end ? text[at + 1] : 0, second = at + 2 < end ? text[at + 2] : 0;
  if (any_case && first == 0xC5 && second == 0xBF) return at + 3;
  if (first >= 0x80 || second >= 0x80) second = 0;
  switch (first | fold) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return at + 2;
    case 'r':
    case 'v':
      return (second | fold) == 'e' ? at + 3 : at;
    case 'l':
      return (second | fold) == 'l' ? at + 3 : at;
    default:
      return at;
  }
}

/* \s+(?!\S)|\s+: all of the run at the end of the text, else all but its last character, which goes with what follows
 * or is a piece of its own. With `newlines` before them \s*[\r\n]+: up to the last newline. */
static size_t white_space(const uint8_t *text, size_t at, size_t end, bool newlines) {
  size_t last = at, after_newline = 0, run = at;
  while (run < end) {
    size_t next;
    if (!(class_at(text, run, &next) & MB_UNICODE_SPACE)) break;
    if (is_newline(text[run])) after_newline = next;
    last = run;
    run = next;
  }
  if (newlines && after_newline) return after_newline;
  return run == end || last == at ? run : last;
}

static size_t gpt2(const uint8_t *text, size_t at, size_t end) {
  if (text[at] == '\'') {
    size_t stop = contraction(text, at, end, false);
    if (stop != at) return stop;
  }
  size_t next, after_space = text[at] == ' ' && at + 1 < end ? at + 1 : at;
  uint32_t class = class_at(text, after_space, &next);
  if (class & MB_UNICODE_LETTER) return run_of(text, next, end, MB_UNICODE_LETTER);
  if (class & MB_UNICODE_NUMBER) return run_of(text, next, end, MB_UNICODE_NUMBER);
  if (!(class & NAMED)) return run_of_others(text, next, end);
  return white_space(text, at, end, false);
}

static size_t llama3(const uint8_t *text, size_t at, size_t end, int digits) {
  if (text[at] == '\'') {
    size_t stop = contraction(text, at, end, true);
    if (stop != at) return stop;
  }
  size_t next, second;
  uint32_t class = class_at(text, at, &next);
  if (class & MB_UNICODE_LETTER) return run_of(text, next, end, MB_UNICODE_LETTER);
  if (class & MB_UNICODE_NUMBER) {
    while (--digits && next < end && (class_at(text, next, &second) & MB_UNICODE_NUMBER)) next = second;
    return next;
  }
  uint32_t following = next < end ? class_at(text, next, &second) : MB_UNICODE_SPACE;
  if ((following & MB_UNICODE_LETTER) && !is_newline(text[at])) return run_of(text, second, end, MB_UNICODE_LETTER);
  if (!(class & NAMED) || (text[at] == ' ' && !(following & NAMED))) {
    size_t stop = run_of_others(text, next, end);
    while (stop < end && is_newline(text[stop])) stop++;
    return stop;
  }
  return white_space(text, at, end, true);
}

size_t mb_split_word(mb_token_split split, const uint8_t *text, size_t at, size_t end) {
  switch (split) {
    case MB_TOKEN_SPLIT_GPT2:
      return gpt2(text, at, end);
    case MB_TOKEN_SPLIT_LLAMA3:
      return llama3(text, at, end, 3);
    case MB_TOKEN_SPLIT_QWEN2:
      return llama3(text, at, end, 1);
    case MB_TOKEN_SPLIT_NONE:
    case MB_TOKEN_SPLIT_TABLES: /* the text is a piece of theirs already */
      break;
  }
  return end;
}

size_t mb_split_digits(bool runs, const uint8_t *text, size_t at, size_t end) {
  size_t next;
  bool digit = class_at(text, at, &next) & MB_UNICODE_DIGIT;
  if (digit && !runs) return next;
  while (next < end) {
    size_t after;
    if ((bool)(class_at(text, next, &after) & MB_UNICODE_DIGIT) != digit) break;
    next = after;
  }
  return next;
}

/* Whether words may be cut between this byte and a "▁" behind it. */
static bool cuts_behind(const mb_token_header *header, uint8_t byte) {
  return !(header->flags & MB_TOKEN_UNCUT && byte < 0x80 && header->uncut[byte >> 5] >> (byte & 31) & 1);
}

size_t mb_split_metaspace(const mb_token_header *header, bool each, const uint8_t *text, size_t at, size_t end) {
  static const uint8_t mark[3] = {0xE2, 0x96, 0x81};
  bool after_mark = false;
  for (size_t i = at; i < end;) {
    bool is_mark = end - i >= 3 && memcmp(text + i, mark, 3) == 0;
    if (is_mark && i > at && (each || (!after_mark && cuts_behind(header, text[i - 1])))) return i;
    after_mark = is_mark;
    i += is_mark ? 3 : 1;
  }
  return end;
}
