#include "constraint/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/unicode.h"

enum { MOST_NODES = 1 << 26 };

typedef struct {
  const uint8_t *text;
  uint32_t token;
  uint8_t bytes, length; /* length: in plain characters; 0: not plain */
} word;

/* Characters of a text that is plain, else 0. */
static uint8_t plain_length(const uint8_t *text, size_t bytes) {
  uint8_t length = 0;
  for (size_t at = 0; at < bytes; length++) {
    if (text[at] < 0x20 || text[at] == '"' || text[at] == '\\') return 0;
    const int size = mb_utf8_scan(text + at, bytes - at);
    if (size <= 0) return 0;
    at += (size_t)size;
  }
  return length;
}

/* Plain ones first; each kind by its bytes, then by id. */
static int by_bytes(const void *a, const void *b) {
  const word *x = a, *y = b;
  if ((x->length == 0) != (y->length == 0)) return x->length == 0 ? 1 : -1;
  const int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
  if (order != 0) return order;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
  return (x->token > y->token) - (x->token < y->token);
}

static int by_length(const void *a, const void *b) {
  const plain_token *x = a, *y = b;
  if (x->length != y->length) return x->length < y->length ? -1 : 1;
  return (x->token > y->token) - (x->token < y->token);
}

/* How many bytes two neighbours share as nodes: of equal ones each has its own last node. */
static uint32_t shared(const word *a, const word *b) {
  const uint32_t most = a->bytes < b->bytes ? a->bytes : b->bytes;
  uint32_t n = 0;
  while (n < most && a->text[n] == b->text[n]) n++;
  return n == b->bytes ? n - 1 : n;
}

static mb_status make_trie(const word *words, uint32_t count, trie *out) {
  uint64_t nodes = 0;
  for (uint32_t i = 0; i < count; i++) nodes += words[i].bytes - (i ? shared(&words[i - 1], &words[i]) : 0);
  if (nodes >= MOST_NODES) return mb_fail(MB_ERROR_ARGUMENT, "the vocabulary is too large for answers in a given form");
  out->nodes = malloc((nodes + 1) * sizeof *out->nodes);
  if (!out->nodes) return mb_fail(MB_ERROR_MEMORY, "no memory for the vocabulary's trie");
  uint32_t path[TOKEN_MOST_BYTES], depth = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t kept = i ? shared(&words[i - 1], &words[i]) : 0;
    while (depth > kept) out->nodes[path[--depth]].end = out->count;
    for (; depth < words[i].bytes; depth++) {
      path[depth] = out->count;
      out->nodes[out->count++] = (trie_node){.token = TOKEN_NONE, .depth = depth, .byte = words[i].text[depth]};
    }
    out->nodes[path[depth - 1]].token = words[i].token;
  }
  while (depth > 0) out->nodes[path[--depth]].end = out->count;
  return MB_OK;
}

/* Masks of the plain tokens by their length, and the list of the long ones. */
static mb_status sort_plain(mb_vocabulary *v, const word *words, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) v->long_count += words[i].length > PLAIN_MASKS;
  v->plain_masks = calloc((size_t)PLAIN_MASKS * v->words, sizeof *v->plain_masks);
  v->long_tokens = malloc((v->long_count + 1) * sizeof *v->long_tokens);
  if (!v->plain_masks || !v->long_tokens) return mb_fail(MB_ERROR_MEMORY, "no memory for the vocabulary's masks");
  uint32_t kept = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (words[i].length > v->longest) v->longest = words[i].length;
    if (words[i].length > PLAIN_MASKS) {
      v->long_tokens[kept++] = (plain_token){(int32_t)words[i].token, words[i].length};
    } else {
      for (uint32_t n = words[i].length; n <= PLAIN_MASKS; n++)
        mask_set(v->plain_masks + (size_t)(n - 1) * v->words, words[i].token);
    }
  }
  qsort(v->long_tokens, v->long_count, sizeof *v->long_tokens, by_length);
  return MB_OK;
}

static mb_status fill(mb_vocabulary *v, word *words, uint8_t *bytes) {
  uint32_t count = 0, plain = 0;
  for (uint32_t token = 0; token < v->size; token++) {
    if (mask_has(v->ends, token)) continue;
    const size_t size = v->text(v->source, token, bytes);
    if (size == 0 || size > TOKEN_MOST_BYTES) continue;
    words[count] = (word){bytes, token, (uint8_t)size, plain_length(bytes, size)};
    plain += words[count++].length > 0;
    bytes += size;
  }
  qsort(words, count, sizeof *words, by_bytes);
  mb_status status = make_trie(words, plain, &v->plain);
  if (status == MB_OK) status = make_trie(words + plain, count - plain, &v->others);
  if (status == MB_OK) status = sort_plain(v, words, plain);
  uint32_t longs = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (words[i].bytes <= SHORT_BYTES) continue;
    mask_set(v->longs_mask, words[i].token);
    words[longs] = words[i];
    words[longs++].length = 1; /* plain ones and others in one order */
  }
  qsort(words, longs, sizeof *words, by_bytes);
  return status == MB_OK ? make_trie(words, longs, &v->longs) : status;
}

mb_status vocabulary_build(size_t (*text)(const void *, uint32_t, uint8_t *), const void *source, uint32_t size,
                           const int32_t *ends, size_t end_count, mb_vocabulary **out) {
  *out = NULL;
  if (size < 1 || size >= TOKEN_NONE) return mb_fail(MB_ERROR_ARGUMENT, "a vocabulary of %u tokens", size);
  mb_vocabulary *v = calloc(1, sizeof *v);
  if (!v) return mb_fail(MB_ERROR_MEMORY, "no memory for the vocabulary's trie");
  *v = (mb_vocabulary){.size = size, .words = (size + 31) / 32, .text = text, .source = source};
  uint8_t one[TOKEN_MOST_BYTES];
  size_t bytes = TOKEN_MOST_BYTES; /* behind the last one: room for what is too long */
  for (uint32_t token = 0; token < size; token++) {
    const size_t its = text(source, token, one);
    if (its <= TOKEN_MOST_BYTES) bytes += its;
  }
  v->ends = calloc(v->words, sizeof *v->ends);
  v->longs_mask = calloc(v->words, sizeof *v->longs_mask);
  word *words = malloc((size_t)size * sizeof *words);
  uint8_t *texts = malloc(bytes);
  mb_status status = v->ends && v->longs_mask && words && texts
                         ? MB_OK
                         : mb_fail(MB_ERROR_MEMORY, "no memory for the vocabulary's trie");
  if (status == MB_OK) {
    for (size_t i = 0; i < end_count; i++) {
      if (ends[i] >= 0 && (uint32_t)ends[i] < size) mask_set(v->ends, (uint32_t)ends[i]);
    }
    status = fill(v, words, texts);
  }
  free(words);
  free(texts);
  if (status != MB_OK) {
    mb_vocabulary_close(v);
    v = NULL;
  }
  *out = v;
  return status;
}

static size_t token_text(const void *tokenizer, uint32_t token, uint8_t *bytes) {
  return mb_tokenizer_token_bytes(tokenizer, token, bytes, TOKEN_MOST_BYTES);
}

uint64_t vocabulary_most_bytes(const mb_tokenizer *tokenizer, uint32_t size, uint64_t *making) {
  uint64_t letters = TOKEN_MOST_BYTES, nodes = 3, long_tokens = 1;
  for (uint32_t token = 0; token < size; token++) {
    const size_t bytes = mb_tokenizer_piece_bytes(tokenizer, token);
    letters += bytes;
    nodes += bytes > SHORT_BYTES ? 2 * bytes : bytes; /* those stand in a trie of their own once more */
    long_tokens += bytes > PLAIN_MASKS;
  }
  *making = (uint64_t)size * sizeof(word) + letters;
  return nodes * sizeof(trie_node) + long_tokens * sizeof(plain_token) +
         ((uint64_t)PLAIN_MASKS + 2) * ((size + 31) / 32) * sizeof(uint32_t);
}

mb_status mb_vocabulary_open(const mb_tokenizer *tokenizer, uint32_t vocabulary, const int32_t *ends, size_t end_count,
                             mb_vocabulary **out) {
  return vocabulary_build(token_text, tokenizer, vocabulary, ends, end_count, out);
}

void mb_vocabulary_close(mb_vocabulary *v) {
  if (!v) return;
  free(v->plain.nodes);
  free(v->others.nodes);
  free(v->plain_masks);
  free(v->long_tokens);
  free(v->ends);
  free(v->longs.nodes);
  free(v->longs_mask);
  free(v);
}

uint64_t mb_vocabulary_bytes(const mb_vocabulary *v) {
  return ((uint64_t)v->plain.count + v->others.count + v->longs.count) * sizeof(trie_node) +
         v->long_count * sizeof(plain_token) + ((uint64_t)PLAIN_MASKS + 2) * v->words * sizeof(uint32_t);
}
