#include "base/unicode.h"

#include "base/unicode_tables.h"

uint32_t mb_range_value(const uint32_t *ranges, uint32_t count, uint32_t point) {
  uint32_t low = 0, high = count, key = point << 8 | 0xFF;
  while (high - low > 1) {
    uint32_t middle = (low + high) / 2;
    if (ranges[middle] <= key) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return ranges[low] & 0xFF;
}

uint32_t mb_unicode_class(uint32_t point) {
  return point < 128 ? mb_unicode_ascii[point] : mb_range_value(mb_unicode_ranges, MB_UNICODE_RANGES, point);
}

uint32_t mb_grapheme_class(uint32_t point) {
  if (point >= 0xAC00 && point < 0xD7A4) /* syllables with and without a last consonant */
    return (point - 0xAC00) % 28 == 0 ? MB_GRAPHEME_HANGUL_LV : MB_GRAPHEME_HANGUL_LVT;
  return mb_range_value(mb_grapheme_ranges, MB_GRAPHEME_RANGES, point);
}

int mb_utf8_scan(const uint8_t *text, size_t bytes) {
  uint8_t first = text[0];
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return -1;
  /* The second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF. */
  uint8_t lowest = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  uint8_t highest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  int length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  for (int i = 1; i < length; i++) {
    if ((size_t)i == bytes) return 0;
    if (text[i] < lowest || text[i] > highest) return -i;
    lowest = 0x80;
    highest = 0xBF;
  }
  return length;
}

bool mb_utf8_valid(const uint8_t *text, size_t bytes) {
  for (size_t at = 0; at < bytes;) {
    uint64_t word;
    if (bytes - at >= sizeof word) {
      memcpy(&word, text + at, sizeof word);
      if (!(word & 0x8080808080808080u)) {
        at += sizeof word;
        continue;
      }
    }
    int length = mb_utf8_scan(text + at, bytes - at);
    if (length <= 0) return false;
    at += (size_t)length;
  }
  return true;
}

bool mb_utf8_repair(const uint8_t *text, size_t bytes, mb_buffer *out) {
  size_t copied = 0, at = 0;
  while (at < bytes) {
    int length = mb_utf8_scan(text + at, bytes - at);
    if (length > 0) {
      at += (size_t)length;
      continue;
    }
    if (!mb_buffer_append(out, text + copied, at - copied) || !mb_buffer_append(out, "\xEF\xBF\xBD", 3)) return false;
    at = length ? at + (size_t)-length : bytes;
    copied = at;
  }
  return mb_buffer_append(out, text + copied, bytes - copied);
}

size_t mb_utf8_encode(uint32_t point, uint8_t *text) {
  if (point < 0x80) {
    text[0] = (uint8_t)point;
    return 1;
  }
  if (point < 0x800) {
    text[0] = (uint8_t)(0xC0 | point >> 6);
    text[1] = (uint8_t)(0x80 | (point & 0x3F));
    return 2;
  }
  if (point < 0x10000) {
    text[0] = (uint8_t)(0xE0 | point >> 12);
    text[1] = (uint8_t)(0x80 | (point >> 6 & 0x3F));
    text[2] = (uint8_t)(0x80 | (point & 0x3F));
    return 3;
  }
  text[0] = (uint8_t)(0xF0 | point >> 18);
  text[1] = (uint8_t)(0x80 | (point >> 12 & 0x3F));
  text[2] = (uint8_t)(0x80 | (point >> 6 & 0x3F));
  text[3] = (uint8_t)(0x80 | (point & 0x3F));
  return 4;
}
