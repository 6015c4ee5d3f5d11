/* Where things lie in the KV cache of one KV head whose positions lie in groups: values of 4 bits, keys of 4 or 8.
 *
 * A code is v + 8, v in [-8, 7]. MB_KV_GROUP positions lie together, MB_KV_BLOCK dimensions of theirs after the other:
 * a load meets neighbouring positions, so that a query's sums need no adding up across a register, and one block of the
 * values can be read without the others.
 *   keys    [position / 16][block][dimension / 8][position % 16][dimension % 4], high half: dimension % 8 >= 4
 *   keys of 8 bits, int8: [position / 16][block][dimension / 4][position % 16][dimension % 4]
 *   values  [position / 16][block][position % 16 / 2][dimension % 16][position % 2], high half: dimension >= 16
 *   scales  [position / 16][block][position % 16] fp16
 * A block of a group is 256 bytes, of keys of 8 bits 512, and 16 scales. Positions are rounded up to whole groups. */
#ifndef MB_KERNELS_INT4_LAYOUT_H
#define MB_KERNELS_INT4_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#define MB_KV_BLOCK 32 /* dimensions with one scale, of keys, values and queries, int8 ones too */
#define MB_KV_GROUP 16 /* positions that lie together */
#define MB_KV_TILE 64  /* positions whose weights have one scale when values are mixed */
#define MB_INT4_BLOCK_BYTES (MB_KV_GROUP * MB_KV_BLOCK / 2)
#define MB_INT4_ZERO 8 /* the code of 0 */
#define MB_KEY8_BLOCK_BYTES (MB_KV_GROUP * MB_KV_BLOCK)

/* The block `block` of the group that `position` is in: its place among all blocks of a KV head with `blocks` each. */
static inline size_t mb_int4_block_at(uint32_t blocks, size_t position, uint32_t block) {
  return position / MB_KV_GROUP * blocks + block;
}

static inline size_t mb_int4_scale_at(uint32_t blocks, size_t position, uint32_t block) {
  return mb_int4_block_at(blocks, position, block) * MB_KV_GROUP + position % MB_KV_GROUP;
}

/* Half a byte of a block: `shift` 0 or 4. */
typedef struct {
  uint32_t byte, shift;
} mb_int4_place;

/* d: a dimension of the block. */
static inline mb_int4_place mb_int4_key(size_t position, uint32_t d) {
  const uint32_t p = (uint32_t)(position % MB_KV_GROUP);
  return (mb_int4_place){d / 8 * (MB_KV_GROUP * 4) + p * 4 + d % 4, d / 4 % 2 * 4};
}

static inline mb_int4_place mb_int4_value(size_t position, uint32_t d) {
  const uint32_t p = (uint32_t)(position % MB_KV_GROUP);
  return (mb_int4_place){p / 2 * MB_KV_BLOCK + d % 16 * 2 + p % 2, d / 16 * 4};
}

/* The byte of a block of keys of 8 bits. */
static inline uint32_t mb_key8_byte(size_t position, uint32_t d) {
  return d / 4 * (MB_KV_GROUP * 4) + (uint32_t)(position % MB_KV_GROUP) * 4 + d % 4;
}

static inline int32_t mb_int4_code(const uint8_t *block, mb_int4_place place) {
  return (block[place.byte] >> place.shift & 15) - MB_INT4_ZERO;
}

#endif
