/* Taking tokens out of the middle of a session: those behind them move to their places instead of being computed again.
 * A rotated key says where it stands (RoFormer, Su et al. 2021, section 3.2): turning it back by the removed positions'
 * angle makes it the key of its new place. Nothing else in it changes: what a token took from removed ones through
 * attention stays in its keys and values (as in StreamingLLM, Xiao et al. 2023). */
#include <math.h>

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
  uint32_t end, removed; /* tokens from `end` on move back by `removed` positions */
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

/* An item: a KV head of a layer. */
static void move_heads(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  const removal *r = context;
  const mb_session *session = r->session;
  const mb_model_config *c = &session->model->weights.config;
  const mb_buffers *b = &session->layout.buffers;
  const uint32_t half = mb_rotary_dim(c) / 2;
  float key[MB_MOST_HEAD_DIM];
  (void)thread;
  for (uint32_t item = first; item < last; item++) {
    const uint32_t layer = item / c->kv_heads, kv_head = item % c->kv_heads, rope = session->model->layers[layer].rope;
    for (uint32_t p = r->end; p < session->position; p++) {
      mb_kv_load_key(session, layer, kv_head, p, key);
      for (uint32_t i = 0; rope != MB_NO_ROPE && i < half; i++) {
        const float x = key[i], y = key[i + half], cosine = b->cosines[rope][i], sine = b->sines[rope][i];
        key[i] = x * cosine + y * sine;
        key[i + half] = y * cosine - x * sine;
      }
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
  removal r = {session, end, end - first};
  for (uint32_t i = 0; i < 2; i++)
    if (b->cosines[i]) make_angles(&r, session->model->inverse_frequencies[i], b->cosines[i], b->sines[i]);
  mb_pool_run(session->pool, move_heads, &r, c->layers * c->kv_heads, 1);
  session->position = session->written = session->position - r.removed;
  return MB_OK;
}
