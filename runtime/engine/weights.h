/* weights.ptd, mapped read-only and checked. Nothing of the file is trusted: sizes, offsets, names and shapes are
 * compared with the file's real size before anything points at them. */
#ifndef MB_WEIGHTS_H
#define MB_WEIGHTS_H

#include "kernels.h"
#include "mobile_bundle/mobile_bundle.h"

typedef struct {
  const uint8_t *file;
  uint64_t file_bytes;
  void *area; /* the mapping that holds the file, ours to unmap; NULL for mb_weights_from_memory */
  size_t area_bytes;
  const mb_index_record *records;
  uint32_t count;
  const char *names;
  mb_model_config config;
} mb_weights;

mb_status mb_weights_open(const char *path, mb_weights *weights);
/* The same checks on bytes that the caller keeps; `check_crc` false is for fuzzing, which would never get past it. */
mb_status mb_weights_from_memory(const void *bytes, uint64_t size, bool check_crc, mb_weights *weights);
void mb_weights_close(mb_weights *weights);

/* The tensor of that name, checked against its blob. MB_ERROR_FORMAT with a message that names it when it is missing or
 * when its shape is not rows x columns. */
mb_status mb_weights_matrix(const mb_weights *weights, const char *name, uint32_t rows, uint32_t columns,
                            mb_matrix *matrix);
bool mb_weights_has(const mb_weights *weights, const char *name);
/* Bytes of a tensor's blob; 0 when there is none of that name. */
uint64_t mb_weights_bytes(const mb_weights *weights, const char *name);
/* Reads every blob and compares its checksum. */
mb_status mb_weights_verify(const mb_weights *weights);

#endif
