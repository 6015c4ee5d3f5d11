/* A word's first symbols, and the merges: of all neighbouring pairs always the one of the lowest rank, of equal ranks
 * the leftmost. Short words look for it one by one, long ones keep a heap. */
#include "tokenizer/tokenizer.h"

enum { SHORT_WORD = 24 };
#define NO_RANK 0xFFFFFFFFu

static uint32_t first_slot(uint32_t hash, uint32_t slots) { return (uint32_t)((uint64_t)hash * slots >> 32); }

/* NO_RANK: the two do not merge. */
static inline uint32_t rank_of(const mb_tokenizer *tokenizer, uint32_t left, uint32_t right) {
  const mb_token_header *header = &tokenizer->header;
  uint64_t key = (uint64_t)left << 21 | right;
  uint32_t slot = first_slot(mb_token_pair_hash(left, right), header->merge_slots);
  for (uint32_t probes = header->merge_probes; probes; probes--) {
    uint64_t entry = tokenizer->merges[slot];
    if (entry == UINT64_MAX) break;
    if (entry >> 22 == key) {
      uint32_t rank = entry & MB_TOKEN_MAX_MERGES;
      return rank < header->merge_count ? rank : NO_RANK;
    }
    if (++slot == header->merge_slots) slot = 0;
  }
  return NO_RANK;
}

static inline uint32_t merged(const mb_tokenizer *tokenizer, uint32_t rank) {
  return tokenizer->merged ? tokenizer->merged[rank] : tokenizer->header.merge_first + rank;
}

int32_t mb_token_find(const mb_tokenizer *tokenizer, const uint8_t *text, size_t bytes) {
  const mb_token_header *header = &tokenizer->header;
  if (!tokenizer->strings || bytes > header->longest) return -1;
  uint32_t slot = first_slot(mb_token_string_hash(text, (uint32_t)bytes), header->string_slots);
  for (uint32_t probes = header->string_probes; probes; probes--) {
    int32_t id = tokenizer->strings[slot];
    if (id < 0) break;
    uint32_t size;
    const uint8_t *token = mb_token_text(tokenizer, (uint32_t)id, &size);
    if (size == bytes && memcmp(token, text, bytes) == 0) return id;
    if (++slot == header->string_slots) slot = 0;
  }
  return -1;
}

/* The symbols of a word, at most one per byte. Unknown characters become one unknown token each or fused; with byte
 * fallback, characters that have all their bytes in the vocabulary do not end a run of unknown ones and overtake its
 * token (as Hugging Face has it). */
static size_t symbols_of(const mb_tokenizer *tokenizer, const uint8_t *word, size_t bytes, uint32_t *ids) {
  const mb_token_header *header = &tokenizer->header;
  bool byte_level = header->flags & MB_TOKEN_BYTE_LEVEL, waiting = false;
  size_t count = 0;
  for (size_t at = 0, length; at < bytes; at += length) {
    uint8_t first = word[at];
    length = byte_level || first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    int32_t id = byte_level     ? tokenizer->symbols[first]
                 : first < 0x80 ? tokenizer->ascii[first]
                                : mb_token_find(tokenizer, word + at, length);
    if (id >= 0) {
      if (waiting) ids[count++] = (uint32_t)header->unknown;
      waiting = false;
      ids[count++] = (uint32_t)id;
      continue;
    }
    if (header->flags & MB_TOKEN_BYTE_FALLBACK) {
      size_t known = 0;
      while (known < length && tokenizer->symbols[word[at + known]] >= 0) known++;
      if (known == length) {
        for (size_t i = 0; i < length; i++) ids[count++] = (uint32_t)tokenizer->symbols[word[at + i]];
        continue;
      }
    }
    if (header->unknown < 0) continue;
    if (waiting && !(header->flags & MB_TOKEN_FUSE_UNKNOWN)) ids[count++] = (uint32_t)header->unknown;
    waiting = true;
  }
  if (waiting) ids[count++] = (uint32_t)header->unknown;
  return count;
}

static size_t merge_short(const mb_tokenizer *tokenizer, uint32_t *ids, size_t count) {
  uint32_t ranks[SHORT_WORD]; /* of the pair that begins here */
  if (count < 2) return count;
  for (size_t i = 0; i + 1 < count; i++) ranks[i] = rank_of(tokenizer, ids[i], ids[i + 1]);
  for (;;) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; i++) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == NO_RANK) return count;
    ids[best] = merged(tokenizer, ranks[best]);
    if (--count == 1) return count;
    memmove(ids + best + 1, ids + best + 2, (count - best - 1) * sizeof *ids);
    memmove(ranks + best, ranks + best + 1, (count - best - 1) * sizeof *ranks);
    if (best > 0) ranks[best - 1] = rank_of(tokenizer, ids[best - 1], ids[best]);
    if (best + 1 < count) ranks[best] = rank_of(tokenizer, ids[best], ids[best + 1]);
  }
}

typedef struct {
  uint32_t id, before, after; /* after: index of the next symbol, `count` at the end */
  uint32_t rank;              /* of the pair with the next symbol, NO_RANK: none, or the symbol is gone */
} symbol;

/* A binary heap of rank << 32 | place, the lowest on top. Entries whose pair has changed are left in it and are known
 * by their rank when they come up. */
typedef struct {
  uint64_t *at;
  size_t size;
} heap;

static void sift_down(heap *queue, size_t at) {
  uint64_t item = queue->at[at];
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= queue->size) break;
    if (child + 1 < queue->size && queue->at[child + 1] < queue->at[child]) child++;
    if (queue->at[child] >= item) break;
    queue->at[at] = queue->at[child];
    at = child;
  }
  queue->at[at] = item;
}

static void heap_push(heap *queue, uint64_t item) {
  size_t at = queue->size++;
  for (; at > 0 && queue->at[(at - 1) / 2] > item; at = (at - 1) / 2) queue->at[at] = queue->at[(at - 1) / 2];
  queue->at[at] = item;
}

static uint64_t heap_pop(heap *queue) {
  uint64_t top = queue->at[0];
  queue->at[0] = queue->at[--queue->size];
  if (queue->size) sift_down(queue, 0);
  return top;
}

static void rank_pair(const mb_tokenizer *tokenizer, symbol *symbols, uint32_t count, uint32_t at, heap *queue) {
  symbol *left = &symbols[at];
  left->rank = left->after < count ? rank_of(tokenizer, left->id, symbols[left->after].id) : NO_RANK;
  if (left->rank != NO_RANK) heap_push(queue, (uint64_t)left->rank << 32 | at);
}

static bool merge_long(mb_encoder *encoder, symbol *symbols, uint32_t count, heap *queue) {
  const mb_tokenizer *tokenizer = encoder->tokenizer;
  for (uint32_t i = 0; i < count; i++) {
    symbols[i].before = i - 1;
    symbols[i].after = i + 1;
  }
  for (uint32_t i = 0; i < count; i++) rank_pair(tokenizer, symbols, count, i, queue);
  while (queue->size) {
    if (!mb_encoder_goes_on(encoder)) return false;
    uint64_t top = heap_pop(queue);
    uint32_t at = (uint32_t)top;
    symbol *left = &symbols[at];
    if (left->rank != top >> 32) continue;
    symbol *right = &symbols[left->after];
    left->id = merged(tokenizer, left->rank);
    left->after = right->after;
    right->rank = NO_RANK;
    if (left->after < count) symbols[left->after].before = at;
    rank_pair(tokenizer, symbols, count, at, queue);
    if (at > 0) rank_pair(tokenizer, symbols, count, left->before, queue);
  }
  return true;
}

static bool encode_long(mb_encoder *encoder, const uint8_t *word, size_t bytes) {
  const mb_tokenizer *tokenizer = encoder->tokenizer;
  if (bytes >= UINT32_MAX / 2) return false;
  /* The heap never holds more than two entries per symbol: one at the start, one more for each merge. Before it is
   * needed, its room takes the symbols' ids. */
  encoder->heap.size = encoder->symbols.size = 0;
  if (!mb_buffer_reserve(&encoder->heap, bytes * sizeof(uint32_t))) return false;
  size_t count = symbols_of(tokenizer, word, bytes, (uint32_t *)(void *)encoder->heap.data);
  if (!mb_buffer_reserve(&encoder->symbols, count * sizeof(symbol))) return false;
  symbol *symbols = (symbol *)(void *)encoder->symbols.data;
  for (size_t i = 0; i < count; i++) symbols[i].id = ((uint32_t *)(void *)encoder->heap.data)[i];
  if (!mb_buffer_reserve(&encoder->heap, 2 * count * sizeof(uint64_t))) return false;
  heap queue = {(uint64_t *)(void *)encoder->heap.data, 0};
  if (!merge_long(encoder, symbols, (uint32_t)count, &queue)) return false;
  for (size_t i = 0; i < count; i = symbols[i].after) mb_encoder_put(encoder, (int32_t)symbols[i].id);
  return true;
}

bool mb_encode_word(mb_encoder *encoder, const uint8_t *word, size_t bytes) {
  const mb_tokenizer *tokenizer = encoder->tokenizer;
  if (bytes == 0) return true;
  if (tokenizer->header.flags & MB_TOKEN_UNIGRAM) return mb_encode_unigram(encoder, word, bytes);
  if (tokenizer->header.flags & MB_TOKEN_IGNORE_MERGES) {
    int32_t id = mb_token_find(tokenizer, word, bytes);
    if (id >= 0) {
      mb_encoder_put(encoder, id);
      return true;
    }
  }
  if (bytes > SHORT_WORD) return encode_long(encoder, word, bytes);
  uint32_t ids[SHORT_WORD];
  size_t count = merge_short(tokenizer, ids, symbols_of(tokenizer, word, bytes, ids));
  for (size_t i = 0; i < count; i++) mb_encoder_put(encoder, (int32_t)ids[i]);
  return true;
}
