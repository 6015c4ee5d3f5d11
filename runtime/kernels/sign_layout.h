/* How the decoding kernels multiply by MB_FORMAT_SIGN1: they look sums up.
 *
 * Four activations x0..x3 and a nibble of bits b0..b3 give V = sum over j of max(bj ? xj : -xj, 0), at most 4 * 127, so
 * the sum of the activations with their signs is S = 2 * V - sum of |xj|. V is held as two digits in bytes,
 * V = MB_SIGN_BASE * high + low. The digits of a pair of activations, V at most 254, are at most 15, those of two pairs
 * are added without a carry: at most 30. So MB_SIGN_EXACT look-ups add up to 240 in a byte.
 * Tables of a tile of MB_SIGN_TILE columns stay in the first-level cache; every call builds them anew, which costs as
 * much as some 30 rows. The rows' float sums are kept while the tiles pass, MB_SIGN_ROWS of them. */
#ifndef MB_KERNELS_SIGN_LAYOUT_H
#define MB_KERNELS_SIGN_LAYOUT_H

#define MB_SIGN_BASE 16
#define MB_SIGN_EXACT 8
#define MB_SIGN_TILE 2048 /* columns, a multiple of the largest group */
#define MB_SIGN_ROWS 1024

#endif
