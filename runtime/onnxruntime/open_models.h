/* The weights.ptd files that kernels of this process use: each is opened once, whoever needs it. That gives every
 * kernel what the engine has: one mapping with huge pages, the cache of stored forms, shared codebooks. */
#ifndef MB_ONNXRUNTIME_OPEN_MODELS_H
#define MB_ONNXRUNTIME_OPEN_MODELS_H

#include "mobile_bundle/mobile_bundle.h"

/* The model of the weights.ptd at `path`, opened if it is not yet; MB_ERROR_FORMAT and others as mb_model_open. Each
 * model that was acquired must be released once. The folder of its cache is the environment's MOBILE_BUNDLE_CACHE_DIR,
 * if set. */
mb_status open_models_acquire(const char *path, const mb_model **model);
void open_models_release(const mb_model *model);

#endif
