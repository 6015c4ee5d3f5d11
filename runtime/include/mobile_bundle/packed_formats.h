/* Every packed weight layout, bit by bit. One blob is one tensor: a 64-byte header, then the payload.
 *
 * All numbers are little endian. A blob starts at a multiple of 64 bytes in its file, so a payload does too.
 * A layout never changes under its number: a new layout gets a new number.
 *
 * Vocabulary: a matrix has `rows` outputs and `columns` inputs (y = W x, PyTorch's nn.Linear.weight).
 * A strip is 16 consecutive rows stored interleaved as one sequential stream, so that a kernel computes
 * 16 outputs while it reads memory strictly forwards. Rows are padded to a multiple of 16 and columns to the
 * multiple the format names; what fills the padding is given below and multiplies activations that are zero.
 */
#ifndef MOBILE_BUNDLE_PACKED_FORMATS_H
#define MOBILE_BUNDLE_PACKED_FORMATS_H

#include <stdint.h>

#define MB_BLOB_MAGIC "MBWB"
#define MB_BLOB_VERSION 1
#define MB_BLOB_ALIGNMENT 64
#define MB_STRIP_ROWS 16

typedef enum {
  /* float32, row-major, no padding. Norms, biases, rotary frequencies: rows = 1. */
  MB_FORMAT_F32 = 1,

  /* bfloat16, row-major, no padding: the uncompressed baseline. */
  MB_FORMAT_BF16 = 2,

  /* T2-R16, ternary, 2 bits per weight. w = s * (code - 1), code in {0, 1, 2}.
   * Strips in order. A strip is one 64-byte block per 16 columns b = 0, 1, ...:
   *   byte 4*r + k (r = row of the strip 0..15, k = 0..3), bits 2f..2f+1 (f = 0..3): code of column 16*b + 4*f + k.
   * Columns are padded to a multiple of 16 and rows to 16 with code 1 (weight 0).
   * s is the header's `scale`; with MB_FLAG_ROW_SCALES it is instead float32 row_scales[padded rows], which follow
   * the last strip (0 for padding rows). */
  MB_FORMAT_TERNARY2 = 3,

  /* Affine, 2/3/4/8 bits, one fp16 scale d per row and group of G columns (G = 32, 64 or 128).
   * Symmetric (no flag):         w = scale * d * (code - 2^(bits-1)); for 8 bits w = scale * d * code
   * MB_FLAG_ASYMMETRIC:          w = scale * (d * code + m)           (m: one fp16 offset per row and group)
   * `scale` is the header's, a power of two, so that small weights do not fall into fp16's subnormals.
   * Columns are padded to a multiple of G, rows to 16; padding has code 0, and d = m = 0 for padding rows.
   * Strips in order; a strip is one record per group of columns g = 0, 1, ...:
   *   16 fp16 d (row 0..15 of the strip); with MB_FLAG_ASYMMETRIC 16 fp16 m; then the codes of the group's G columns:
   * 2 bits: per 16 columns 64 bytes: byte 4*r + k, bits 2f..2f+1: column 4*f + k of the 16 (f = 0..3), as T2-R16.
   * 3 bits: per 32 columns 192 bytes: 64 bytes with the low two bits of columns 0..15 (laid out as 2 bits),
   *         64 bytes with those of columns 16..31, then 64 bytes of high bits: byte 4*r + k, bit j: bit 2 of the code
   *         of column 4*j + k of the 32 (j = 0..7).
   * 4 bits: per 8 columns 64 bytes: byte 4*r + k, low nibble: column k, high nibble: column 4 + k of the 8.
   * 8 bits: per 4 columns 64 bytes: byte 4*r + k: int8 code of column k, in [-127, 127] (both with and without
   *         offsets), so that the product with an int8 activation pair fits in 16 bits. */
  MB_FORMAT_AFFINE2 = 4,
  MB_FORMAT_AFFINE3 = 5,
  MB_FORMAT_AFFINE4 = 6,
  MB_FORMAT_AFFINE8 = 7,
} mb_format;

#define MB_FLAG_ASYMMETRIC 1u /* affine: fp16 offsets are stored */
#define MB_FLAG_ROW_SCALES 2u /* ternary: float32 scale per row at the end of the payload */

typedef struct {
  char magic[4];          /* "MBWB" */
  uint16_t version;       /* MB_BLOB_VERSION */
  uint16_t format;        /* mb_format */
  uint32_t rows;          /* logical, without padding; at least 1 */
  uint32_t columns;       /* logical, without padding; at least 1 */
  uint32_t group;         /* affine: 32, 64 or 128; otherwise 0 */
  uint32_t flags;         /* MB_FLAG_*; others must be 0 */
  float scale;            /* see the format; 1 where it has none. Finite. */
  uint32_t reserved0;     /* 0 */
  uint64_t payload_bytes; /* exactly what format, shape, group and flags ask for */
  uint8_t reserved1[24];  /* 0 */
} mb_blob_header;

_Static_assert(sizeof(mb_blob_header) == 64, "the blob header is 64 bytes");

#endif
