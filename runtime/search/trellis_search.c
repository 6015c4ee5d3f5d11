/* Codes of MB_FORMAT_TRELLIS2 and MB_FORMAT_TRELLIS3 for 16 weights at a time: the shortest way round the circle.
 *
 * A state is what a weight's window takes from the one before: its pair of bits, or the high one of them. Viterbi's
 * algorithm keeps the best way to each state, once for every state that the way may begin in, because it must end in
 * the same one. With error propagation every survivor has errors of its own, and so its own targets for the weights to
 * come (per-survivor processing: Raheli, Polydoros and Tzou 1995).
 *
 * Eight rows at once, one in each lane. Every lane's operations are the same in any register, so neither the number of
 * threads nor the processor changes a result. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/thread_pool.h"
#include "packed/trellis_layout.h"
#include "search/search.h"

#if defined(__GNUC__)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE static inline
#endif

enum { LANES = 8, STEPS = MB_TRELLIS_COLUMNS, MOST_STATES = 4, ROWS = 64 /* of one piece of work */ };

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));

typedef struct {
  const float *weights, *steps;
  size_t count;
  float factor[STEPS][STEPS];
  float inverse[STEPS]; /* of its diagonal; 0: the column does not matter */
  bool propagates;      /* the factor has more than a diagonal */
  uint32_t bits;
  uint8_t *codes;
  int8_t *levels;
} search;

/* The best way to every state. left: the targets of the steps to come. */
typedef struct {
  lanes loss[MOST_STATES];
  lanes left[MOST_STATES][STEPS];
} survivors;

ALWAYS_INLINE lanes choose(mask where, lanes yes, lanes no) {
  return (lanes)((where & (mask)yes) | (~where & (mask)no));
}
ALWAYS_INLINE mask choose_number(mask where, int32_t yes, mask no) { return (where & yes) | (~where & no); }

/* What a code adds to a window, and the state that it leaves behind. */
ALWAYS_INLINE uint32_t window_of(uint32_t bits, uint32_t state, uint32_t code) {
  return bits == 2 ? state | code << 2 : state | (code & 3) << 1 | (code & 4) << 1;
}
ALWAYS_INLINE uint32_t state_after(uint32_t bits, uint32_t code) { return bits == 2 ? code : code >> 1 & 1; }

/* One weight of eight rows: every state's best predecessor and code, as 8 * state + code, and its survivors. */
ALWAYS_INLINE void take_step(const search *s, uint32_t bits, bool propagates, uint32_t j, const lanes values[16],
                             const survivors *from, survivors *to, mask back[MOST_STATES]) {
  const uint32_t states = bits == 2 ? 4 : 2, codes = bits == 2 ? 4 : 8;
  lanes error[MOST_STATES];
  for (uint32_t n = 0; n < states; n++) {
    to->loss[n] = (lanes){0} + INFINITY;
    error[n] = (lanes){0};
    back[n] = (mask){0};
  }
  for (uint32_t state = 0; state < states; state++)
    for (uint32_t code = 0; code < codes; code++) {
      const uint32_t n = state_after(bits, code);
      const lanes e = (from->left[state][j] - values[window_of(bits, state, code)]) * s->inverse[j];
      const lanes loss = from->loss[state] + e * e;
      const mask better = loss < to->loss[n];
      to->loss[n] = choose(better, loss, to->loss[n]);
      error[n] = choose(better, e, error[n]);
      back[n] = choose_number(better, (int32_t)(8 * state + code), back[n]);
    }
  for (uint32_t n = 0; propagates && n < states; n++) {
    mask was[MOST_STATES];
    for (uint32_t state = 1; state < states; state++) was[state] = (back[n] >> 3) == (int32_t)state;
    for (uint32_t k = j + 1; k < STEPS; k++) {
      lanes target = from->left[0][k];
      for (uint32_t state = 1; state < states; state++) target = choose(was[state], from->left[state][k], target);
      to->left[n][k] = target - error[n] * s->factor[j][k];
    }
  }
}

/* Up to eight rows. */
ALWAYS_INLINE void search_lanes(const search *s, uint32_t bits, bool propagates, size_t first, uint32_t rows) {
  const uint32_t states = bits == 2 ? 4 : 2;
  const uint8_t *table = bits == 2 ? mb_trellis_2 : mb_trellis_3;
  lanes weights[STEPS], values[16], least = (lanes){0} + INFINITY;
  mask best[STEPS];
  memset(best, 0, sizeof best);
  for (uint32_t lane = 0; lane < LANES; lane++) {
    const size_t row = first + (lane < rows ? lane : 0);
    for (uint32_t j = 0; j < STEPS; j++) weights[j][lane] = s->weights[row * STEPS + j];
    for (uint32_t i = 0; i < 16; i++) values[i][lane] = s->steps[row] * (float)(table[i] - MB_TRELLIS_OFFSET);
  }
  for (uint32_t start = 0; start < states; start++) {
    survivors ways[2];
    mask back[STEPS][MOST_STATES];
    for (uint32_t state = 0; state < states; state++) {
      ways[0].loss[state] = (lanes){0} + (state == start ? 0.0f : INFINITY);
      memcpy(ways[0].left[state], weights, sizeof weights);
      if (!propagates) memcpy(ways[1].left[state], weights, sizeof weights);
    }
    for (uint32_t j = 0; j < STEPS; j++)
      take_step(s, bits, propagates, j, values, &ways[j % 2], &ways[(j + 1) % 2], back[j]);
    const lanes loss = ways[STEPS % 2].loss[start];
    const mask better = loss < least;
    least = choose(better, loss, least);
    mask state = (mask){0} + (int32_t)start;
    for (uint32_t j = STEPS; j-- > 0;) {
      mask step = back[j][0];
      for (uint32_t n = 1; n < states; n++) {
        const mask here = state == (int32_t)n;
        step = (here & back[j][n]) | (~here & step);
      }
      best[j] = (better & step) | (~better & best[j]);
      state = step >> 3;
    }
  }
  for (uint32_t lane = 0; lane < rows; lane++)
    for (uint32_t j = 0; j < STEPS; j++) {
      const uint32_t state = (uint32_t)best[j][lane] >> 3, code = (uint32_t)best[j][lane] & 7;
      const size_t at = (first + lane) * STEPS + j;
      s->codes[at] = (uint8_t)code;
      s->levels[at] = (int8_t)(table[window_of(bits, state, code)] - MB_TRELLIS_OFFSET);
    }
}

ALWAYS_INLINE void search_rows(const search *s, size_t first, size_t last) {
  for (size_t row = first; row < last; row += LANES) {
    const uint32_t rows = last - row < LANES ? (uint32_t)(last - row) : LANES;
    /* Each with its constants. */
    if (s->bits == 2 && s->propagates)
      search_lanes(s, 2, true, row, rows);
    else if (s->bits == 2)
      search_lanes(s, 2, false, row, rows);
    else if (s->propagates)
      search_lanes(s, 3, true, row, rows);
    else
      search_lanes(s, 3, false, row, rows);
  }
}

static void search_portable(const search *s, size_t first, size_t last) { search_rows(s, first, last); }

#if defined(__x86_64__) && !defined(MB_PORTABLE_SEARCH) /* a test builds what other processors run */
#define HAVE_AVX2
__attribute__((target("avx2"))) static void search_avx2(const search *s, size_t first, size_t last) {
  search_rows(s, first, last);
}
#endif

static void search_piece(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  const search *s = context;
  const size_t begin = (size_t)first * ROWS, end = (size_t)last * ROWS < s->count ? (size_t)last * ROWS : s->count;
#if defined(HAVE_AVX2)
  if (__builtin_cpu_supports("avx2")) {
    search_avx2(s, begin, end);
    return;
  }
#endif
  search_portable(s, begin, end);
}

mb_status mb_trellis_search(uint32_t bits, const float *weights, const float *steps, size_t count, const float *factor,
                            uint32_t threads, uint8_t *codes, int8_t *levels) {
  if ((bits != 2 && bits != 3) || threads < 1 || count / ROWS >= UINT32_MAX)
    return mb_fail(MB_ERROR_ARGUMENT, "no trellis of %u bits on %u threads", bits, threads);
  const uint32_t pieces = (uint32_t)((count + ROWS - 1) / ROWS);
  if (pieces == 0) return MB_OK;
  search s = {.weights = weights, .steps = steps, .count = count, .bits = bits, .codes = codes, .levels = levels};
  for (uint32_t j = 0; j < STEPS; j++) {
    const float own = factor[j * STEPS + j];
    s.inverse[j] = own > 0 ? 1.0f / own : 0.0f;
    for (uint32_t k = j + 1; k < STEPS; k++) {
      s.factor[j][k] = factor[j * STEPS + k];
      s.propagates = s.propagates || s.factor[j][k] != 0;
    }
  }
  mb_pool *pool;
  mb_status status = mb_pool_open(threads < pieces ? threads : pieces, &pool);
  if (status != MB_OK) return status;
  mb_pool_run(pool, search_piece, &s, pieces, 1);
  mb_pool_close(pool);
  return MB_OK;
}
