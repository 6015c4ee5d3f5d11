#include "base/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 80 };

static const char *skip_space(const char *p, const char *end) {
  while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
  return p;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits of a \u escape; -1 where they are not. */
static int32_t hex4(const char *p, const char *end) {
  int32_t value = 0;
  if (end - p < 4) return -1;
  for (int i = 0; i < 4; i++) {
    const int digit = hex_digit(p[i]);
    if (digit < 0) return -1;
    value = value << 4 | digit;
  }
  return value;
}

/* Each of the skip functions takes the start of a thing and returns the place behind it, NULL where there is none. */
static const char *skip_string(const char *p, const char *end) {
  if (p == end || *p++ != '"') return NULL;
  for (; p < end && *p != '"'; p++) {
    if ((unsigned char)*p < 0x20) return NULL;
    if (*p != '\\') continue;
    if (++p == end || !strchr("\"\\/bfnrtu", *p) || *p == 0) return NULL;
    if (*p == 'u') {
      if (hex4(p + 1, end) < 0) return NULL;
      p += 4;
    }
  }
  return p < end ? p + 1 : NULL;
}

static const char *skip_digits(const char *p, const char *end) {
  const char *begin = p;
  while (p < end && *p >= '0' && *p <= '9') p++;
  return p > begin ? p : NULL;
}

static const char *skip_number(const char *p, const char *end) {
  if (p < end && *p == '-') p++;
  const bool zero = p < end && *p == '0';
  p = zero ? p + 1 : skip_digits(p, end);
  if (p && p < end && *p == '.') p = skip_digits(p + 1, end);
  if (p && p < end && (*p == 'e' || *p == 'E')) {
    p++;
    if (p < end && (*p == '+' || *p == '-')) p++;
    p = skip_digits(p, end);
  }
  return p;
}

static const char *skip_word(const char *p, const char *end, const char *word) {
  const size_t bytes = strlen(word);
  return (size_t)(end - p) >= bytes && memcmp(p, word, bytes) == 0 ? p + bytes : NULL;
}

static const char *skip_value(const char *p, const char *end, int depth);

static const char *skip_container(const char *p, const char *end, int depth) {
  const bool object = *p == '{';
  const char close = object ? '}' : ']';
  if (depth == DEEPEST) return NULL;
  p = skip_space(p + 1, end);
  if (p < end && *p == close) return p + 1;
  for (;;) {
    if (object) {
      if (!(p = skip_string(p, end))) return NULL;
      p = skip_space(p, end);
      if (p == end || *p++ != ':') return NULL;
      p = skip_space(p, end);
    }
    if (!(p = skip_value(p, end, depth + 1))) return NULL;
    p = skip_space(p, end);
    if (p == end) return NULL;
    if (*p == close) return p + 1;
    if (*p++ != ',') return NULL;
    p = skip_space(p, end);
  }
}

static const char *skip_value(const char *p, const char *end, int depth) {
  if (p == end) return NULL;
  switch (*p) {
    case '{':
    case '[':
      return skip_container(p, end, depth);
    case '"':
      return skip_string(p, end);
    case 't':
      return skip_word(p, end, "true");
    case 'f':
      return skip_word(p, end, "false");
    case 'n':
      return skip_word(p, end, "null");
    default:
      return skip_number(p, end);
  }
}

static json_value value_at(const char *at, const char *end) {
  const char first = *at;
  return (json_value){at, end, first == '-' || (first >= '0' && first <= '9') ? '0' : first};
}

bool json_parse(const char *text, size_t bytes, json_value *value) {
  const char *end = text + bytes, *at = skip_space(text, end), *behind = skip_value(at, end, 0);
  if (!behind || skip_space(behind, end) != end) return false;
  *value = value_at(at, behind);
  return true;
}

bool json_next(const json_value *container, const char **at, json_value *name, json_value *value) {
  const char *p = *at ? *at : container->at + 1, *end = container->end;
  p = skip_space(p, end);
  if (*p == ',') p = skip_space(p + 1, end);
  if (*p == '}' || *p == ']') return false;
  if (container->kind == '{') {
    const char *behind = skip_string(p, end);
    *name = value_at(p, behind);
    p = skip_space(skip_space(behind, end) + 1, end);
  }
  *at = skip_value(p, end, 0);
  *value = value_at(p, *at);
  return true;
}

bool json_is(const json_value *string, const char *text) {
  const size_t bytes = strlen(text);
  return string->kind == '"' && (size_t)(string->end - string->at) == bytes + 2 &&
         memcmp(string->at + 1, text, bytes) == 0;
}

static char *put_utf8(char *out, uint32_t point) {
  if (point < 0x80) {
    *out++ = (char)point;
    return out;
  }
  const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
  static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
  *out++ = (char)(lead[more] | point >> 6 * more);
  for (int i = more - 1; i >= 0; i--) *out++ = (char)(0x80 | (point >> 6 * i & 0x3F));
  return out;
}

/* The code point of the escape at p, which stands behind "\u"; moves p behind it, and behind the second of a pair. */
static uint32_t escaped_point(const char **p, const char *end) {
  const uint32_t first = (uint32_t)hex4(*p, end);
  *p += 4;
  if (first < 0xD800 || first > 0xDFFF) return first;
  if (first < 0xDC00 && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u') {
    const uint32_t second = (uint32_t)hex4(*p + 2, end);
    if (second >= 0xDC00 && second <= 0xDFFF) {
      *p += 6;
      return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }
  }
  return 0xFFFD;
}

char *json_text(const json_value *string, size_t *bytes) {
  static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
  char *text = malloc((size_t)(string->end - string->at)),
       *out = text; /* an escape is longer than what it stands for */
  if (!text) return NULL;
  for (const char *p = string->at + 1, *end = string->end - 1; p < end;) {
    if (*p != '\\') {
      *out++ = *p++;
    } else if (p[1] == 'u') {
      p += 2;
      out = put_utf8(out, escaped_point(&p, end));
    } else {
      *out++ = meant[strchr(escapes, p[1]) - escapes];
      p += 2;
    }
  }
  *out = 0;
  *bytes = (size_t)(out - text);
  return text;
}
