/* The payload of MB_FORMAT_LATTICE (Hyper-Compression), 6.5 bits per weight, and its decode formula.
 *
 * Two neighbouring weights of a row are a point of the plane. A line that winds around a square, with a slope of
 * MB_LATTICE_TURNS, is cut by MB_LATTICE_NODES equal steps: node n lies at (n / 1600, n / 40 mod 1) of the square, half
 * a step off its border, so the nodes in their order along the line are a sheared lattice of 40 x 40. Points outside of
 * the square are drawn in towards its centre by one of four factors (class k). A pair is
 *     index = n + 1601 * k,  n 0..1599 on the line, or n = 1600: the centre itself;  k 0..3.
 * Payload: the head, then the indices of 13 bits, row by row, (columns + 1) / 2 a row, one behind the other: index i at
 * bits 13 * i.. (bit 0 is the lowest of byte 0), the bits behind the last are 0.
 *     w[2 * j] = (float)X * step[k] + centre[0],  w[2 * j + 1] = (float)Y * step[k] + centre[1]
 *     X = 2 * n - 1599, Y = 40 * (2 * (n % 40) - 39);  X = Y = 0 for n = 1600
 * in float32, the product rounded before the sum. The second value of an odd row's last pair is dropped. */
#ifndef MB_STORAGE_LATTICE_H
#define MB_STORAGE_LATTICE_H

#include "mobile_bundle/packed_formats.h"

#define MB_LATTICE_NODES 1600
#define MB_LATTICE_TURNS 40
#define MB_LATTICE_CLASSES 4
#define MB_LATTICE_BITS 13

typedef struct {
  float centre[2];
  float step[MB_LATTICE_CLASSES]; /* side of the square of class k / 3200 */
  uint8_t reserved[40];           /* 0 */
} mb_lattice_head;

_Static_assert(sizeof(mb_lattice_head) == MB_LATTICE_HEAD, "the lattice's head is 64 bytes");

#endif
