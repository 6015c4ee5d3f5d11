/* Where things lie in the KV cache of one KV head whose codes are integers: keys and values of 8 or of 4 bits.
 *
 * MB_KV_GROUP positions lie together, MB_KV_BLOCK dimensions of theirs after the other. A load meets neighbouring
 * positions of the keys, and neighbouring dimensions of the values, four products of each: so sums need no adding up
 * across a register, and one block of the values can be read without the others.
 *
 *   keys of 8 bits    [position / 16][block][dimension / 4][position % 16][dimension % 4]
 *   keys of 4 bits    [position / 16][block][dimension / 8][position % 16][dimension % 4]
 *                     in the high half dimension % 8 >= 4
 *   values of 8 bits  [position / 16][block][dimension / 16][position % 16 / 4][dimension % 16][position % 4]
 *   values of 4 bits  [position / 16][block][position % 16 / 4][dimension % 16][position % 4]
 *                     in the high half dimension >= 16
 *   scales            [position / 16][block][position % 16], fp16
 *
 * Codes of 8 bits are int8 in [-127, 127]; those of 4 bits are v + 8, v in
 * [-8, 7]. Positions are rounded up to whole groups. */
#ifndef MB_KERNELS_KV_LAYOUT_H
#define MB_KERNELS_KV_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MB_KV_BLOCK 32 /* dimensions with one scale, of keys, values and queries */
#define MB_KV_GROUP 16 /* positions that lie together */
#define MB_KV_TILE 64  /* positions whose weights have one scale when values are mixed */
#define MB_INT4_ZERO 8 /* the code of 0 */

#define MB_TURN_SCALE 0x1.6a09e6p-3f /* 1 / sqrt(MB_KV_BLOCK): a Hadamard matrix times this is its own inverse */

/* Of a block of a group. */
static inline uint32_t mb_kv_block_bytes(bool int4) { return MB_KV_GROUP * MB_KV_BLOCK / (int4 ? 2 : 1); }

/* The block `block` of the group that `position` is in: its place among all blocks of a KV head with `blocks` each. */
static inline size_t mb_kv_block_at(uint32_t blocks, size_t position, uint32_t block) {
  return position / MB_KV_GROUP * blocks + block;
}

static inline size_t mb_kv_scale_at(uint32_t blocks, size_t position, uint32_t block) {
  return mb_kv_block_at(blocks, position, block) * MB_KV_GROUP + position % MB_KV_GROUP;
}

/* A code's place in a block of a group: a byte, or with 4 bits the half of one from bit `shift` (0 or 4) on. */
typedef struct {
  uint32_t byte, shift;
} mb_kv_place;

/* d: a dimension of the block. */
static inline mb_kv_place mb_kv_key(bool int4, size_t position, uint32_t d) {
  const uint32_t p = (uint32_t)(position % MB_KV_GROUP), quad = int4 ? d / 8 : d / 4;
  return (mb_kv_place){quad * (MB_KV_GROUP * 4) + p * 4 + d % 4, int4 ? d / 4 % 2 * 4 : 0};
}

static inline mb_kv_place mb_kv_value(bool int4, size_t position, uint32_t d) {
  const uint32_t p = (uint32_t)(position % MB_KV_GROUP), quad = int4 ? p / 4 : d / 16 * 4 + p / 4;
  return (mb_kv_place){quad * 64 + d % 16 * 4 + p % 4, int4 ? d / 16 * 4 : 0};
}

/* The number at a place. */
static inline int32_t mb_kv_code(bool int4, const uint8_t *block, mb_kv_place place) {
  return int4 ? (block[place.byte] >> place.shift & 15) - MB_INT4_ZERO : (int8_t)block[place.byte];
}

#endif
