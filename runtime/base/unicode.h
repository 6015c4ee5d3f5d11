/* UTF-8, character classes and NFC, as the Hugging Face tokenizers library has them. */
#ifndef MB_BASE_UNICODE_H
#define MB_BASE_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

/* The value of the range that a code point is in: ranges hold first code point << 8 | value, ascending from 0. */
uint32_t mb_range_value(const uint32_t *ranges, uint32_t count, uint32_t point);
/* Bits: MB_UNICODE_* of unicode_tables.h. */
uint32_t mb_unicode_class(uint32_t point);

/* MB_GRAPHEME_* of unicode_tables.h: what decides on the borders of grapheme clusters. */
uint32_t mb_grapheme_class(uint32_t point);

/* The first character of text[bytes], bytes > 0: its length; 0 when the text ends inside it; -n when the first n bytes
 * are invalid and become one U+FFFD (the longest prefix of a character, as Python and Rust count). */
int mb_utf8_scan(const uint8_t *text, size_t bytes);
bool mb_utf8_valid(const uint8_t *text, size_t bytes);
/* Appends text with U+FFFD for what is invalid. false: no memory. */
bool mb_utf8_repair(const uint8_t *text, size_t bytes, mb_buffer *out);

/* Of a valid text. Returns the length. */
static inline size_t mb_utf8_decode(const uint8_t *text, uint32_t *point) {
  if (text[0] < 0x80) {
    *point = text[0];
    return 1;
  }
  if (text[0] < 0xE0) {
    *point = (text[0] & 0x1Fu) << 6 | (text[1] & 0x3Fu);
    return 2;
  }
  if (text[0] < 0xF0) {
    *point = (text[0] & 0x0Fu) << 12 | (text[1] & 0x3Fu) << 6 | (text[2] & 0x3Fu);
    return 3;
  }
  *point = (text[0] & 0x07u) << 18 | (text[1] & 0x3Fu) << 12 | (text[2] & 0x3Fu) << 6 | (text[3] & 0x3Fu);
  return 4;
}
/* Writes at most 4 bytes, returns how many. */
size_t mb_utf8_encode(uint32_t point, uint8_t *text);

/* Of a valid text: whether NFC leaves it as it is for certain. */
bool mb_nfc_inert(const uint8_t *text, size_t bytes);
/* Appends the valid text in NFC. false: no memory. Time is linear in the text. */
bool mb_nfc(const uint8_t *text, size_t bytes, mb_buffer *out);

#endif
