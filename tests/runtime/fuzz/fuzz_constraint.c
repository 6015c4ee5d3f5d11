/* Reads any bytes as the form of an answer: 'j' and a JSON schema, or 'r' and a regular expression; and answers in it
 * with a small vocabulary. Seeds: forms of both kinds. */
#include <stdlib.h>
#include <string.h>

#include "constraint/vocabulary.h"
#include "fuzz.h"

enum { VOCABULARY = 256 + 12 + 2, END = VOCABULARY - 1, MOST_TOKENS = 60 };

static const char *const longer[] = {"\", \"", "\": ", "{\"", "}]",   "the ",   " quick brown foxes",
                                     "123",    "true", "é",   "\xC3", "\xA9\"", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

static size_t text_of(const void *unused, uint32_t token, uint8_t *bytes) {
  (void)unused;
  if (token < 256) {
    bytes[0] = (uint8_t)token;
    return 1;
  }
  if (token >= 256 + 12) return 0;
  const size_t size = strlen(longer[token - 256]);
  memcpy(bytes, longer[token - 256], size);
  return size;
}

static uint32_t chance = 1;
static uint32_t next_chance(void) { return (chance = chance * 1664525u + 1013904223u) >> 8; }

/* Goes on with tokens that are allowed until the answer ends; everything that is said of them must hang together. */
static void answer(mb_constraint *c) {
  for (int i = 0; i < MOST_TOKENS && !mb_constraint_complete(c); i++) {
    const uint32_t *allowed;
    if (mb_constraint_allowed(c, &allowed) != MB_OK) return;
    if (mask_has(allowed, END) != mb_constraint_may_end(c)) abort();
    const uint32_t from = next_chance() % VOCABULARY;
    int32_t chosen = -1;
    for (uint32_t n = 0; n < VOCABULARY; n++) {
      const int32_t token = (int32_t)((from + n) % VOCABULARY);
      const bool is = mask_has(allowed, (uint32_t)token);
      if (token != END && is != (mb_constraint_fitting(c, &token, 1) == 1)) abort();
      if (is && chosen < 0) chosen = token;
    }
    if (chosen < 0 || mb_constraint_accept(c, chosen) != MB_OK) abort();
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  static mb_vocabulary *vocabulary;
  static const int32_t end = END;
  if (!vocabulary && vocabulary_build(text_of, NULL, VOCABULARY, &end, 1, &vocabulary) != MB_OK) abort();
  if (bytes == 0) return 0;
  char *text = malloc(bytes); /* one object whose end is watched */
  if (!text) return 0;
  memcpy(text, data + 1, bytes - 1);
  mb_constraint *c;
  chance = (uint32_t)bytes;
  if (mb_constraint_open(vocabulary, data[0] == 'j' ? MB_CONSTRAINT_JSON_SCHEMA : MB_CONSTRAINT_REGEX, text, bytes - 1,
                         &c) == MB_OK) {
    for (int i = 0; i < 2; i++) {
      mb_constraint_begin(c);
      answer(c);
    }
    mb_constraint_close(c);
  }
  free(text);
  return 0;
}
