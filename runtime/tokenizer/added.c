/* Added tokens: leftmost, then longest, over a sorted list of texts; then the conditions of each token, in the order
 * in which Hugging Face looks at them. A match that its conditions turn down still uses up its text. */
#include "base/unicode.h"
#include "base/unicode_tables.h"
#include "tokenizer/tokenizer.h"

/* The class of the character that ends before `at`, 0 at the start. */
static uint32_t class_before(const uint8_t *text, size_t at, size_t *begin) {
  if (at == 0) return 0;
  do at--;
  while (at > 0 && (text[at] & 0xC0) == 0x80);
  uint32_t point;
  mb_utf8_decode(text + at, &point);
  *begin = at;
  return mb_unicode_class(point);
}

static uint32_t class_after(const uint8_t *text, size_t at, size_t bytes, size_t *end) {
  if (at == bytes) return 0;
  uint32_t point;
  *end = at + mb_utf8_decode(text + at, &point);
  return mb_unicode_class(point);
}

/* The longest token of list[count] that text begins with, NULL: none. The list is narrowed byte by byte: among texts
 * that share the bytes so far, the shortest (the one that ends here) comes first. */
static const mb_token_added *longest(const mb_tokenizer *tokenizer, const mb_token_added *list, uint32_t count,
                                     const uint8_t *text, size_t bytes) {
  const mb_token_added *found = NULL;
  uint32_t first = 0, last = count;
  for (uint32_t depth = 0; first < last; depth++) {
    if (list[first].bytes == depth) found = &list[first++];
    if (depth == bytes) break;
    uint32_t low = first, high = last;
    while (low < high) { /* the first one whose byte is not below */
      uint32_t middle = (low + high) / 2;
      if (tokenizer->added_bytes[list[middle].offset + depth] < text[depth]) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    first = low;
    high = last;
    while (low < high) { /* the first one whose byte is above */
      uint32_t middle = (low + high) / 2;
      if (tokenizer->added_bytes[list[middle].offset + depth] <= text[depth]) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    last = low;
  }
  return found;
}

bool mb_added_next(const mb_tokenizer *tokenizer, bool normalized, const uint8_t *text, size_t bytes, size_t from,
                   size_t *search, mb_added_match *match) {
  const mb_token_header *header = &tokenizer->header;
  const mb_token_added *list = tokenizer->added + (normalized ? header->added_raw : 0);
  uint32_t count = normalized ? header->added_count - header->added_raw : header->added_raw;
  const uint8_t *first = tokenizer->added_first[normalized];
  if (count == 0) return false;
  for (size_t at = *search; at < bytes; at++) {
    if (!(first[text[at] >> 3] & 1u << (text[at] & 7))) continue;
    const mb_token_added *token = longest(tokenizer, list, count, text + at, bytes - at);
    if (!token) continue;
    size_t begin = at, end = at + token->bytes, next;
    at = end - 1; /* the search goes on behind it */
    if ((token->flags & MB_TOKEN_ADDED_WORD) && ((class_before(text, begin, &next) & MB_UNICODE_WORD) ||
                                                 (class_after(text, end, bytes, &next) & MB_UNICODE_WORD)))
      continue;
    *search = end;
    if (token->flags & MB_TOKEN_ADDED_STRIP_LEFT) {
      while (begin > from && (class_before(text, begin, &next) & MB_UNICODE_SPACE)) begin = next;
    }
    if (token->flags & MB_TOKEN_ADDED_STRIP_RIGHT) {
      if (end < from) end = from; /* the last token swallowed it all: not to be looked through once more */
      while (class_after(text, end, bytes, &next) & MB_UNICODE_SPACE) end = next;
    }
    *match = (mb_added_match){begin, end, token->id};
    return true;
  }
  return false;
}
