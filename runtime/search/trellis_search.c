/* Codes of the formats MB_FORMAT_TRELLIS* for 16 weights at a time: the shortest way round the circle.
 *
 * A state is the upper bits of the three pairs before a weight (packed/trellis_layout.h). Viterbi's algorithm keeps
 * the best way to each state, once for every state that the way may begin in, because it must end in the same one. With
 * error propagation every survivor has errors of its own, and so its own targets for the weights to come (per-survivor
 * processing: Raheli, Polydoros and Tzou 1995).
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

/* The next loop's body as often as it runs: what depends on its number becomes constants. */
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

enum { LANES = 8, STEPS = MB_TRELLIS_COLUMNS, STATES = 8, ROWS = 64 /* of one piece of work */ };

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t mask __attribute__((vector_size(4 * LANES)));

typedef struct {
  const float *weights, *steps;
  size_t count;
  float factor[STEPS][STEPS];
  float inverse[STEPS]; /* of its diagonal; 0: the column does not matter */
  bool propagates;      /* the factor has more than a diagonal */
  uint32_t halves;      /* half bits of a weight, 4 to 6 */
  uint8_t *codes;
  int8_t *levels;
} search;

/* The best way to every state. left: the targets of the steps to come. */
typedef struct {
  lanes loss[STATES];
  lanes left[STATES][STEPS];
} survivors;

/* What the best of the codes that lead from one state to another costs, and which it is. */
typedef struct {
  lanes error, loss;
  mask code;
} branch;

ALWAYS_INLINE lanes choose(mask where, lanes yes, lanes no) {
  return (lanes)((where & (mask)yes) | (~where & (mask)no));
}
ALWAYS_INLINE mask choose_number(mask where, mask yes, mask no) { return (where & yes) | (~where & no); }

/* Bits of the weights at even places, or at odd ones, and their codes by window. */
ALWAYS_INLINE uint32_t bits_at(uint32_t halves, uint32_t place) {
  return place % 2 == 0 ? (halves + 1) / 2 : halves / 2;
}
ALWAYS_INLINE const uint8_t *table_at(uint32_t halves, uint32_t place) {
  return halves == 4 ? mb_trellis_2 : halves == 5 ? mb_trellis_25[place % 2] : mb_trellis_3;
}

/* The window of a code, its pair in bits 0-1 and its bit of the plane in bit 2, after a state: the upper bit of the
 * last pair in bit 0, of the first one in bit 2. */
ALWAYS_INLINE uint32_t window_of(uint32_t bits, uint32_t state, uint32_t code) {
  const uint32_t second = bits == 2 ? state & 1 : code >> 2;
  return ((state >> 1 ^ state >> 2) & 1) | second << 1 | (code & 3) << 2;
}

/* From a state, by a code whose pair has this upper bit. */
ALWAYS_INLINE branch best_code(uint32_t bits, uint32_t state, uint32_t upper, lanes target, const lanes values[16],
                               float inverse) {
  branch b;
  UNROLLED for (uint32_t other = 0; other < 1u << (bits - 1); other++) { /* the lower bit, and that of the plane */
    const uint32_t code = (other & 1) | upper << 1 | (other >> 1) << 2;
    const lanes error = (target - values[window_of(bits, state, code)]) * inverse, loss = error * error;
    const mask number = (mask){0} + (int32_t)code;
    if (other == 0) {
      b = (branch){error, loss, number};
      continue;
    }
    const mask better = loss < b.loss;
    b = (branch){choose(better, error, b.error), choose(better, loss, b.loss), choose_number(better, number, b.code)};
  }
  return b;
}

/* One weight of eight rows: every state's best code and the upper bit of the state before, as 8 * bit + code, and its
 * survivors. apart: of every state and upper bit the best code, where all states have the same targets. */
ALWAYS_INLINE void take_step(const search *s, uint32_t bits, bool propagates, uint32_t j, const lanes values[16],
                             branch apart[STATES][2], const survivors *from, survivors *to, mask back[STATES]) {
  UNROLLED for (uint32_t n = 0; n < STATES; n++) {
    const uint32_t first = n >> 1, second = first | STATES / 2;
    branch a, b;
    if (propagates) {
      a = best_code(bits, first, n & 1, from->left[first][j], values, s->inverse[j]);
      b = best_code(bits, second, n & 1, from->left[second][j], values, s->inverse[j]);
    } else {
      a = apart[first][n & 1], b = apart[second][n & 1];
    }
    const lanes one = from->loss[first] + a.loss, other = from->loss[second] + b.loss;
    const mask better = other < one;
    to->loss[n] = choose(better, other, one);
    back[n] = choose_number(better, b.code | 8, a.code);
    if (!propagates) continue;
    const lanes error = choose(better, b.error, a.error);
    for (uint32_t k = j + 1; k < STEPS; k++)
      to->left[n][k] = choose(better, from->left[second][k], from->left[first][k]) - error * s->factor[j][k];
  }
}

/* Up to eight rows. */
ALWAYS_INLINE void search_lanes(const search *s, uint32_t halves, bool propagates, size_t first, uint32_t rows) {
  const uint32_t even = bits_at(halves, 0), odd = bits_at(halves, 1);
  lanes weights[STEPS], values[2][16], least = (lanes){0} + INFINITY;
  branch apart[STEPS][STATES][2];
  mask best[STEPS];
  memset(best, 0, sizeof best);
  for (uint32_t lane = 0; lane < LANES; lane++) {
    const size_t row = first + (lane < rows ? lane : 0);
    for (uint32_t j = 0; j < STEPS; j++) weights[j][lane] = s->weights[row * STEPS + j];
    for (uint32_t p = 0; p < 2; p++)
      for (uint32_t i = 0; i < 16; i++)
        values[p][i][lane] = s->steps[row] * (float)(table_at(halves, p)[i] - MB_TRELLIS_OFFSET);
  }
  for (uint32_t j = 0; !propagates && j < STEPS; j++)
    for (uint32_t state = 0; state < STATES; state++)
      for (uint32_t upper = 0; upper < 2; upper++)
        apart[j][state][upper] = j % 2 == 0 ? best_code(even, state, upper, weights[j], values[0], s->inverse[j])
                                            : best_code(odd, state, upper, weights[j], values[1], s->inverse[j]);
  for (uint32_t start = 0; start < STATES; start++) {
    survivors ways[2];
    mask back[STEPS][STATES];
    for (uint32_t state = 0; state < STATES; state++) {
      ways[0].loss[state] = (lanes){0} + (state == start ? 0.0f : INFINITY);
      if (propagates) memcpy(ways[0].left[state], weights, sizeof weights);
    }
    for (uint32_t j = 0; j < STEPS; j += 2) {
      take_step(s, even, propagates, j, values[0], apart[j], &ways[0], &ways[1], back[j]);
      take_step(s, odd, propagates, j + 1, values[1], apart[j + 1], &ways[1], &ways[0], back[j + 1]);
    }
    const lanes loss = ways[0].loss[start];
    const mask better = loss < least;
    least = choose(better, loss, least);
    mask state = (mask){0} + (int32_t)start;
    for (uint32_t j = STEPS; j-- > 0;) {
      mask step = back[j][0];
      for (uint32_t n = 1; n < STATES; n++) step = choose_number(state == (int32_t)n, back[j][n], step);
      best[j] = choose_number(better, step, best[j]);
      state = state >> 1 | (step >> 3) << 2;
    }
  }
  for (uint32_t lane = 0; lane < rows; lane++) {
    uint32_t state = 0; /* the circle's, at its beginning */
    for (uint32_t j = STEPS - 3; j < STEPS; j++) state = (state << 1 | ((uint32_t)best[j][lane] >> 1 & 1)) & 7;
    for (uint32_t j = 0; j < STEPS; j++) {
      const uint32_t code = (uint32_t)best[j][lane] & 7;
      const size_t at = (first + lane) * STEPS + j;
      s->codes[at] = (uint8_t)code;
      s->levels[at] = (int8_t)(table_at(halves, j)[window_of(bits_at(halves, j), state, code)] - MB_TRELLIS_OFFSET);
      state = (state << 1 | (code >> 1 & 1)) & 7;
    }
  }
}

/* Each with its constants. */
ALWAYS_INLINE void search_lanes_of(const search *s, uint32_t halves, size_t first, uint32_t rows) {
  if (s->propagates)
    search_lanes(s, halves, true, first, rows);
  else
    search_lanes(s, halves, false, first, rows);
}

ALWAYS_INLINE void search_rows(const search *s, size_t first, size_t last) {
  for (size_t row = first; row < last; row += LANES) {
    const uint32_t rows = last - row < LANES ? (uint32_t)(last - row) : LANES;
    if (s->halves == 4)
      search_lanes_of(s, 4, row, rows);
    else if (s->halves == 5)
      search_lanes_of(s, 5, row, rows);
    else
      search_lanes_of(s, 6, row, rows);
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

mb_status mb_trellis_search(uint32_t halves, const float *weights, const float *steps, size_t count,
                            const float *factor, uint32_t threads, uint8_t *codes, int8_t *levels) {
  if (halves < 4 || halves > 6 || threads < 1 || count / ROWS >= UINT32_MAX)
    return mb_fail(MB_ERROR_ARGUMENT, "no trellis of %u half bits on %u threads", halves, threads);
  const uint32_t pieces = (uint32_t)((count + ROWS - 1) / ROWS);
  if (pieces == 0) return MB_OK;
  search s = {.weights = weights, .steps = steps, .count = count, .halves = halves, .codes = codes, .levels = levels};
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
