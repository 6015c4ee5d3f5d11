/* Attention over a KV cache of integers: how the kernels' loops are put together, for AVX2, AVX-512 and NEON alike.
 *
 * A fragment of them. Define before it is included:
 *   GROUP_ROWS                 queries that share what is loaded
 *   SCORE_GROUPS               groups of keys that score_groups takes at once
 *   FOR_GROUP_ROWS(call)       the cases 1 to GROUP_ROWS of a switch, with the constant ROWS
 *   fetch_group(p, bytes)      fetches what will be read soon, which may lie behind the end
 *   TABLE_FUNCTION(name)       how the function of an entry begins
 * and behind it
 *   score_groups, load_16_scales, mix_tile
 *   weigh_tile, with WEIGHS_TILES defined before; otherwise weigh_positions
 * It defines scores_int8(), scores_int4(), mix_int8() and mix_int4(), the table's entries. */
#ifndef MB_KERNELS_ATTENTION_GROUPS_IMPL_H
#define MB_KERNELS_ATTENTION_GROUPS_IMPL_H

#include "kernels/kernels.h"

#define TILE_BLOCKS 4    /* blocks of a tile whose weights are made at once: 128 dimensions */
#define WEIGH_ROWS 16    /* rows whose weights are made at once */
#define GROUPS_PASS 512  /* positions whose keys stay in L1 while all queries pass over them */
#define GROUPS_AHEAD 128 /* positions that are fetched before they are read */

/* Some queries from one on: row r's codes lie r * blocks * MB_KV_BLOCK behind the first one's, its scales and sums
 * r * blocks. */
typedef struct {
  const int8_t *codes;
  const float *scales;
  const int32_t *sums;
  uint32_t blocks;
} some_queries;

/* The keys of `groups` groups, 1 or SCORE_GROUPS, to MB_KV_GROUP scores each of each of `rows` queries. */
MB_INLINE void score_groups(const some_queries *q, const uint8_t *keys, const uint16_t *key_scales, float *scores,
                            size_t scores_stride, uint32_t rows, uint32_t groups, bool int4);

/* The weights of a block of a tile of values: kernels.h, mix_int8. A weight is 128 * codes[1] + codes[0]. */
typedef struct {
  int8_t codes[2][WEIGH_ROWS][MB_KV_TILE]; /* codes[1] only of the rows that are fine */
  int32_t sums[WEIGH_ROWS];                /* of a row's weights */
  float scales[WEIGH_ROWS];
} tile_weights;

MB_INLINE void load_16_scales(const uint16_t *halves, float *scales); /* MB_KV_GROUP of them */

/* Some rows' terms of a tile times the values' scales in each of `blocks` blocks, up to TILE_BLOCKS, to codes.
 * positions: a multiple of MB_KV_GROUP. */
static void weigh_tile(const mb_terms *terms, const float (*value_scales)[MB_KV_TILE], uint32_t positions,
                       tile_weights *tiles, uint32_t blocks, bool *fine, bool int4);

#ifndef WEIGHS_TILES
/* The same of one row and block. limit: terms above it are large. Returns whether the row is fine. */
MB_INLINE bool weigh_positions(const float *terms, float limit, const float *value_scales, uint32_t positions,
                               tile_weights *tile, uint32_t row, bool int4);

static void weigh_tile(const mb_terms *terms, const float (*value_scales)[MB_KV_TILE], uint32_t positions,
                       tile_weights *tiles, uint32_t blocks, bool *fine, bool int4) {
  for (uint32_t r = 0; r < terms->rows; r++)
    for (uint32_t b = 0; b < blocks; b++)
      fine[r] = weigh_positions(terms->terms + r * terms->stride, terms->sums[r] * MB_LARGE_TERM, value_scales[b],
                                positions, &tiles[b], r, int4);
}
#endif

/* Adds one block of a tile's values to `rows` rows from `first` on. fine: their weights have codes[1]. values: of its
 * first group; those of the next are `group_bytes` behind. */
MB_INLINE void mix_tile(const tile_weights *tile, const uint8_t *values, size_t group_bytes, uint32_t positions,
                        float *out, size_t stride, uint32_t first, uint32_t rows, bool fine, bool int4);

/* How many of `rows` rows the next pass takes: so that all passes have nearly as many. */
MB_INLINE uint32_t rows_of_pass(uint32_t rows) {
  const uint32_t passes = (rows + GROUP_ROWS - 1) / GROUP_ROWS;
  return (rows + passes - 1) / passes;
}

MB_INLINE void scores_of(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride,
                         bool int4) {
  const uint32_t blocks = keys->blocks, positions = keys->positions, bytes = mb_kv_block_bytes(int4) * blocks;
  for (uint32_t pass = 0; pass < positions; pass += GROUPS_PASS)
    for (uint32_t r = 0, rows; r < queries->rows; r += rows) {
      const uint32_t end = positions - pass < GROUPS_PASS ? positions : pass + GROUPS_PASS;
      rows = rows_of_pass(queries->rows - r);
      const size_t query = (size_t)r * blocks;
      const some_queries q = {queries->codes + query * MB_KV_BLOCK, queries->scales + query, queries->sums + query,
                              blocks};
      for (uint32_t p = pass; p < end;) {
        const uint8_t *k = keys->codes + (size_t)(p / MB_KV_GROUP) * bytes;
        const uint16_t *scales = keys->scales + (size_t)p * blocks;
        const uint32_t left = (end - p) / MB_KV_GROUP, groups = left < SCORE_GROUPS ? 1 : SCORE_GROUPS;
        float *to = scores + r * scores_stride + p;
        if (r == 0) fetch_group(k + (size_t)(GROUPS_AHEAD / MB_KV_GROUP) * bytes, groups * bytes);
        if (groups == 1) {
          switch (rows) { FOR_GROUP_ROWS(score_groups(&q, k, scales, to, scores_stride, ROWS, 1, int4)) }
        } else {
          switch (rows) { FOR_GROUP_ROWS(score_groups(&q, k, scales, to, scores_stride, ROWS, SCORE_GROUPS, int4)) }
        }
        p += groups * MB_KV_GROUP;
      }
    }
}

/* One tile of values, from position `first` on: the blocks first_block..last_block-1, at most TILE_BLOCKS. */
MB_INLINE void mix_blocks_of_tile(const mb_terms *terms, const mb_kv_groups *values, uint32_t first,
                                  uint32_t first_block, uint32_t last_block, float *out, bool int4) {
  const uint32_t blocks = values->blocks, bytes = mb_kv_block_bytes(int4);
  const uint32_t left = values->positions - first, positions = left < MB_KV_TILE ? left : MB_KV_TILE;
  const size_t stride = (size_t)blocks * MB_KV_BLOCK, group_bytes = (size_t)blocks * bytes;
  float scales[TILE_BLOCKS][MB_KV_TILE];
  for (uint32_t b = first_block; b < last_block; b++)
    for (uint32_t p = 0; p < positions; p += MB_KV_GROUP) {
      load_16_scales(values->scales + mb_kv_scale_at(blocks, first + p, b), scales[b - first_block] + p);
      fetch_group(values->codes + mb_kv_block_at(blocks, first + GROUPS_AHEAD + p, b) * bytes, bytes);
    }
  for (uint32_t r = 0; r < terms->rows; r += WEIGH_ROWS) {
    const uint32_t rows = terms->rows - r < WEIGH_ROWS ? terms->rows - r : WEIGH_ROWS;
    const mb_terms some = {terms->terms + r * terms->stride + first, terms->stride, terms->sums + r, rows};
    tile_weights tiles[TILE_BLOCKS];
    bool fine[WEIGH_ROWS];
    weigh_tile(&some, scales, positions, tiles, last_block - first_block, fine, int4);
    for (uint32_t i = 0, n; i < rows; i += n) {
      n = rows_of_pass(rows - i);
      bool any = false;
      for (uint32_t j = i; j < i + n; j++) any |= fine[j];
      for (uint32_t b = first_block; b < last_block; b++) {
        const tile_weights *tile = &tiles[b - first_block];
        const uint8_t *v = values->codes + mb_kv_block_at(blocks, first, b) * bytes;
        float *to = out + (r + i) * stride + b * MB_KV_BLOCK;
        switch (n) { FOR_GROUP_ROWS(mix_tile(tile, v, group_bytes, positions, to, stride, i, ROWS, any, int4)) }
      }
    }
  }
}

MB_INLINE void mix_of(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                      float *out, bool int4) {
  for (uint32_t first = 0; first < values->positions; first += MB_KV_TILE)
    for (uint32_t b = first_block; b < last_block; b += TILE_BLOCKS)
      mix_blocks_of_tile(terms, values, first, b, last_block - b < TILE_BLOCKS ? last_block : b + TILE_BLOCKS, out,
                         int4);
}

TABLE_FUNCTION(scores_int8)(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  scores_of(queries, keys, scores, scores_stride, false);
}

TABLE_FUNCTION(scores_int4)(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  scores_of(queries, keys, scores, scores_stride, true);
}

TABLE_FUNCTION(mix_int8)(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                         float *out) {
  mix_of(terms, values, first_block, last_block, out, false);
}

TABLE_FUNCTION(mix_int4)(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                         float *out) {
  mix_of(terms, values, first_block, last_block, out, true);
}

#endif
