/* The KV cache of a session: where the keys and values of a position lie, and how they are stored. */
#ifndef MB_ENGINE_KV_CACHE_H
#define MB_ENGINE_KV_CACHE_H

#include "engine/session.h"
#include "kernels/kernels.h"

/* Stores one KV head's key and value of a position, head_dim floats each; with int4 in 8 bits. */
void mb_kv_store(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position, const float *key,
                 const float *value);

/* int4: makes the positions first..end-1, whole tiles that are still there in 8 bits, ones of 4 bits. */
void mb_kv_make_coarse(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t first, uint32_t end);

/* Reads a KV head's key of a position, head_dim floats: what the cache holds. Not of an int4 cache. */
void mb_kv_load_key(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position, float *key);
/* Stores a key and, bit for bit, the value of position `from`. Not in an int4 cache. */
void mb_kv_move(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t from, uint32_t to,
                const float *key);

/* Bytes of int4's ring of one KV head: what mb_kv_copy_ring writes. */
size_t mb_kv_ring_bytes(const mb_layout *layout);
void mb_kv_copy_ring(const mb_session *session, uint32_t layer, uint32_t kv_head, uint8_t *ring);
/* The key and the value of a position of an int4 cache whose last token sees the positions up to coarse_end in 4 bits;
 * what is in the ring is read from a copy of it. */
void mb_kv_load_int4(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position,
                     uint32_t coarse_end, uint8_t *ring, float *key, float *value);
/* Stores them where they lie in 4 bits. */
void mb_kv_store_coarse(const mb_session *session, uint32_t layer, uint32_t kv_head, uint32_t position,
                        const float *key, const float *value);

/* Some neighbouring positions of one KV head; `slot` is where the first lies among those that the layer keeps. */
typedef struct {
  uint32_t slot, positions;
  bool fine; /* int4: they are those that are kept in 8 bits */
} mb_kv_piece;

/* The positions first..end-1 of a layer lie in one piece, or in a ring's end and its beginning, and with int4 in 8 bits
 * and in 4: the piece that begins with `first`. coarse_end: mb_coarse_end of the token that sees them. */
mb_kv_piece mb_kv_piece_at(const mb_session *session, uint32_t layer, uint32_t first, uint32_t end,
                           uint32_t coarse_end);

/* Of an fp16 cache. */
mb_kv_head mb_kv_keys(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece);
mb_kv_head mb_kv_values(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece);

/* The same as integers; the piece begins with a whole group, its end is rounded up to one. */
mb_kv_groups mb_kv_key_groups(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece);
mb_kv_groups mb_kv_value_groups(const mb_session *session, uint32_t layer, uint32_t kv_head, mb_kv_piece piece);

#endif
