/* weights.cache (weights_cache.h): where it is, and whether it fits a weights.ptd. install.h makes it. */
#ifndef MB_ENGINE_WEIGHTS_CACHE_H
#define MB_ENGINE_WEIGHTS_CACHE_H

#include "engine/weights.h"
#include "mobile_bundle/weights_cache.h"

enum { MB_PATH_BYTES = 4096 };

/* `bundle`'s weights.ptd, or `bundle` itself where it is a file. */
mb_status mb_weights_path(const char *bundle, char path[MB_PATH_BYTES]);
/* The cache's path: the weights' with .cache for .ptd, in cache_dir unless that is NULL. */
mb_status mb_weights_cache_path(const char *weights_path, const char *cache_dir, char path[MB_PATH_BYTES]);

/* A tensor of weights.ptd that must be decoded before it can be computed with. */
static inline bool mb_is_stored(const mb_index_record *record) { return record->format >= MB_FIRST_STORED_FORMAT; }
uint32_t mb_stored_count(const mb_weights *weights);

mb_cache_identity mb_weights_cache_identity(const mb_weights *weights);
/* Maps a cache if it holds a valid packed blob for every stored tensor of `weights`. Otherwise the message says what is
 * wrong with it. The blobs' checksums are left to mb_weights_cache_verify_file. */
mb_status mb_weights_cache_open(const char *path, const mb_weights *weights, mb_mapping mapping, mb_weights *cache);

#endif
