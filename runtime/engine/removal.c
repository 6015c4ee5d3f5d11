/* Taking tokens out of the middle of a session: those behind them move to their places instead of being computed again.
 * A rotated key says where it stands (RoFormer, Su et al. 2021, section 3.2): turning it back by the removed positions'
 * angle makes it the key of its new place. Nothing else in it changes: what a token took from removed ones through
 * attention stays in its keys and values (as in StreamingLLM, Xiao et al. 2023). */
#include <math.h>
#include <stdlib.h>

#include "base/error.h"
#include "engine/config.h"
#include "engine/kv_cache.h"
#include "engine/session.h"

mb_status mb_session_can_remove(const mb_session *session) {
  const mb_model_config *c = &session->model->weights.config;
  const char *what = session->layout.windowed_layers     ? "a sliding window in its layers"
                     : session->layout.convolution_ring  ? "convolutions"
                     : c->flags & MB_MODEL_LATE_QK_NORMS ? "norms behind the rotation of keys"
                                                         : NULL;
  if (!what) return MB_OK;
  return mb_fail(MB_ERROR_ARGUMENT, "the keys of this model cannot be moved: it has %s", what);
}

typedef struct {
  const mb_session *session;
  uint32_t first, end, removed; /* tokens from `end` on move back by `removed` positions, to `first` */
  uint8_t *rings;               /* int4: of every thread */
} removal;

/* cosines and sines of the angles that keys are turned back by; the chunk's tables have no use between two chunks. */
static void make_angles(const removal *r, const float *frequencies, float *cosines, float *sines) {
  const uint32_t half = mb_rotary_dim(&r->session->model->weights.config) / 2;
  for (uint32_t i = 0; i < half; i++) {
    const double angle = (double)r->removed * (double)frequencies[i];
    cosines[i] = (float)cos(angle);
    sines[i] = (float)sin(angle);
  }
}

static void turn_back(const removal *r, uint32_t layer, float *key) {
  const mb_buffers *b = &r->session->layout.buffers;
  const uint32_t half = mb_rotary_dim(&r->session->model->weights.config) / 2;
  const uint32_t rope = r->session->model->layers[layer].rope;
  for (uint32_t i = 0; rope != MB_NO_ROPE && i < half; i++) {
    const float x = key[i], y = key[i + half], cosine = b->cosines[rope][i], sine = b->sines[rope][i];
    key[i] = x * cosine + y * sine;
    key[i + half] = y * cosine - x * sine;
  }
}

/* int4: a moved position may lie among those of 4 bits now, and one that stays among the last, which are kept in 8
 * bits. An item: a KV head of a layer. */
static void move_int4_heads(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  const removal *r = context;
  const mb_session *session = r->session;
  const uint32_t kv_heads = session->model->weights.config.kv_heads, ring = session->layout.fine_ring;
  const uint32_t position = session->position - r->removed;
  const uint32_t coarse_before = mb_coarse_end(session->position - 1);
  const uint32_t coarse = position ? mb_coarse_end(position - 1) : MB_KV_TILE;
  const uint32_t fine = position > MB_KV_TILE + ring ? position - ring : MB_KV_TILE; /* what the ring is to hold */
  uint8_t *copy = r->rings + thread * mb_kv_ring_bytes(&session->layout);
  float key[MB_MOST_HEAD_DIM], value[MB_MOST_HEAD_DIM];
  for (uint32_t item = first; item < last; item++) {
    const uint32_t layer = item / kv_heads, kv_head = item % kv_heads;
    mb_kv_copy_ring(session, layer, kv_head, copy);
    for (uint32_t p = fine; p < r->first && p < coarse_before; p++) { /* those behind are in the ring */
      mb_kv_load_int4(session, layer, kv_head, p, coarse_before, copy, key, value);
      mb_kv_store(session, layer, kv_head, p, key, value);
    }
    for (uint32_t p = r->end; p < session->position; p++) {
      const uint32_t to = p - r->removed;
      mb_kv_load_int4(session, layer, kv_head, p, coarse_before, copy, key, value);
      turn_back(r, layer, key);
      if (to < MB_KV_TILE || to >= fine) mb_kv_store(session, layer, kv_head, to, key, value);
      if (to >= MB_KV_TILE && to < coarse) mb_kv_store_coarse(session, layer, kv_head, to, key, value);
    }
  }
}

/* An item: a KV head of a layer. */
static void move_heads(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  const removal *r = context;
  const mb_session *session = r->session;
  const uint32_t kv_heads = session->model->weights.config.kv_heads;
  float key[MB_MOST_HEAD_DIM];
  (void)thread;
  for (uint32_t item = first; item < last; item++) {
    const uint32_t layer = item / kv_heads, kv_head = item % kv_heads;
    for (uint32_t p = r->end; p < session->position; p++) {
      mb_kv_load_key(session, layer, kv_head, p, key);
      turn_back(r, layer, key);
      mb_kv_move(session, layer, kv_head, p, p - r->removed, key);
    }
  }
}

mb_status mb_session_remove(mb_session *session, uint32_t first, uint32_t end) {
  const mb_model_config *c = &session->model->weights.config;
  const mb_buffers *b = &session->layout.buffers;
  if (first > end || end > session->position)
    return mb_fail(MB_ERROR_ARGUMENT, "cannot remove the tokens from %u to %u: the session holds %u", first, end,
                   session->position);
  mb_status status = mb_session_can_remove(session);
  if (status != MB_OK || first == end) return status;
  const bool int4 = session->layout.keys_int4;
  removal r = {.session = session, .first = first, .end = end, .removed = end - first};
  if (int4) {
    const size_t bytes = mb_pool_threads(session->pool) * mb_kv_ring_bytes(&session->layout);
    r.rings = malloc(bytes ? bytes : 1);
    if (!r.rings) return mb_fail(MB_ERROR_MEMORY, "no memory to move %zu bytes of a KV cache", bytes);
  }
  for (uint32_t i = 0; i < 2; i++)
    if (b->cosines[i]) make_angles(&r, session->model->inverse_frequencies[i], b->cosines[i], b->sines[i]);
  mb_pool_run(session->pool, int4 ? move_int4_heads : move_heads, &r, c->layers * c->kv_heads, 1);
  free(r.rings);
  session->position = session->written = session->position - r.removed;
  return MB_OK;
}
