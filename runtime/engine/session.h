/* A session: the KV cache and every scratch buffer, in one anonymous mapping whose layout is computed before. */
#ifndef MB_ENGINE_SESSION_H
#define MB_ENGINE_SESSION_H

#include <stdatomic.h>

#include "base/thread_pool.h"
#include "engine/finite.h"
#include "engine/model.h"

/* Keys and values of positions. How those of one KV head lie: kv_cache.c. */
typedef struct {
  uint8_t *keys;
  uint8_t *values;
  uint16_t *key_scales; /* not of an fp16 cache */
  uint16_t *value_scales;
} mb_kv_part;

/* Buffers of one prefill chunk of C tokens. "padded" sizes are rounded up to MB_COLUMN_PADDING; padding stays zero. */
typedef struct {
  float *hidden;    /* [C][padded hidden]: the residual stream */
  float *normed;    /* [C][padded hidden]: a projection's input, and the output of those that add to the stream */
  float *query;     /* [C][heads * head_dim] */
  float *key;       /* [C][kv_heads * head_dim] */
  float *value;     /* [C][kv_heads * head_dim] */
  float *attention; /* [C][padded heads * head_dim] */
  float *gate;      /* [C][padded feed_forward] */
  float *up;        /* [C][padded feed_forward] */
  int8_t *codes;    /* mb_activations of the widest input */
  float *scales;
  int32_t *sums;
  int8_t *panel;
  float *cosines[2];    /* [C][rotary_dim / 2], by the model's rotary tables */
  float *sines[2];      /* the same */
  int8_t *query_codes;  /* [kv_heads][C][heads / kv_heads][stride], not with an fp16 cache, as */
  float *query_scales;  /* [the same rows][stride / MB_KV_BLOCK] */
  int32_t *query_sums;  /* the same */
  int8_t *turned_codes; /* the same three again, turned: what meets keys of 4 bits */
  float *turned_scales;
  int32_t *turned_sums;
  float *query_padded; /* [the same rows][stride], fp16 cache only */
  float *scores;       /* [score_rows][context rounded up to MB_KV_TILE] */
  float *mixed;        /* [score_rows][stride] */
  float *turned_mixed; /* the same, of values of 4 bits */
  float *term_sums;    /* [score_rows] */
  float *logits;       /* [logit_rows][vocabulary] */
  float *gates;        /* [C][3][hidden]: a convolution's input, with convolutions only */
  float *convolved;    /* [C][padded hidden]: what it gives, with convolutions only */
  /* The cache: those of layers that see all positions, [layers][kv_heads][room], then those of layers with a window,
   * [layers][kv_heads][ring]. */
  mb_kv_part cache;
  mb_kv_part fine;     /* int4, what it keeps in 8 bits: [full layers, then those with a window][kv_heads][fine_room] */
  float *convolutions; /* [layers with a convolution][convolution_ring][hidden]: what they see */
} mb_buffers;

typedef struct {
  mb_session_options options; /* no zeros left in it */
  uint32_t logit_rows;        /* 1 + lookahead, or the chunk with all_logits */
  uint32_t stride;            /* head_dim rounded up to MB_KV_BLOCK */
  bool kv_scaled;             /* not fp16: integers in groups of positions, kernels/kv_layout.h */
  bool keys_int4;             /* those of 4 bits, otherwise of 8 */
  bool values_int4;
  uint32_t key_bytes;   /* of a key, without its scales */
  uint32_t value_bytes; /* of a value, the same */
  uint32_t room; /* positions that the other layers keep: context, rounded up to MB_KV_GROUP where that is a group */
  uint32_t ring; /* positions that a layer with a window keeps: position p lies at p % ring (int4: kv_cache.h) */
  uint32_t
      fine_ring; /* int4: positions from MB_KV_TILE on that are kept in 8 bits; p lies at (p - MB_KV_TILE) % that */
  uint32_t fine_room;        /* and with the first tile before them; 0: not int4 */
  uint32_t thread_rows;      /* query heads that a thread works on at once */
  uint32_t score_rows;       /* and those of all threads; all query heads of a token at least */
  uint32_t full_layers;      /* how many layers keep all positions */
  uint32_t windowed_layers;  /* how many keep a ring of them */
  uint32_t convolution_ring; /* positions that a convolution keeps: p lies at p % convolution_ring; 0: there is none */
  uint64_t kv_bytes_per_token;
  uint64_t kv_bytes;
  uint64_t total_bytes; /* fits size_t */
  mb_buffers buffers;   /* all NULL until mb_layout_place */
} mb_layout;

/* Positions that a layer with a window keeps: with values of 4 bits whole tiles, or all. A chunk writes all its
 * positions before the first of its tokens looks at what stands in its window. options: resolved. */
uint32_t mb_ring(const mb_model_config *config, const mb_session_options *options);
#define MB_KV_RECENT 32

/* int4: how many of the last positions are kept in 8 bits, from MB_KV_TILE on. options: resolved. */
uint32_t mb_fine_ring(const mb_session_options *options);
/* int4: token i sees the positions from MB_KV_TILE to this one in 4 bits, a multiple of MB_KV_TILE; the first
 * MB_KV_TILE and the last MB_KV_RECENT at least are in 8 bits. It is the token's own, so that chunks do not matter. */
uint32_t mb_coarse_end(uint32_t i);
/* Positions that a convolution keeps: what the first token of a chunk sees before it, and the chunk. 0: there is none.
 */
uint32_t mb_convolution_ring(const mb_model_config *config, const mb_session_options *options);
/* Fills in defaults and computes every size. MB_ERROR_FORMAT for a config that cannot be, MB_ERROR_ARGUMENT for such
 * options, MB_ERROR_MEMORY for a session that no process could hold. */
mb_status mb_layout_compute(const mb_model_config *config, const mb_session_options *options, mb_layout *layout);
/* Divides `area`, layout->total_bytes at a multiple of 64, among the buffers. `config`: as for mb_layout_compute. */
void mb_layout_place(mb_layout *layout, const mb_model_config *config, uint8_t *area);

struct mb_session {
  const mb_model *model;
  mb_layout layout;
  mb_pool *pool;
  uint8_t *area;
  uint32_t position;
  uint32_t written; /* one behind the last position that was ever written to the cache since position 0 */
  atomic_bool cancelled;
  mb_finite_check *check; /* NULL: nobody looks at the results of every step */
};

/* decoder.c: runs every layer over count <= prefill_chunk tokens that stand at session->position, and leaves the final
 * normed hidden states in buffers.normed. Does not move the position. */
mb_status mb_decoder_forward(mb_session *session, const int32_t *tokens, uint32_t count);
/* decoder.c: logits of tokens first..count-1 of the chunk. */
void mb_decoder_logits(mb_session *session, uint32_t first, uint32_t count);

/* attention.c: rotates queries and keys, writes the KV cache, attends; reads query/key/value, writes attention. */
void mb_attention(mb_session *session, uint32_t layer, uint32_t count);
/* convolution.c: what the short convolutions of tokens first..last-1 of the chunk see; reads gates. */
void mb_convolution_keep(mb_session *session, uint32_t layer, uint32_t first, uint32_t last);
/* convolution.c: what they give of that, when all tokens of the chunk are kept; writes convolved. */
void mb_convolution_mix(mb_session *session, uint32_t layer, uint32_t first, uint32_t last);
/* attention.c: cosines and sines of the chunk's positions. */
void mb_attention_angles(mb_session *session, uint32_t count);

#endif
