/* The short convolution of LFM2, in place of a layer's attention: weights_index.h says what it gives.
 *
 * What it sees of each position, u, is kept in a ring like the keys of a layer with a window: a chunk writes all its
 * positions before the first of its tokens looks back, and as many tokens as a chunk has can be taken back. */
#include <string.h>

#include "engine/session.h"

/* u of a position, [hidden]. */
static float *kept(const mb_session *session, uint32_t layer, uint32_t position) {
  const mb_layout *layout = &session->layout;
  const size_t before = session->model->layers[layer].convolutions_before * (size_t)layout->convolution_ring;
  return layout->buffers.convolutions +
         (before + position % layout->convolution_ring) * session->model->weights.config.hidden;
}

void mb_convolution_keep(mb_session *session, uint32_t layer, uint32_t first, uint32_t last) {
  const uint32_t hidden = session->model->weights.config.hidden;
  for (uint32_t n = first; n < last; n++) {
    const float *b = session->layout.buffers.gates + n * 3 * (size_t)hidden, *x = b + 2 * (size_t)hidden;
    float *u = kept(session, layer, session->position + n);
    for (uint32_t i = 0; i < hidden; i++) u[i] = b[i] * x[i];
  }
}

void mb_convolution_mix(mb_session *session, uint32_t layer, uint32_t first, uint32_t last) {
  const mb_model_config *config = &session->model->weights.config;
  const uint32_t hidden = config->hidden, taps = config->convolution_taps;
  const mb_buffers *buffers = &session->layout.buffers;
  for (uint32_t n = first; n < last; n++) {
    const uint32_t position = session->position + n;
    const float *c = buffers->gates + n * 3 * (size_t)hidden + hidden;
    float *out = buffers->convolved + n * (size_t)mb_round_up(hidden, MB_COLUMN_PADDING);
    memset(out, 0, hidden * sizeof *out);
    for (uint32_t t = 0; t < taps; t++) {
      const uint32_t back = taps - 1 - t;
      if (back > position) continue; /* before the first position */
      const float *u = kept(session, layer, position - back), *tap = session->model->layers[layer].taps + t * hidden;
      for (uint32_t i = 0; i < hidden; i++) out[i] += tap[i] * u[i];
    }
    for (uint32_t i = 0; i < hidden; i++) out[i] *= c[i];
  }
}
