/* Makes weights.cache: every stored tensor of weights.ptd, decoded once. mb_install is in the public header. */
#ifndef MB_ENGINE_INSTALL_H
#define MB_ENGINE_INSTALL_H

#include "engine/weights_cache.h"

/* Writes the cache of the weights.ptd at `weights_path`, which holds stored tensors, to `cache_path`.
 * result->decoded_bytes and cache_bytes are set. Nothing is left behind where it fails. */
mb_status mb_install_cache(const char *weights_path, const char *cache_path, mb_progress progress, void *context,
                           mb_install_result *result);

#endif
