/* How the decoding kernels hold the sum of a group's activations, |S| <= 3 * 127: as two signed digits in bytes,
 * S = BASE * high + low, low in [-16, 15], high in [-12, 12], which have tables of their own. The digits of the eight
 * groups of a block are added as bytes: 8 * -16 and 8 * -13 fit in eight bits. A group is negated by complementing its
 * digits, BASE * ~high + ~low = -S - CORRECTION, so a row's total lacks CORRECTION for each negated group: that is what
 * the strip's negation counts are for. EXACT_BLOCKS blocks of eight such values, at most 3 * 127 + 33, fit in 16 bits.
 * The counts of a file are taken on trust: wrong ones give wrong sums, nothing worse.
 * (The sum's low and high byte would need interleaving before they can be added: a quarter more instructions.) */
#ifndef MB_KERNELS_SPARSE_DIGITS_H
#define MB_KERNELS_SPARSE_DIGITS_H

#define MB_SPARSE_BASE_BITS 5
#define MB_SPARSE_BASE (1 << MB_SPARSE_BASE_BITS)
#define MB_SPARSE_CORRECTION (MB_SPARSE_BASE + 1)
#define MB_SPARSE_EXACT_BLOCKS 9

#endif
