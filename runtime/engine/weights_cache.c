#include "engine/weights_cache.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"

static mb_status printed(int length) {
  return length >= 0 && length < MB_PATH_BYTES ? MB_OK : mb_fail(MB_ERROR_ARGUMENT, "the bundle's path is too long");
}

mb_status mb_weights_path(const char *bundle, char path[MB_PATH_BYTES]) {
  struct stat st;
  if (stat(bundle, &st) != 0) return mb_fail(MB_ERROR_IO, "%s: no such bundle", bundle);
  return printed(snprintf(path, MB_PATH_BYTES, S_ISDIR(st.st_mode) ? "%s/weights.ptd" : "%s", bundle));
}

mb_status mb_weights_cache_path(const char *weights_path, const char *cache_dir, char path[MB_PATH_BYTES]) {
  const char *slash = strrchr(weights_path, '/');
  const char *name = cache_dir && slash ? slash + 1 : weights_path;
  size_t bytes = strlen(name);
  if (bytes > 4 && strcmp(name + bytes - 4, ".ptd") == 0) bytes -= 4;
  return printed(snprintf(path, MB_PATH_BYTES, "%s%s%.*s.cache", cache_dir ? cache_dir : "", cache_dir ? "/" : "",
                          (int)bytes, name));
}

uint32_t mb_stored_count(const mb_weights *weights) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < weights->count; i++) count += mb_is_stored(&weights->records[i]);
  return count;
}

mb_cache_identity mb_weights_cache_identity(const mb_weights *weights) {
  mb_cache_identity identity = {
      .version = MB_CACHE_VERSION, .source_crc32 = weights->index_crc32, .source_bytes = weights->file_bytes};
  memcpy(identity.magic, MB_CACHE_MAGIC, sizeof identity.magic);
  return identity;
}

/* NULL, or why the cache does not fit. */
static const char *mismatch(const mb_weights *weights, const mb_weights *cache) {
  const mb_cache_identity identity = mb_weights_cache_identity(weights);
  if (cache->file_bytes < MB_SEGMENT_ALIGNMENT ||
      memcmp(cache->file + MB_CACHE_IDENTITY_OFFSET, &identity, sizeof identity) != 0)
    return "it was made from another weights.ptd, or by another version";
  if (memcmp(&cache->config, &weights->config, sizeof cache->config) != 0) return "its model is another one";
  if (cache->count != mb_stored_count(weights)) return "it holds other tensors";
  for (uint32_t i = 0; i < weights->count; i++) {
    const mb_index_record *source = &weights->records[i];
    if (!mb_is_stored(source)) continue;
    const mb_index_record *r = mb_weights_find(cache, weights->names + source->name_offset, source->name_bytes);
    if (!r || r->rows != source->rows || r->columns != source->columns) return "it holds other tensors";
    mb_matrix matrix;
    const char *reason;
    if (!mb_matrix_view(cache->file + r->offset, r->bytes, &matrix, &reason)) return reason;
    if (matrix.format != r->format || matrix.rows != r->rows || matrix.columns != r->columns ||
        matrix.group != r->group || matrix.flags != r->flags)
      return "a tensor differs from its index entry";
    mb_weights_release(cache);
  }
  return NULL;
}

mb_status mb_weights_cache_open(const char *path, const mb_weights *weights, mb_mapping mapping, mb_weights *cache) {
  mb_status status = mb_weights_open(path, mapping, cache);
  const char *reason = status == MB_OK ? mismatch(weights, cache) : "it is not there, truncated or damaged";
  if (!reason) return MB_OK;
  mb_weights_close(cache);
  return mb_fail(MB_ERROR_FORMAT, "%s does not fit the bundle (%s): run `mobile-run install`, which makes it again",
                 path, reason);
}
