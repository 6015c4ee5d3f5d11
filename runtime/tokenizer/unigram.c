/* Unigram: of all ways to cut a word into tokens the one with the highest sum of scores (Viterbi, as SentencePiece's
 * EncodeOptimized and Hugging Face's Unigram::encode_optimized do it: the same sums in the same order). */
#include "base/error.h"
#include "base/unicode.h"
#include "tokenizer/tokenizer.h"

static mb_status damaged(void) {
  return mb_fail(MB_ERROR_FORMAT,
                 "tokenizer.bin: its trie is impossible: the file is damaged, copy or build the bundle again");
}

mb_status mb_trie_open(const uint8_t *data, size_t bytes, uint32_t vocabulary, mb_token_trie *trie) {
  uint32_t nodes;
  if (bytes < sizeof nodes) return damaged();
  memcpy(&nodes, data, sizeof nodes);
  const uint64_t expected = 4 + 4 * ((uint64_t)nodes + 1) + 4 * (uint64_t)nodes + nodes;
  if (nodes == 0 || bytes != expected) return damaged();
  trie->first_child = (const uint32_t *)(const void *)(data + 4);
  trie->ids = (const int32_t *)(const void *)(data + 4 + 4 * ((size_t)nodes + 1));
  trie->labels = data + 4 + 4 * (2 * (size_t)nodes + 1);
  for (uint32_t i = 0; i <= nodes; i++) {
    if (trie->first_child[i] > nodes || (i > 0 && trie->first_child[i] < trie->first_child[i - 1])) return damaged();
  }
  for (uint32_t i = 0; i < nodes; i++) {
    if (trie->ids[i] < -1 || trie->ids[i] >= (int32_t)vocabulary) return damaged();
  }
  return MB_OK;
}

/* The child of a node by a byte; 0, the root, is nobody's: there is none. */
static uint32_t child(const mb_token_trie *trie, uint32_t node, uint8_t byte) {
  uint32_t low = trie->first_child[node], high = trie->first_child[node + 1];
  const uint32_t end = high;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (trie->labels[middle] < byte) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < end && trie->labels[low] == byte ? low : 0;
}

/* The id of a text that is a token, else -1. */
static int32_t token_of(const mb_token_trie *trie, const uint8_t *text, size_t bytes) {
  uint32_t node = 0;
  for (size_t i = 0; i < bytes; i++) {
    node = child(trie, node, text[i]);
    if (node == 0) return -1;
  }
  return trie->ids[node];
}

#define NOWHERE UINT32_MAX

/* The best way that ends at a byte: its score, its last token and where that begins. */
typedef struct {
  double score;
  uint32_t begin; /* NOWHERE: no way yet; later, where the next token ends */
  uint32_t id;
} way;

static void offer(way *at, double score, uint32_t begin, uint32_t id) {
  if (at->begin != NOWHERE && !(score > at->score)) return;
  *at = (way){score, begin, id};
}

/* A run of unknown characters: a token after all, its bytes, or the unknown token. */
static void put_unknown(mb_encoder *encoder, const uint8_t *text, size_t bytes) {
  const mb_tokenizer *tokenizer = encoder->tokenizer;
  const int32_t id = token_of(&tokenizer->trie, text, bytes);
  if (id >= 0) {
    mb_encoder_put(encoder, id);
    return;
  }
  if (tokenizer->header.flags & MB_TOKEN_BYTE_FALLBACK) {
    size_t known = 0;
    while (known < bytes && tokenizer->symbols[text[known]] >= 0) known++;
    if (known == bytes) {
      for (size_t i = 0; i < bytes; i++) mb_encoder_put(encoder, tokenizer->symbols[text[i]]);
      return;
    }
  }
  mb_encoder_put(encoder, tokenizer->header.unknown);
}

bool mb_encode_unigram(mb_encoder *encoder, const uint8_t *word, size_t bytes) {
  const mb_tokenizer *tokenizer = encoder->tokenizer;
  const mb_token_trie *trie = &tokenizer->trie;
  const uint32_t unknown = (uint32_t)tokenizer->header.unknown;
  const double unknown_score = tokenizer->scores[tokenizer->header.vocabulary];
  if (bytes >= UINT32_MAX / sizeof(way)) return false;
  encoder->heap.size = 0;
  if (!mb_buffer_reserve(&encoder->heap, (bytes + 1) * sizeof(way))) return false;
  way *ways = (way *)(void *)encoder->heap.data;
  for (size_t i = 0; i <= bytes; i++) ways[i] = (way){0, NOWHERE, 0};
  for (size_t at = 0, length; at < bytes; at += length) {
    if (!mb_encoder_goes_on(encoder)) return false;
    uint32_t point, node = 0;
    const double score = ways[at].score;
    bool has_character = false;
    length = mb_utf8_decode(word + at, &point);
    for (size_t end = at; end < bytes && (node = child(trie, node, word[end])) != 0;) {
      end++;
      const int32_t id = trie->ids[node];
      if (id < 0) continue;
      offer(&ways[end], tokenizer->scores[id] + score, (uint32_t)at, (uint32_t)id);
      if (end - at == length) has_character = true;
    }
    if (!has_character) offer(&ways[at + length], unknown_score + score, (uint32_t)at, unknown);
  }
  /* Backwards along the best way, turning each step round; then forwards. */
  size_t end = bytes;
  uint32_t next = NOWHERE;
  while (end > 0) {
    const uint32_t begin = ways[end].begin;
    ways[end].begin = next;
    next = (uint32_t)end;
    end = begin;
  }
  for (size_t at = 0; at < bytes;) {
    end = next;
    next = ways[end].begin;
    if (ways[end].id != unknown) {
      mb_encoder_put(encoder, (int32_t)ways[end].id);
    } else {
      while (next != NOWHERE && ways[next].id == unknown) {
        end = next;
        next = ways[end].begin;
      }
      put_unknown(encoder, word + at, end - at);
    }
    at = end;
  }
  return true;
}
