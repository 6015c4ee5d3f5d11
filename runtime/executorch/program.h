/* What the delegate in model.pte says of itself: its `processed` bytes. Written by export/executorch.py.
 * Little endian, 16 bytes. The weights are named data of weights.ptd, which is a file of its own. */
#ifndef MB_EXECUTORCH_PROGRAM_H
#define MB_EXECUTORCH_PROGRAM_H

#include <stdint.h>

#define MB_PROGRAM_MAGIC "MBPR"
#define MB_PROGRAM_VERSION 1
#define MB_BACKEND_ID "MobileBundleBackend"
#define MB_INDEX_KEY "mobile_bundle.index"

typedef struct {
  char magic[4];        /* "MBPR" */
  uint32_t version;     /* MB_PROGRAM_VERSION */
  uint32_t index_crc32; /* of the weights.ptd that belongs to it (mb_index_header.crc32): another one is refused */
  uint32_t vocabulary;  /* of the logits */
} mb_program;

static_assert(sizeof(mb_program) == 16, "a program is 16 bytes");

#endif
