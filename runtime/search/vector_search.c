/* Nearest codebook entries for many points: what VPTQ's encoder and its k-means spend their time on.
 *
 * The score of a centroid is its half norm, from which the products point[j] * centroid[j] are subtracted in order of
 * j; the smallest wins, and of equal ones the first. Every score is computed by itself, so neither the number of
 * threads nor the width of a register changes a result.
 *
 * Two levels of blocking: a batch of points, transposed to groups of 16, meets a chunk of the codebook that stays in
 * the first-level cache; per tile of 16 centroids only the smallest score is kept, and which tile it came from. The
 * winning tile's scores are computed once more at the end to find the entry: an index beside every minimum would cost
 * more. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/aligned.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "search/search.h"

#if defined(__x86_64__) && !defined(MB_PORTABLE_SEARCH) /* a test builds what other processors run */
#include <immintrin.h>
#define HAVE_AVX2
#if !defined(MB_AVX2_SEARCH)
#define HAVE_AVX512
#endif
#endif

enum { LANES = 16, BATCH = 256, GROUPS = BATCH / LANES, MOST_LENGTH = 32, CHUNK_BYTES = 16384 };

/* A tile: half norms of 16 centroids, then coordinate 0 of all of them, coordinate 1, ... */
typedef struct {
  const float *tiles;
  uint32_t length, tile_count, chunk_tiles;
} codebook;

/* A batch of points: coordinate j of the points of a group together, and each point's best so far. */
typedef struct {
  _Alignas(64) float points[GROUPS][MOST_LENGTH][LANES];
  _Alignas(64) float best[GROUPS][LANES];
  _Alignas(64) uint32_t tile[GROUPS][LANES];
} batch;

typedef struct {
  /* One group against the tiles first..last-1. */
  void (*scan)(const codebook *c, batch *b, uint32_t group, uint32_t first, uint32_t last);
  /* Lane of the first centroid of a tile whose score is `best`. */
  uint32_t (*locate)(const codebook *c, uint32_t tile, const float *point, float best);
} search_functions;

static const float *tile_at(const codebook *c, uint32_t tile) {
  return c->tiles + (size_t)tile * (c->length + 1) * LANES;
}

/* ---- portable ---- */

static void scores_of_tile(const codebook *c, const float *tile, const float *point, size_t stride,
                           float scores[LANES]) {
  memcpy(scores, tile, LANES * sizeof *scores);
  for (uint32_t j = 0; j < c->length; j++) {
    const float *coordinate = tile + (size_t)(j + 1) * LANES, p = point[j * stride];
    for (int i = 0; i < LANES; i++) scores[i] = scores[i] - p * coordinate[i];
  }
}

static void scan_portable(const codebook *c, batch *b, uint32_t group, uint32_t first, uint32_t last) {
  for (uint32_t t = first; t < last; t++)
    for (uint32_t n = 0; n < LANES; n++) {
      float scores[LANES];
      scores_of_tile(c, tile_at(c, t), &b->points[group][0][n], LANES, scores);
      for (int i = 0; i < LANES; i++)
        if (scores[i] < b->best[group][n]) {
          b->best[group][n] = scores[i];
          b->tile[group][n] = t;
        }
    }
}

static uint32_t locate_portable(const codebook *c, uint32_t tile, const float *point, float best) {
  float scores[LANES];
  scores_of_tile(c, tile_at(c, tile), point, LANES, scores);
  for (uint32_t i = 0; i < LANES; i++)
    if (scores[i] == best) return i;
  return 0; /* scores that are not numbers: any valid entry */
}

/* ---- AVX2: 16 points in two registers, four centroids at a time ---- */

#if defined(HAVE_AVX2)
__attribute__((target("avx2"))) static void scan_avx2(const codebook *c, batch *b, uint32_t group, uint32_t first,
                                                      uint32_t last) {
  const float *points = b->points[group][0], *tile = tile_at(c, first);
  const size_t tile_floats = (size_t)(c->length + 1) * LANES;
  __m256 best[2] = {_mm256_load_ps(b->best[group]), _mm256_load_ps(b->best[group] + 8)};
  __m256 where[2]; /* tile numbers; only moved, never computed with */
  for (int h = 0; h < 2; h++) where[h] = _mm256_load_ps((const float *)(const void *)(b->tile[group] + 8 * h));
  for (uint32_t t = first; t < last; t++, tile += tile_floats) {
    __m256 least[2] = {_mm256_set1_ps(INFINITY), _mm256_set1_ps(INFINITY)};
    for (int i = 0; i < LANES; i += 4) {
      const float *from = tile + i;
      __m256 scores[2][4];
      for (int k = 0; k < 4; k++) scores[0][k] = scores[1][k] = _mm256_broadcast_ss(from + k);
      for (uint32_t j = 0; j < c->length; j++) {
        const __m256 p0 = _mm256_load_ps(points + j * LANES), p1 = _mm256_load_ps(points + j * LANES + 8);
        from += LANES;
        for (int k = 0; k < 4; k++) {
          const __m256 coordinate = _mm256_broadcast_ss(from + k);
          scores[0][k] = _mm256_sub_ps(scores[0][k], _mm256_mul_ps(p0, coordinate));
          scores[1][k] = _mm256_sub_ps(scores[1][k], _mm256_mul_ps(p1, coordinate));
        }
      }
      for (int h = 0; h < 2; h++) {
        const __m256 a = _mm256_min_ps(scores[h][0], scores[h][1]), d = _mm256_min_ps(scores[h][2], scores[h][3]);
        least[h] = _mm256_min_ps(least[h], _mm256_min_ps(a, d));
      }
    }
    const __m256 number = _mm256_castsi256_ps(_mm256_set1_epi32((int32_t)t));
    for (int h = 0; h < 2; h++) {
      where[h] = _mm256_blendv_ps(where[h], number, _mm256_cmp_ps(least[h], best[h], _CMP_LT_OQ));
      best[h] = _mm256_min_ps(least[h], best[h]);
    }
  }
  for (int h = 0; h < 2; h++) {
    _mm256_store_ps(b->best[group] + 8 * h, best[h]);
    _mm256_store_ps((float *)(void *)(b->tile[group] + 8 * h), where[h]);
  }
}

__attribute__((target("avx2"))) static uint32_t locate_avx2(const codebook *c, uint32_t tile, const float *point,
                                                            float best) {
  const float *from = tile_at(c, tile);
  __m256 low = _mm256_load_ps(from), high = _mm256_load_ps(from + 8);
  for (uint32_t j = 0; j < c->length; j++) {
    const __m256 p = _mm256_broadcast_ss(point + j * LANES);
    from += LANES;
    low = _mm256_sub_ps(low, _mm256_mul_ps(p, _mm256_load_ps(from)));
    high = _mm256_sub_ps(high, _mm256_mul_ps(p, _mm256_load_ps(from + 8)));
  }
  const __m256 wanted = _mm256_set1_ps(best);
  const int lows = _mm256_movemask_ps(_mm256_cmp_ps(low, wanted, _CMP_EQ_OQ));
  const int highs = _mm256_movemask_ps(_mm256_cmp_ps(high, wanted, _CMP_EQ_OQ));
  const uint32_t found = (uint32_t)(lows | highs << 8);
  return found != 0 ? (uint32_t)__builtin_ctz(found) : 0; /* 0: scores that are not numbers, any valid entry */
}
#endif

/* ---- AVX-512: 16 points in one register, eight centroids at a time ---- */

#if defined(HAVE_AVX512)
__attribute__((target("avx512f"))) static void scan_avx512(const codebook *c, batch *b, uint32_t group, uint32_t first,
                                                           uint32_t last) {
  const float *points = b->points[group][0], *tile = tile_at(c, first);
  const size_t tile_floats = (size_t)(c->length + 1) * LANES;
  __m512 best = _mm512_load_ps(b->best[group]);
  __m512i where = _mm512_load_si512(b->tile[group]);
  for (uint32_t t = first; t < last; t++, tile += tile_floats) {
    __m512 least = _mm512_set1_ps(INFINITY);
    for (int i = 0; i < LANES; i += 8) {
      const float *from = tile + i;
      __m512 scores[8];
      for (int k = 0; k < 8; k++) scores[k] = _mm512_set1_ps(from[k]);
      for (uint32_t j = 0; j < c->length; j++) {
        const __m512 p = _mm512_load_ps(points + j * LANES);
        from += LANES;
        for (int k = 0; k < 8; k++) scores[k] = _mm512_sub_ps(scores[k], _mm512_mul_ps(p, _mm512_set1_ps(from[k])));
      }
      for (int k = 0; k < 8; k++) least = _mm512_min_ps(least, scores[k]);
    }
    where = _mm512_mask_mov_epi32(where, _mm512_cmp_ps_mask(least, best, _CMP_LT_OQ), _mm512_set1_epi32((int)t));
    best = _mm512_min_ps(least, best);
  }
  _mm512_store_ps(b->best[group], best);
  _mm512_store_si512(b->tile[group], where);
}
#endif

static search_functions select_functions(void) {
#if defined(HAVE_AVX512)
  if (__builtin_cpu_supports("avx512f")) return (search_functions){scan_avx512, locate_avx2};
#endif
#if defined(HAVE_AVX2)
  if (__builtin_cpu_supports("avx2")) return (search_functions){scan_avx2, locate_avx2};
#endif
  return (search_functions){scan_portable, locate_portable};
}

/* ---- the whole search ---- */

typedef struct {
  const float *points;
  size_t count;
  codebook centroids;
  search_functions functions;
  uint32_t *index;
} search;

static void search_batch(const search *s, batch *b, size_t begin) {
  const codebook *c = &s->centroids;
  const uint32_t points = s->count - begin < BATCH ? (uint32_t)(s->count - begin) : BATCH;
  const uint32_t groups = (points + LANES - 1) / LANES;
  for (uint32_t n = 0; n < groups * LANES; n++) {
    const uint32_t group = n / LANES, lane = n % LANES;
    const float *from = s->points + (begin + n) * c->length;
    for (uint32_t j = 0; j < c->length; j++) b->points[group][j][lane] = n < points ? from[j] : 0;
    b->best[group][lane] = INFINITY;
    b->tile[group][lane] = 0;
  }
  for (uint32_t first = 0; first < c->tile_count; first += c->chunk_tiles) {
    const uint32_t left = c->tile_count - first, last = first + (left < c->chunk_tiles ? left : c->chunk_tiles);
    for (uint32_t group = 0; group < groups; group++) s->functions.scan(c, b, group, first, last);
  }
  for (uint32_t n = 0; n < points; n++) {
    const uint32_t group = n / LANES, lane = n % LANES, tile = b->tile[group][lane];
    s->index[begin + n] = tile * LANES + s->functions.locate(c, tile, &b->points[group][0][lane], b->best[group][lane]);
  }
}

static void search_batches(void *context, uint32_t first, uint32_t last, uint32_t thread) {
  (void)thread;
  batch b;
  for (uint32_t i = first; i < last; i++) search_batch(context, &b, (size_t)i * BATCH);
}

/* Centroids that fill up the last tile have an infinite half norm: they are never the smallest. */
static void fill_tiles(float *tiles, const float *centroids, const float *half_norms, uint32_t length, uint32_t entries,
                       uint32_t tile_count) {
  for (uint32_t t = 0; t < tile_count; t++)
    for (uint32_t i = 0; i < LANES; i++) {
      float *to = tiles + (size_t)t * (length + 1) * LANES + i;
      const size_t entry = (size_t)t * LANES + i;
      to[0] = entry < entries ? half_norms[entry] : INFINITY;
      for (uint32_t j = 0; j < length; j++) to[(j + 1) * LANES] = entry < entries ? centroids[entry * length + j] : 0;
    }
}

mb_status mb_vector_nearest(const float *points, size_t count, uint32_t length, const float *centroids,
                            const float *half_norms, uint32_t entries, uint32_t threads, uint32_t *index) {
  if (length < 1 || length > MOST_LENGTH || entries < 1 || entries > MB_MOST_ENTRIES || threads < 1 ||
      count / BATCH >= UINT32_MAX)
    return mb_fail(MB_ERROR_ARGUMENT, "no search for %u entries of length %u on %u threads", entries, length, threads);
  const uint32_t batches = (uint32_t)((count + BATCH - 1) / BATCH);
  if (batches == 0) return MB_OK;
  search s = {.points = points, .count = count, .functions = select_functions(), .index = index};
  const uint32_t tile_bytes = (length + 1) * LANES * (uint32_t)sizeof(float);
  s.centroids = (codebook){.length = length,
                           .tile_count = (entries + LANES - 1) / LANES,
                           .chunk_tiles = CHUNK_BYTES / tile_bytes}; /* at least 7 */
  float *tiles = mb_aligned_malloc((size_t)s.centroids.tile_count * tile_bytes);
  if (tiles == NULL) return mb_fail(MB_ERROR_MEMORY, "no memory to search a codebook of %u entries", entries);
  fill_tiles(tiles, centroids, half_norms, length, entries, s.centroids.tile_count);
  s.centroids.tiles = tiles;
  mb_pool *pool;
  mb_status status = mb_pool_open(threads < batches ? threads : batches, &pool);
  if (status == MB_OK) {
    mb_pool_run(pool, search_batches, &s, batches, 1);
    mb_pool_close(pool);
  }
  free(tiles);
  return status;
}
