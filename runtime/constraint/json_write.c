/* Values of a schema (const, enum, names of properties) as an answer has them. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "constraint/constraint.h"

fragment json_write_string(program *p, const char *text, size_t bytes) {
  static const char meant[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt", digits[] = "0123456789abcdef";
  char *out = malloc(6 * bytes + 2);
  size_t size = 0;
  if (!out) {
    if (p->status == MB_OK) p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
    return program_nothing(p);
  }
  out[size++] = '"';
  for (size_t i = 0; i < bytes; i++) {
    const char c = text[i], *escaped = c ? strchr(meant, c) : NULL;
    if (escaped) {
      out[size++] = '\\';
      out[size++] = letters[escaped - meant];
    } else if ((unsigned char)c < 0x20) {
      const char escape[] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
      memcpy(out + size, escape, sizeof escape);
      size += sizeof escape;
    } else {
      out[size++] = c;
    }
  }
  out[size++] = '"';
  const fragment whole = program_literal(p, out, size);
  free(out);
  return whole;
}

/* Whether the string has half of a surrogate pair, which no text can have. */
static bool has_half(const json_value *string) {
  for (const char *at = string->at + 1; at + 1 < string->end; at++) {
    if (*at != '\\') continue;
    if (*++at != 'u') continue;
    const bool surrogate = (at[1] | 0x20) == 'd' && at[2] >= '8';
    const bool high = surrogate && (at[2] <= '9' || (at[2] | 0x20) < 'c');
    at += 4;
    if (!surrogate) continue;
    if (!high || string->end - at < 8 || at[1] != '\\' || at[2] != 'u' || (at[3] | 0x20) != 'd' || (at[4] | 0x20) < 'c')
      return true;
    at += 6;
  }
  return false;
}

static fragment write_string(program *p, const char *where, const json_value *value) {
  size_t bytes = 0;
  char *text = NULL;
  fragment whole = {0};
  if (has_half(value)) {
    p->status = mb_fail(MB_ERROR_ARGUMENT, "%s: a string has half of a surrogate pair", where);
  } else if (!(text = json_text(value, &bytes))) {
    p->status = mb_fail(MB_ERROR_MEMORY, "no memory for the answer's form");
  } else {
    whole = json_write_string(p, text, bytes);
  }
  free(text);
  return whole;
}

fragment json_write(program *p, const char *where, const json_value *value) {
  const char *at = NULL;
  json_value name, member;
  if (!program_goes_on(p, (size_t)(value->end - value->at))) return program_nothing(p);
  if (value->kind == '"') return write_string(p, where, value);
  if (value->kind != '{' && value->kind != '[') return program_literal(p, value->at, (size_t)(value->end - value->at));
  const bool object = value->kind == '{';
  fragment whole = program_text(p, object ? "{" : "[");
  for (bool first = true; p->status == MB_OK && json_next(value, &at, &name, &member); first = false) {
    if (!first) whole = program_then(p, whole, program_text(p, ", "));
    if (object) {
      whole = program_then(p, whole, write_string(p, where, &name));
      whole = program_then(p, whole, program_text(p, ": "));
    }
    whole = program_then(p, whole, json_write(p, where, &member));
  }
  return program_then(p, whole, program_text(p, object ? "}" : "]"));
}
