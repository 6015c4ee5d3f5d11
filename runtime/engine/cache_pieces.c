#include "engine/cache_pieces.h"

#include "base/aligned.h"
#include "base/error.h"
#include "kernels/kernels.h"

enum { BUFFERS = 4, PARTS = 2, CONVOLUTIONS = 1 };

/* One of a part's buffers. */
typedef struct {
  uint8_t *at;
  size_t vector; /* bytes */
} buffer;

static void buffers_of(const mb_layout *layout, const mb_kv_part *part, size_t key_bytes, size_t value_bytes,
                       buffer out[BUFFERS]) {
  const size_t scales = layout->kv_scaled ? layout->stride / MB_KV_BLOCK * sizeof(uint16_t) : (size_t)0;
  out[0] = (buffer){part->keys, key_bytes};
  out[1] = (buffer){part->values, value_bytes};
  out[2] = (buffer){(uint8_t *)part->key_scales, scales};
  out[3] = (buffer){(uint8_t *)part->value_scales, scales};
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* [full layers][KV heads][room] vectors, then [windowed layers][KV heads][ring]. */
static mb_status main_pieces(const mb_session *session, uint32_t position, uint32_t written, mb_cache_visit visit,
                             void *context) {
  const mb_layout *layout = &session->layout;
  const mb_model_config *c = &session->model->weights.config;
  const size_t full = (size_t)layout->full_layers * c->kv_heads;
  const size_t windowed = (size_t)layout->windowed_layers * c->kv_heads;
  const uint32_t group = layout->kv_scaled ? MB_KV_GROUP : 1; /* positions that lie together */
  if (layout->keys_int4) {                                    /* of 4 bits are those that the last token saw so */
    position = position ? mb_coarse_end(position - 1) - MB_KV_TILE : 0;
    written = written ? mb_coarse_end(written - 1) - MB_KV_TILE : 0;
  }
  const uint32_t slots = mb_round_up(least(written, layout->ring), group);
  buffer buffers[BUFFERS];
  buffers_of(layout, &layout->buffers.cache, layout->key_bytes, layout->value_bytes, buffers);
  for (uint32_t i = 0; i < BUFFERS; i++) {
    const size_t vector = buffers[i].vector;
    if (vector == 0) continue;
    uint8_t *at = buffers[i].at;
    for (size_t head = 0; head < full + windowed; head++) {
      const uint32_t held = head < full ? mb_round_up(position, group) : slots,
                     kept = head < full ? layout->room : layout->ring;
      mb_status status = visit(context, at, held * vector);
      if (status != MB_OK) return status;
      at += kept * vector;
    }
  }
  return MB_OK;
}

/* int4's positions in 8 bits: of every layer and KV head the first tile, and the ring behind it. */
static mb_status fine_pieces(const mb_session *session, uint32_t position, uint32_t written, mb_cache_visit visit,
                             void *context) {
  const mb_layout *layout = &session->layout;
  const size_t layers = layout->full_layers + layout->windowed_layers;
  const uint32_t first = mb_round_up(least(position, MB_KV_TILE), MB_KV_GROUP);
  const uint32_t behind = written > MB_KV_TILE ? written - MB_KV_TILE : 0;
  const uint32_t slots = mb_round_up(least(behind, layout->fine_ring), MB_KV_GROUP);
  buffer buffers[BUFFERS];
  buffers_of(layout, &layout->buffers.fine, layout->stride, layout->stride, buffers);
  for (uint32_t i = 0; i < BUFFERS; i++) {
    const size_t vector = buffers[i].vector;
    for (size_t head = 0; head < layers * session->model->weights.config.kv_heads; head++) {
      uint8_t *at = buffers[i].at + head * layout->fine_room * vector;
      mb_status status = visit(context, at, first * vector);
      if (status == MB_OK) status = visit(context, at + MB_KV_TILE * vector, slots * vector);
      if (status != MB_OK) return status;
    }
  }
  return MB_OK;
}

/* Of layers with a convolution: [layers][ring] inputs. */
static mb_status convolution_pieces(const mb_session *session, uint32_t written, mb_cache_visit visit, void *context) {
  const mb_layout *layout = &session->layout;
  const mb_model_config *c = &session->model->weights.config;
  const uint32_t layers = c->layers - layout->full_layers - layout->windowed_layers, ring = layout->convolution_ring;
  for (uint32_t l = 0; l < layers; l++) {
    float *at = layout->buffers.convolutions + l * (size_t)ring * c->hidden;
    mb_status status = visit(context, (uint8_t *)at, (written < ring ? written : ring) * c->hidden * sizeof(float));
    if (status != MB_OK) return status;
  }
  return MB_OK;
}

mb_status mb_cache_pieces(const mb_session *session, uint32_t position, uint32_t written, mb_cache_visit visit,
                          void *context) {
  mb_status status = main_pieces(session, position, written, visit, context);
  if (status == MB_OK && session->layout.keys_int4) status = fine_pieces(session, position, written, visit, context);
  return status == MB_OK ? convolution_pieces(session, written, visit, context) : status;
}

static uint64_t fnv1a(uint64_t hash, uint64_t value, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i++) hash = (hash ^ (value >> 8 * i & 255)) * 0x100000001b3u;
  return hash;
}

static mb_status add(void *context, uint8_t *piece, size_t bytes) {
  (void)piece;
  mb_cache_shape *shape = context;
  shape->bytes += bytes;
  shape->fingerprint = fnv1a(shape->fingerprint, bytes, sizeof(uint64_t));
  return MB_OK;
}

static mb_cache_shape measure(const mb_session *session, uint32_t position, uint32_t written) {
  mb_cache_shape shape = {.fingerprint =
                              fnv1a(0xcbf29ce484222325u, (uint64_t)session->layout.options.kv_type, sizeof(uint32_t))};
  (void)mb_cache_pieces(session, position, written, add, &shape);
  return shape;
}

mb_status mb_cache_shape_of(const mb_session *session, uint32_t position, uint32_t written, mb_cache_shape *shape) {
  const uint32_t context = session->layout.options.context;
  const uint64_t all = measure(session, context, context).bytes;
  *shape = measure(session, position, written);
  /* layout.c rounds every buffer up to a cache line. */
  if (session->layout.kv_bytes >= all &&
      session->layout.kv_bytes - all < (BUFFERS * PARTS + CONVOLUTIONS) * MB_CACHE_LINE)
    return MB_OK;
  return mb_fail(MB_ERROR_ARGUMENT, "the state of this kind of model or KV cache cannot be kept in a file");
}
