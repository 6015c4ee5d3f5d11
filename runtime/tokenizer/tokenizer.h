/* What the tokenizer's files share. The mapped file is untrusted: what mb_tokenizer_open checked once is said at the
 * field, everything else is checked where it is used. */
#ifndef MB_TOKENIZER_TOKENIZER_H
#define MB_TOKENIZER_TOKENIZER_H

#include "base/buffer.h"
#include "chat/program.h"
#include "mobile_bundle/tokenizer.h"
#include "mobile_bundle/tokenizer_format.h"

struct mb_tokenizer {
  const uint8_t *file;
  size_t file_bytes;
  bool mapped; /* file is ours to unmap */

  mb_token_header header;  /* a copy; counts agree with the sections' sizes, probes and template are within limits */
  const uint32_t *offsets; /* ascending, the last one within the bytes */
  const uint8_t *bytes;
  const int32_t *symbols;      /* all -1 or below the vocabulary */
  const uint64_t *merges;      /* unchecked slots */
  const uint32_t *merged;      /* NULL: merge_first + rank; all below the vocabulary either way */
  const int32_t *strings;      /* NULL without; all -1 or below the vocabulary */
  const mb_token_added *added; /* texts within added_bytes, ids below the vocabulary, sorted */
  const uint8_t *added_bytes;
  const int32_t *template_ids; /* below the vocabulary */
  chat_program chat_program;   /* header NULL without; checked */
  const mb_token_chat *chat;   /* NULL without; texts within chat_bytes */
  const uint8_t *chat_bytes;

  int32_t ascii[128];         /* not byte level: ids of the one-byte characters, -1: none */
  uint8_t added_first[2][32]; /* bit set of the first bytes of raw and normalised added tokens */
};

/* For tests and fuzzing: `data` must be 8-byte aligned and outlive the tokenizer. */
MB_API mb_status mb_tokenizer_open_memory(const void *data, size_t bytes, bool check_crc, mb_tokenizer **tokenizer);

/* The bytes of an id below the vocabulary. */
static inline const uint8_t *mb_token_text(const mb_tokenizer *tokenizer, uint32_t id, uint32_t *bytes) {
  uint32_t begin = tokenizer->offsets[id] & MB_TOKEN_OFFSET_MASK;
  *bytes = (tokenizer->offsets[id + 1] & MB_TOKEN_OFFSET_MASK) - begin;
  return tokenizer->bytes + begin;
}

/* bpe.c: one call of mb_tokenizer_encode. */
typedef struct {
  const mb_tokenizer *tokenizer;
  int32_t *ids;
  size_t capacity, count;
  mb_buffer symbols, heap;                          /* of a long word */
  mb_buffer repaired, composed, normalized, spaced; /* the text at the stages before words */
  mb_go_on go_on;                                   /* NULL: nobody stops it */
  void *go_on_context;
  uint32_t steps; /* since the start: one in MB_STEPS_BETWEEN_ASKING asks */
  bool stopped;
} mb_encoder;

#define MB_STEPS_BETWEEN_ASKING 256u

/* Between two words, or two merges of a long one. false: stop. */
static inline bool mb_encoder_goes_on(mb_encoder *encoder) {
  if (encoder->go_on && encoder->steps++ % MB_STEPS_BETWEEN_ASKING == 0 && !encoder->go_on(encoder->go_on_context))
    encoder->stopped = true;
  return !encoder->stopped;
}

static inline void mb_encoder_put(mb_encoder *encoder, int32_t id) {
  if (encoder->count < encoder->capacity) encoder->ids[encoder->count] = id;
  encoder->count++;
}

/* -1: no such token in the table of strings. */
int32_t mb_token_find(const mb_tokenizer *tokenizer, const uint8_t *text, size_t bytes);
/* Puts the ids of one word (valid UTF-8). false: no memory, or stopped. Time is n log n in the word. */
bool mb_encode_word(mb_encoder *encoder, const uint8_t *word, size_t bytes);

/* split.c: the end of the piece that begins at `at` < end, in valid UTF-8. */
size_t mb_split_word(mb_token_split split, const uint8_t *text, size_t at, size_t end);
size_t mb_split_digits(bool runs, const uint8_t *text, size_t at, size_t end);
/* Before "▁": each one, or only those that another character stands before. */
size_t mb_split_metaspace(bool each, const uint8_t *text, size_t at, size_t end);

/* added.c: the next added token at or after *search in valid UTF-8. `from` is the end of the last one, which
 * white space before this one is not taken from. false: there is none. */
typedef struct {
  size_t begin, end;
  uint32_t id;
} mb_added_match;
bool mb_added_next(const mb_tokenizer *tokenizer, bool normalized, const uint8_t *text, size_t bytes, size_t from,
                   size_t *search, mb_added_match *match);

#endif
