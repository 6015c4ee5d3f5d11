/* Rows of float32 to an AFFINE8 blob of group 32, symmetric: what stored forms become whose values are no small set.
 * The result is, byte for byte, what codecs/affine.py makes of the same values. */
#ifndef MB_STORAGE_AFFINE8_WRITER_H
#define MB_STORAGE_AFFINE8_WRITER_H

#include "storage/storage.h"

#define MB_AFFINE8_GROUP 32
#define MB_AFFINE8_TILE 1152 /* columns that are read at once: 36 groups, and a multiple of 2, 8 and 12 */

/* Values of `row` at columns column..column + count - 1; column is a multiple of MB_AFFINE8_TILE, count at most that.
 * false: the stored bytes are damaged. A row is read twice, the second time with its strip. */
typedef bool (*mb_tile_reader)(const void *context, uint32_t row, uint32_t column, uint32_t count, float *out);

size_t mb_affine8_scratch_bytes(void);
/* Writes the blob of plan->target, its scale computed here. false and a reason (NULL where the sink stopped it) for
 * damaged bytes, or values that are not finite. */
bool mb_affine8_write(const mb_storage_plan *plan, mb_tile_reader reader, const void *stored, void *scratch,
                      mb_sink sink, void *context, const char **reason);

#endif
