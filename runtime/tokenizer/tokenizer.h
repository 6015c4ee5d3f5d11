/* What the tokenizer's files share. The mapped file is untrusted: what mb_tokenizer_open checked once is said at the
 * field, everything else is checked where it is used. */
#ifndef MB_TOKENIZER_TOKENIZER_H
#define MB_TOKENIZER_TOKENIZER_H

#include "base/buffer.h"
#include "chat/program.h"
#include "mobile_bundle/tokenizer.h"
#include "mobile_bundle/tokenizer_format.h"

/* A step of MB_TOKEN_SPLITS. Checked: every class and every state in it exists. */
typedef struct {
  mb_token_split_step about;
  const uint16_t *next;   /* [state_count][class_count + 1] */
  const uint8_t *waiting; /* [state_count] */
} mb_split_step;

typedef struct {
  uint32_t step_count; /* 0: without tables */
  uint32_t class_count;
  const uint8_t *byte_classes;
  const uint16_t *block_of;
  const uint8_t *blocks;
  mb_split_step steps[MB_TOKEN_MAX_SPLITS];
} mb_split_tables;

/* MB_TOKEN_TRIE. Checked: children are nodes, ids are -1 or below the vocabulary. */
typedef struct {
  const uint32_t *first_child;
  const int32_t *ids;
  const uint8_t *labels;
} mb_token_trie;

/* MB_TOKEN_CHARSMAP. Checked: there is a unit, and the texts are UTF-8. */
typedef struct {
  const uint32_t *units;
  uint32_t unit_count;
  const uint8_t *texts;
  size_t text_bytes;
} mb_charsmap;

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
  mb_split_tables splits;
  const double *scores; /* NULL without MB_TOKEN_UNIGRAM */
  mb_token_trie trie;
  mb_charsmap charsmap; /* with MB_TOKEN_CHARSMAP_FLAG */

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
  mb_buffer symbols, heap;                                          /* of a long word */
  mb_buffer repaired, mapped, composed, joined, normalized, spaced; /* the text at the stages before words */
  mb_go_on go_on;                                                   /* NULL: nobody stops it */
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

/* unigram.c */
mb_status mb_trie_open(const uint8_t *data, size_t bytes, uint32_t vocabulary, mb_token_trie *trie);
/* As mb_encode_word, with MB_TOKEN_UNIGRAM. Time is that of the word times the longest token. */
bool mb_encode_unigram(mb_encoder *encoder, const uint8_t *word, size_t bytes);

/* charsmap.c. Appends what the table makes of a valid text. false: no memory. */
mb_status mb_charsmap_open(const uint8_t *data, size_t bytes, mb_charsmap *map);
bool mb_charsmap_apply(const mb_charsmap *map, const uint8_t *text, size_t bytes, mb_buffer *out);
/* For the proof at build time: what the table makes of a valid text. Writes at most `capacity` bytes and sets *count to
 * how many there are. */
MB_API mb_status mb_tokenizer_mapped(const mb_tokenizer *tokenizer, const char *text, size_t bytes, char *mapped,
                                     size_t capacity, size_t *count);

/* split_tables.c: checks a section MB_TOKEN_SPLITS and sets `tables` to point into it. `data` is 8-byte aligned;
 * byte_level: as MB_TOKEN_BYTE_LEVEL. */
mb_status mb_split_tables_open(const uint8_t *data, size_t bytes, bool byte_level, mb_split_tables *tables);

/* The pieces of a text by the tables, one after the other, without memory of the heap. */
typedef struct {
  size_t begin, end;
  bool match;
} mb_split_segment;

typedef struct {
  size_t at, end;         /* what is not looked through yet */
  mb_split_segment ahead; /* found already */
  uint32_t ahead_count;   /* 0 or 1 */
  mb_split_segment match; /* found behind the stretch that was given last */
  bool has_match;
  size_t vain[MB_TOKEN_MAX_WAITING][2]; /* begin, end of where waiting in a state led to no match; empty: 0, 0 */
} mb_split_walk;

typedef struct {
  const mb_split_tables *tables;
  const uint8_t *text;
  uint32_t depth; /* the step whose pieces are given next */
  mb_split_walk walks[MB_TOKEN_MAX_SPLITS];
} mb_pieces;

void mb_pieces_begin(mb_pieces *pieces, const mb_split_tables *tables, const uint8_t *text, size_t bytes);
/* false: there are no more. Steps with MB_TOKEN_SPLIT_BYTES may cut a character. */
bool mb_pieces_next(mb_pieces *pieces, size_t *begin, size_t *end);
/* For the proof at build time: the pieces of a valid text, before any normalizer, as pairs of begin and end. Writes at
 * most `capacity` numbers and sets *count to how many there are. */
MB_API mb_status mb_tokenizer_pieces(const mb_tokenizer *tokenizer, const char *text, size_t bytes, size_t *places,
                                     size_t capacity, size_t *count);

/* split.c: the end of the piece that begins at `at` < end, in valid UTF-8. */
size_t mb_split_word(mb_token_split split, const uint8_t *text, size_t at, size_t end);
size_t mb_split_digits(bool runs, const uint8_t *text, size_t at, size_t end);
/* Before "▁": each one, or only those that another character stands before, one behind which words may be cut. */
size_t mb_split_metaspace(const mb_token_header *header, bool each, const uint8_t *text, size_t at, size_t end);

/* added.c: the next added token at or after *search in valid UTF-8. `from` is the end of the last one, which
 * white space before this one is not taken from. false: there is none. */
typedef struct {
  size_t begin, end;
  uint32_t id;
} mb_added_match;
bool mb_added_next(const mb_tokenizer *tokenizer, bool normalized, const uint8_t *text, size_t bytes, size_t from,
                   size_t *search, mb_added_match *match);

#endif
