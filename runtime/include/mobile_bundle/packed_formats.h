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

#include <assert.h>
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

  /* Affine, 2 to 6 or 8 bits, one scale d per row and group of G columns (G = 32, 64 or 128).
   * Symmetric (no flag):         w = scale * d * (code - 2^(bits-1)); for 8 bits w = scale * d * code     (d: fp16)
   * MB_FLAG_ASYMMETRIC:          w = scale * (d * code + m)                   (d, m: fp16, per row and group)
   * MB_FLAG_ASYMMETRIC | MB_FLAG_E4M4, 3 to 6 bits:
   *                              w = scale * d * (code - z / 2^(8-bits))      (d, z: a byte each; d as below, z whole)
   * A scale of one byte is the fp16 whose bits are that byte times 2^6 (bits 0-3 of the byte the mantissa, 4-7 the
   * exponent, no sign): 0 to 1.9375, in steps of 2^-18 below 2^-14.
   * `scale` is the header's, a power of two, so that small weights do not fall into fp16's subnormals.
   * Columns are padded to a multiple of G, rows to 16; padding has code 0, and d = m = z = 0 for padding rows. Where d
   * is 0, so is z.
   * Strips in order; a strip is one record per group of columns g = 0, 1, ...:
   *   16 d (row 0..15 of the strip); with MB_FLAG_ASYMMETRIC 16 m or z; then the codes of the group's G columns:
   * 2 bits: per 16 columns 64 bytes: byte 4*r + k, bits 2f..2f+1: column 4*f + k of the 16 (f = 0..3), as T2-R16.
   * 3 bits: per 32 columns 192 bytes: 64 bytes with the low two bits of columns 0..15 (laid out as 2 bits),
   *         64 bytes with those of columns 16..31, then 64 bytes of high bits: byte 4*r + k, bit j: bit 2 of the code
   *         of column 4*j + k of the 32 (j = 0..7).
   * 4 bits: per 8 columns 64 bytes: byte 4*r + k, low nibble: column k, high nibble: column 4 + k of the 8.
   * 5 bits: per 32 columns 320 bytes: 256 bytes with code / 2 of the 32 columns (laid out as 4 bits), then 64 bytes of
   *         low bits: byte 4*r + k, bit j: bit 0 of the code of column 4*j + k of the 32 (j = 0..7).
   * 6 bits: per 16 columns 192 bytes: 128 bytes with code / 4 of the 16 columns (laid out as 4 bits), then 64 bytes
   *         with code % 4 (laid out as 2 bits).
   * 8 bits: per 4 columns 64 bytes: byte 4*r + k: int8 code of column k, in [-127, 127] (both with and without
   *         offsets), so that the product with an int8 activation pair fits in 16 bits. */
  MB_FORMAT_AFFINE2 = 4,
  MB_FORMAT_AFFINE3 = 5,
  MB_FORMAT_AFFINE4 = 6,
  MB_FORMAT_AFFINE8 = 7,
  /* MB_FORMAT_AFFINE5 = 11 and MB_FORMAT_AFFINE6 = 12, below, are of the same kind. */

  /* S4-R32, ternary with one zero in every four columns (Sherry), 1.25 bits per weight. w = s * t, t in {-1, 0, 1}.
   * Columns are padded to a multiple of 32 and rows to 32. Tiles of MB_SPARSE_TILE columns (the last may be narrower)
   * in order; in a tile, strips of 32 rows in order; a strip is
   *   32 int32 negation counts, row 0..31 of the strip: how many of the row's groups in this tile are negated;
   *   per 32 columns one block of 160 bytes: 4 x 32 index bytes, byte 32*u + r: low nibble group 2u, high nibble group
   *   2u + 1 of row r (a group is 4 columns, so a block has groups 0..7); then 32 sign bytes: byte r, bit 7 - g negates
   *   group g of row r.
   * Nibble: bits 0-1 position of the zero; bit 2: the second non-zero has the opposite sign of the first, bit 3: the
   * third has. The first non-zero is +1, -1 where the group is negated. Padding columns and rows hold nibble 0, sign 0:
   * their activations are zero, their outputs are not written.
   * s as in MB_FORMAT_TERNARY2, float32 row_scales[rows padded to 32] after the last strip with MB_FLAG_ROW_SCALES. */
  MB_FORMAT_SPARSE_TERNARY = 8,

  /* Vector quantisation (VPTQ): `v` neighbouring columns of a row are one entry of a codebook of int8 vectors, perhaps
   * plus one of a second (residual) codebook.
   *   w[r][c] = scale * (d[r] * (float)q),  q = (int8)(C[i][c % v] + R[j][c % v] + o), i = index[r][c / v], and so j;
   *   the sum wraps around at 8 bits; writers keep it in [-127, 127]. o: 0 but in outlier columns.
   * What varies is in `flags`: MB_VECTOR_LENGTH v 4..12, MB_VECTOR_INDEX_BITS b 8..16, MB_VECTOR_RESIDUAL_BITS e 0
   * (none) or 8..16, MB_VECTOR_OUTLIERS n, MB_FLAG_SHARED_CODEBOOK. `group` is the activations': 128 if v is 4 or 8,
   * else 0 (one scale per vector of activations).
   * A codebook entry has s bytes, s = 4 for v = 4, 8 for v <= 8, else 16; the bytes behind v are 0.
   * Sections in this order, each at a multiple of 64 bytes from the start of the payload, gaps zero:
   *   codebooks: C, 2^b entries, then R, 2^e entries if e > 0. With MB_FLAG_SHARED_CODEBOOK this section is empty and
   *     both are rows of the INT8 tensor "shared.v<v>.b<b>.r<e>." + the tensor's name without its "layers.N.";
   *   row scales: fp16 d[rows];
   *   outliers: uint32 column[n], ascending and below `columns`, then int8 o[rows][n];
   *   indices: per row ceil(ceil(columns / v) * b / 8) bytes, vector k at bits k*b.. (bit 0 is the lowest of byte 0);
   *   residual indices: likewise with e bits, if e > 0;
   *   16 zero bytes directly behind the last index, so that a register may be loaded from any of them.
   * Columns that fill up the last vector have activations of zero. Nothing pads rows. */
  MB_FORMAT_VECTOR = 9,

  /* int8, row-major, no padding: shared codebooks. Not a matrix to multiply by. */
  MB_FORMAT_INT8 = 10,

  /* Affine with 5 and 6 bits: see MB_FORMAT_AFFINE2. */
  MB_FORMAT_AFFINE5 = 11,
  MB_FORMAT_AFFINE6 = 12,

  /* Signs, one bit per weight: w = scale * d * (bit ? 1 : -1), one fp16 scale d per row and group of G columns (G = 32,
   * 64 or 128). `scale`, padding and records as in the symmetric affine formats (no flags): 16 fp16 d, then the bits of
   * the group's G columns: per 8 columns 16 bytes: byte r, bit c: column c of the 8, of row r. */
  MB_FORMAT_SIGN1 = 13,

  /* Trellis codes of 2, 2.5 and 3 bits, one scale d per row and group of G columns (G = 32, 64 or 128; with 2.5 bits
   * 64 or 128). d is fp16, or with MB_FLAG_E4M4 a byte (MB_FORMAT_AFFINE2). Other flags: none.
   *   w = scale * d * (T[window] - 16): `window`, 4 bits, are a weight's own bits and some of those before it.
   * Records, `scale` and padding as in the symmetric affine formats: 16 d, then the bits of the group's G columns;
   * but columns that fill up the last 16 may have any bits, and so may those of a row whose d is 0.
   * 2 bits: laid out as AFFINE2, so that the 16 columns of a row are one 32-bit word, with column 4*f + k at the pair
   * of bits i = 4*k + f, its upper bit u[i]; the pair before the first is the last one.
   *   window: bit 0 u[i-2] xor u[i-3], bit 1 u[i-1], bits 2-3 pair i.
   *   T = 4 11 13 8 15 19 22 17 10 15 17 13 19 24 28 21
   * 3 bits: laid out as AFFINE3: pairs as with 2 bits, and a plane of one bit more for every column, which is bit 1 of
   * the window instead of u[i-1].
   *   T = 3 7 16 18 12 14 21 23 9 11 18 20 14 16 25 29
   * 2.5 bits: per 64 columns four words of pairs, as with 2 bits, in 256 bytes, then 64 bytes with one bit more for
   * every column with an even f: byte 4*r + k, bit 2*b + f/2: column 16*b + 4*f + k, of row r. Windows with an even f
   * are as with 3 bits, those with an odd f as with 2 bits.
   *   Even f: T = 1 7 16 19 10 13 22 26 6 10 19 22 13 16 25 31
   *   Odd f:  T = 1 8 5 12 15 20 17 22 10 15 12 17 20 26 24 31 */
  MB_FORMAT_TRELLIS2 = 16,
  MB_FORMAT_TRELLIS3 = 17,
  MB_FORMAT_TRELLIS25 = 18,

  /* ---- Stored forms: decoded once, at install, into a packed form above (runtime/storage/). ---- */

  /* Base 3, ternary, 1.6 bits per weight -> MB_FORMAT_TERNARY2 with the same scale and flags.
   * Per row ceil(columns / 5) bytes: sum over i of code[5*k + i] * 3^i, code = t + 1; padding code 1.
   * With MB_FLAG_ROW_SCALES float32 row_scales[rows] follow at the next multiple of 4 bytes. */
  MB_FORMAT_BASE3 = 32,

  /* SeedLM -> MB_FORMAT_AFFINE8 of group 32, symmetric. `group` is the block: 8 weights of a row with 3 coefficients
   * (4 bits per weight), or 12 with 4 (3 bits per weight). A row has B = ceil(columns / group) blocks; the weights that
   * fill up the last are dropped. N = rows * B blocks, row by row.
   *   uint16 seed[N], each 1..65535; then a stream of nibbles, low nibble of a byte first: per block the exponent e + 8
   *   and the coefficients q[p] + 8, all in 0..15; an odd last nibble is followed by a zero one.
   *   w[i] = (float)S * (scale * 2^e),  S = sum over p of (V[i * P + p] - 32768) * q[p]
   *   V: the next states of a 16-bit LFSR after `seed`: bit = parity(state & 0x100B); state = state >> 1 | bit << 15.
   */
  MB_FORMAT_SEEDLM = 33,

  /* Hyper-Compression's lattice, 6.5 bits per weight -> MB_FORMAT_AFFINE8 of group 32, symmetric. See lattice.h. */
  MB_FORMAT_LATTICE = 34,

  /* Entropy coding of a packed blob (formats below 32) -> that blob, bit for bit. payload_bytes is free. See entropy.h.
   */
  MB_FORMAT_ENTROPY = 35,
} mb_format;

#define MB_FIRST_WITHDRAWN_FORMAT 14 /* trellis codes of four and two states, */
#define MB_LAST_WITHDRAWN_FORMAT 15  /* which earlier versions wrote: readers refuse them */
#define MB_FIRST_STORED_FORMAT 32    /* from here on a blob must be installed before it can be computed with */

#define MB_FLAG_ASYMMETRIC 1u      /* affine: offsets, or with MB_FLAG_E4M4 zero points, are stored */
#define MB_FLAG_ROW_SCALES 2u      /* ternary: float32 scale per row at the end of the payload */
#define MB_FLAG_SHARED_CODEBOOK 4u /* vector: the codebooks are another tensor */
#define MB_FLAG_E4M4 8u            /* affine and trellis: scales and zero points are bytes */
#define MB_E4M4_SHIFT 6            /* such a byte shifted left by this are the bits of an fp16 */
#define MB_VECTOR_LENGTH(flags) ((flags) >> 4 & 15u)
#define MB_VECTOR_INDEX_BITS(flags) ((flags) >> 8 & 31u)
#define MB_VECTOR_RESIDUAL_BITS(flags) ((flags) >> 13 & 31u)
#define MB_VECTOR_OUTLIERS(flags) ((flags) >> 18)
#define MB_LATTICE_HEAD 64 /* bytes before the indices of MB_FORMAT_LATTICE */
#define MB_SPARSE_STRIP_ROWS 32
#define MB_SPARSE_TILE 1600

typedef struct {
  char magic[4];          /* "MBWB" */
  uint16_t version;       /* MB_BLOB_VERSION */
  uint16_t format;        /* mb_format */
  uint32_t rows;          /* logical, without padding; at least 1 */
  uint32_t columns;       /* logical, without padding; at least 1 */
  uint32_t group;         /* affine, signs, trellis: 32, 64 or 128; vector: 128 or 0; SeedLM: 8 or 12; otherwise 0 */
  uint32_t flags;         /* MB_FLAG_*; others must be 0 */
  float scale;            /* see the format; 1 where it has none. Finite. */
  uint32_t reserved0;     /* 0 */
  uint64_t payload_bytes; /* exactly what format, shape, group and flags ask for (but for MB_FORMAT_ENTROPY) */
  uint8_t reserved1[24];  /* 0 */
} mb_blob_header;

static_assert(sizeof(mb_blob_header) == 64, "the blob header is 64 bytes");

#endif
