/* weights.ptd (or its cache, which has the same structure), mapped read-only and checked. Nothing of the file is
 * trusted: sizes, offsets, names and shapes are compared with the file's real size before anything points at them. */
#ifndef MB_ENGINE_WEIGHTS_H
#define MB_ENGINE_WEIGHTS_H

#include "mobile_bundle/mobile_bundle.h"
#include "packed/formats.h"

typedef struct mb_weights {
  const uint8_t *file;
  uint64_t file_bytes;
  void *area; /* the mapping that holds the file, ours to unmap; NULL for mb_weights_from_memory */
  size_t area_bytes;
  const mb_index_record *records;
  uint32_t count;
  const char *names;
  uint64_t index_begin, index_end; /* where in the file the index lies; blobs are behind it */
  uint32_t index_crc32;
  mb_mapping mapping;
  mb_model_config config;
  const struct mb_weights *cache; /* packed forms of stored tensors, looked up first (weights_cache.h); NULL: none */
} mb_weights;

mb_status mb_weights_open(const char *path, mb_mapping mapping, mb_weights *weights);
/* The same checks on bytes that the caller keeps; `check_crc` false is for fuzzing, which would never get past it. */
mb_status mb_weights_from_memory(const void *bytes, uint64_t size, bool check_crc, mb_weights *weights);
void mb_weights_close(mb_weights *weights);

/* The tensor of that name, checked against its blob. MB_ERROR_FORMAT with a message that names it when it is missing or
 * when its shape is not rows x columns. */
mb_status mb_weights_matrix(const mb_weights *weights, const char *name, uint32_t rows, uint32_t columns,
                            mb_matrix *matrix);
/* With MB_MAPPING_LAYERS, gives back every page of the file and of its cache; what is used again comes back by itself.
 * To be called while many tensors are looked at: the kernel may map 2 MiB around each single byte that is read. */
void mb_weights_release(const mb_weights *weights);
bool mb_weights_has(const mb_weights *weights, const char *name);
/* Bytes of a tensor's blob, the packed one where the tensor is in the cache; 0 when there is none of that name. */
uint64_t mb_weights_bytes(const mb_weights *weights, const char *name);
/* The entry of that name in this file alone; NULL: none. */
const mb_index_record *mb_weights_find(const mb_weights *weights, const char *name, size_t name_bytes);
/* The entries in the order of the file, malloc'd, with a NULL behind the last. */
mb_status mb_weights_in_order(const mb_weights *weights, const mb_index_record ***order);

#endif
