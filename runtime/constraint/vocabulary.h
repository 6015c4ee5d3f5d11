/* A vocabulary as tries. Tokens that are whole plain characters stand apart: what many of them in a row lead to is
 * known without reading them (constraint.c). */
#ifndef MB_CONSTRAINT_VOCABULARY_H
#define MB_CONSTRAINT_VOCABULARY_H

#include "mobile_bundle/constraint.h"

enum {
  TOKEN_MOST_BYTES = 255,  /* longer ones come in no answer */
  TOKEN_NONE = 0x3FFFFF,   /* no token ends at the node */
  PLAIN_MOST_LENGTH = 255, /* in characters */
  SHORT_BYTES = 20,        /* most tokens are of so many at most */
  PLAIN_MASKS = 16,        /* lengths of plain tokens that have a mask */
};

/* Nodes stand before their children, children in the order of their bytes; of tokens with the same bytes each has a
 * node. */
typedef struct {
  uint64_t end : 26; /* the node behind the last of its children and theirs */
  uint64_t token : 22;
  uint64_t depth : 8;
  uint64_t byte : 8;
} trie_node;

typedef struct {
  trie_node *nodes;
  uint32_t count;
} trie;

/* Plain: a character that stands for itself in a JSON string, which is all but controls, quotes and backslashes. */
typedef struct {
  int32_t token;
  uint32_t length; /* in characters */
} plain_token;

struct mb_vocabulary {
  uint32_t size, words; /* of tokens; of a mask of them */
  trie plain, others;
  uint32_t *plain_masks;    /* [PLAIN_MASKS][words]: plain tokens of at most 1, 2, ... characters */
  plain_token *long_tokens; /* plain, of more than PLAIN_MASKS characters, the shortest first */
  uint32_t long_count;
  uint32_t longest;                                                   /* plain token, in characters */
  trie longs;                                                         /* tokens of more than SHORT_BYTES once more */
  uint32_t *longs_mask;                                               /* [words] */
  uint32_t *ends;                                                     /* [words]: tokens that end an answer */
  size_t (*text)(const void *source, uint32_t token, uint8_t *bytes); /* as mb_tokenizer_token_bytes */
  const void *source;
};

/* text(source, token, bytes): the token's bytes, TOKEN_MOST_BYTES at most are written; returns how many there are. */
mb_status vocabulary_build(size_t (*text)(const void *, uint32_t, uint8_t *), const void *source, uint32_t size,
                           const int32_t *ends, size_t end_count, mb_vocabulary **out);

/* The most that the vocabulary takes, told by the lengths of its tokens alone; *making: besides, while it is made. */
uint64_t vocabulary_most_bytes(const mb_tokenizer *tokenizer, uint32_t size, uint64_t *making);

static inline bool mask_has(const uint32_t *mask, uint32_t token) { return mask[token / 32] >> token % 32 & 1; }
static inline void mask_set(uint32_t *mask, uint32_t token) { mask[token / 32] |= 1u << token % 32; }

#endif
