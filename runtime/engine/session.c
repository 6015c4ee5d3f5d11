#include "engine/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "engine/engine.h"

/* Bytes that this machine could still give to new anonymous memory; UINT64_MAX where it does not say. */
static uint64_t memory_available(void) {
  FILE *file = fopen("/proc/meminfo", "re");
  if (!file) return UINT64_MAX;
  unsigned long long available = 0, swap = 0;
  bool found = false;
  char line[128];
  while (fgets(line, sizeof line, file)) {
    if (sscanf(line, "MemAvailable: %llu kB", &available) == 1) found = true;
    sscanf(line, "SwapFree: %llu kB", &swap);
  }
  fclose(file);
  return found ? (available + swap) * 1024 : UINT64_MAX;
}

mb_status mb_session_open(mb_model *model, const mb_session_options *options, mb_session **out) {
  *out = NULL;
  mb_session *session = calloc(1, sizeof *session);
  if (!session) return mb_fail(MB_ERROR_MEMORY, "no memory for a session");
  session->model = model;
  mb_layout *layout = &session->layout;
  mb_status status = mb_layout_compute(&model->weights.config, options, layout);
  if (status == MB_OK && !layout->options.unchecked) {
    const uint64_t available = memory_available();
    if (layout->total_bytes > available)
      status = mb_fail(MB_ERROR_MEMORY,
                       "a context of %u tokens needs %llu MB of memory, %llu MB are available: ask for a shorter one",
                       layout->options.context, (unsigned long long)(layout->total_bytes >> 20),
                       (unsigned long long)(available >> 20));
  }
  if (status == MB_OK) {
    /* The kernel gives a page when it is first written: a short chat never pays for the whole context. */
    void *area = mmap(NULL, (size_t)layout->total_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) {
      status =
          mb_fail(MB_ERROR_MEMORY, "no memory for a session of %llu bytes", (unsigned long long)layout->total_bytes);
    } else {
      session->area = area;
      mb_layout_place(layout, &model->weights.config, area);
      status = mb_pool_open(layout->options.threads, &session->pool);
    }
  }
  if (status != MB_OK) {
    mb_session_close(session);
    return status;
  }
  *out = session;
  return MB_OK;
}

void mb_session_close(mb_session *session) {
  if (!session) return;
  mb_pool_close(session->pool);
  if (session->area) munmap(session->area, (size_t)session->layout.total_bytes);
  free(session);
}

mb_status mb_model_memory(const mb_model *model, const mb_session_options *options, mb_session_options *resolved,
                          mb_memory *memory) {
  mb_layout layout;
  mb_status status = mb_layout_compute(&model->weights.config, options, &layout);
  if (status != MB_OK) return status;
  *resolved = layout.options;
  status = mb_memory_estimate(&model->weights.config, resolved, memory);
  memory->file_bytes = model->weights.file_bytes + model->cache.file_bytes;
  memory->touched_file_bytes = memory->resident_file_bytes = mb_model_touched_bytes(model);
  if (model->mapping)
    memory->resident_file_bytes = mb_layer_mapping_resident_bytes(model->mapping, memory->touched_file_bytes);
  return status;
}

mb_status mb_session_memory(const mb_session *session, mb_memory *memory) {
  mb_session_options same;
  return mb_model_memory(session->model, &session->layout.options, &same, memory);
}

const mb_session_options *mb_session_get_options(const mb_session *session) { return &session->layout.options; }

uint32_t mb_session_position(const mb_session *session) { return session->position; }

mb_status mb_position_rewind(uint32_t *position, uint32_t to) {
  if (to > *position)
    return mb_fail(MB_ERROR_ARGUMENT, "cannot rewind to token %u: the session holds %u", to, *position);
  *position = to;
  return MB_OK;
}

/* int4 keeps the last positions that were written in 8 bits. All that the last token saw in them must be there. */
static bool lost_fine(const mb_session_options *resolved, uint32_t written, uint32_t position) {
  return resolved->kv_type == MB_KV_INT4 && position > MB_KV_TILE &&
         mb_coarse_end(position - 1) + mb_fine_ring(resolved) < written;
}

/* A layer with a window keeps the last `ring` positions that were written, one with a convolution the last of its own
 * ring. Those that the next token sees must be among them. */
uint32_t mb_rewind_point(const mb_model_config *config, const mb_session_options *resolved, uint32_t written,
                         uint32_t position) {
  if (lost_fine(resolved, written, position)) return 0;
  const uint32_t ring = mb_ring(config, resolved), convolution = mb_convolution_ring(config, resolved);
  if (ring < resolved->context && written > ring && position + 1 < written - ring + config->sliding_window) return 0;
  if (convolution && written > convolution && position + 1 < written - convolution + config->convolution_taps) return 0;
  return position;
}

uint32_t mb_session_rewind_point(const mb_session *session, uint32_t position) {
  return mb_rewind_point(&session->model->weights.config, &session->layout.options, session->written, position);
}

mb_status mb_session_rewind(mb_session *session, uint32_t position) {
  const mb_model_config *c = &session->model->weights.config;
  const bool window = c->convolution_taps == 0;
  if (position <= session->position && lost_fine(&session->layout.options, session->written, position))
    return mb_fail(MB_ERROR_ARGUMENT,
                   "cannot rewind from token %u to %u: a cache of 4 bits has let go of the 8 bits of what stood there; "
                   "rewind to 0",
                   session->position, position);
  if (position <= session->position && mb_session_rewind_point(session, position) != position)
    return mb_fail(MB_ERROR_ARGUMENT,
                   "cannot rewind from token %u to %u: the layers with a %s of %u have let go of what stood before; "
                   "rewind to 0",
                   session->position, position, window ? "window" : "convolution",
                   window ? c->sliding_window : c->convolution_taps);
  mb_status status = mb_position_rewind(&session->position, position);
  if (status == MB_OK && position == 0) session->written = 0;
  return status;
}

mb_status mb_tokens_check(const mb_model_config *config, uint32_t context, uint32_t position, const int32_t *tokens,
                          size_t count) {
  if (count == 0) return mb_fail(MB_ERROR_ARGUMENT, "no tokens were given");
  if (count > context - position)
    return mb_fail(MB_ERROR_ARGUMENT, "%zu tokens after %u do not fit a context of %u: shorten the text or raise it",
                   count, position, context);
  for (size_t i = 0; i < count; i++) {
    if (tokens[i] < 0 || (uint32_t)tokens[i] >= config->vocabulary)
      return mb_fail(MB_ERROR_ARGUMENT, "token %d is not in the vocabulary of %u", tokens[i], config->vocabulary);
  }
  return MB_OK;
}

static mb_status check_tokens(const mb_session *session, const int32_t *tokens, size_t count) {
  return mb_tokens_check(&session->model->weights.config, session->layout.options.context, session->position, tokens,
                         count);
}

mb_status mb_session_feed(mb_session *session, const int32_t *tokens, size_t count, const float **logits) {
  mb_status status = check_tokens(session, tokens, count);
  while (status == MB_OK && count > 0) {
    const uint32_t chunk = session->layout.options.prefill_chunk, n = count < chunk ? (uint32_t)count : chunk;
    status = mb_decoder_forward(session, tokens, n);
    if (status != MB_OK) break;
    session->position += n;
    tokens += n;
    count -= n;
    if (count == 0) mb_decoder_logits(session, n - 1, n);
  }
  *logits = status == MB_OK ? session->layout.buffers.logits : NULL;
  return status;
}

mb_status mb_session_feed_all(mb_session *session, const int32_t *tokens, size_t count, const float **logits) {
  const mb_session_options *o = &session->layout.options;
  *logits = NULL;
  if (!o->all_logits && o->lookahead == 0)
    return mb_fail(MB_ERROR_ARGUMENT, "the session was opened without all_logits");
  if (count > session->layout.logit_rows)
    return mb_fail(MB_ERROR_ARGUMENT, "%zu tokens at once: this session takes %u", count, session->layout.logit_rows);
  mb_status status = check_tokens(session, tokens, count);
  if (status != MB_OK) return status;
  status = mb_decoder_forward(session, tokens, (uint32_t)count);
  if (status != MB_OK) return status;
  session->position += (uint32_t)count;
  mb_decoder_logits(session, 0, (uint32_t)count);
  *logits = session->layout.buffers.logits;
  return MB_OK;
}

mb_status mb_session_check(mb_session *session, const int32_t *tokens, size_t count) {
  mb_finite_check check = {0};
  const float *logits;
  session->check = &check;
  mb_status status = mb_session_feed(session, tokens, count, &logits);
  session->check = NULL;
  if (status != MB_OK || !check.suspect.tensor[0]) return status;
  if (!check.giver.tensor[0])
    return mb_fail(MB_ERROR_NUMERIC, "%s gives values of up to %.3g, and what is made of them overflows",
                   check.suspect.tensor, (double)check.suspect.reach);
  return mb_fail(MB_ERROR_NUMERIC, "%s gives values that are not finite, from values of up to %.3g that %s gives",
                 check.suspect.tensor, (double)check.suspect.reach, check.giver.tensor);
}

void mb_session_cancel(mb_session *session) { atomic_store(&session->cancelled, true); }
