/* The weights.ptd files that kernels of this process use: each is opened once, whoever needs it. That gives every
 * kernel what the engine has: one mapping with huge pages, the cache of stored forms, shared codebooks. */
#ifndef MB_ONNXRUNTIME_OPEN_MODELS_H
#define MB_ONNXRUNTIME_OPEN_MODELS_H

#include "onnxruntime/settings.h"

/* The model of the weights.ptd at `path`, opened if it is not yet with these settings; MB_ERROR_FORMAT and others as
 * mb_model_open. settings: NULL: all are the engine's own choice. Each model that was acquired must be released once.
 */
mb_status open_models_acquire(const char *path, const onnx_settings *settings, mb_model **model);
void open_models_release(const mb_model *model);

#endif
