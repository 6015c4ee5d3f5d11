#include "base/one_line.h"

#include <string.h>

#include "base/unicode.h"

enum { HEAD = MB_ONE_LINE_CHARACTERS * 2 / 3, TAIL = MB_ONE_LINE_CHARACTERS - HEAD - 1 /* the ellipsis */ };

typedef struct {
  const uint8_t *at; /* what to write for it */
  size_t bytes;
  size_t length; /* of it in the text */
} character;

/* C0, DEL, C1, and the separators of lines and paragraphs. */
static bool breaks_line(const uint8_t *text) {
  uint32_t point;
  mb_utf8_decode(text, &point);
  return point < 0x20 || (point >= 0x7F && point < 0xA0) || point == 0x2028 || point == 0x2029;
}

static character first_of(const uint8_t *text, size_t bytes) {
  const int length = mb_utf8_scan(text, bytes);
  if (length <= 0) return (character){(const uint8_t *)"\xEF\xBF\xBD", 3, length ? (size_t)-length : bytes};
  if (breaks_line(text)) return (character){(const uint8_t *)"?", 1, (size_t)length};
  return (character){text, (size_t)length, (size_t)length};
}

size_t mb_one_line(const char *text, size_t bytes, char out[MB_ONE_LINE_BYTES]) {
  const uint8_t *from = (const uint8_t *)text;
  size_t count = 0, index = 0, written = 0;
  for (size_t at = 0; at < bytes; count++) at += first_of(from + at, bytes - at).length;
  for (size_t at = 0; at < bytes; index++) {
    const character c = first_of(from + at, bytes - at);
    at += c.length;
    if (count > MB_ONE_LINE_CHARACTERS && index >= HEAD && index < count - TAIL) {
      if (index > HEAD) continue;
      memcpy(out + written, "\xE2\x80\xA6", 3);
      written += 3;
      continue;
    }
    memcpy(out + written, c.at, c.bytes);
    written += c.bytes;
  }
  out[written] = 0;
  return written;
}
