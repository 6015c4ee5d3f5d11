/* What a program asks of the decoder in the session's options: config entries named `mobile_bundle.*`, set before it
 * registers the operator library. */
#ifndef MB_ONNXRUNTIME_SETTINGS_H
#define MB_ONNXRUNTIME_SETTINGS_H

#include "mobile_bundle/mobile_bundle.h"
#include "onnxruntime/status.h"

enum { SETTING_PATH_BYTES = 4096, SETTING_NAME_BYTES = 32 };

/* No pointers in it, and no padding that was not cleared: two of them are compared as bytes. */
typedef struct {
  uint32_t threads, context, prefill_chunk; /* 0: the engine's own choice, as in mb_session_options */
  mb_kv_type kv_type;
  mb_mapping mapping;
  char kernels[SETTING_NAME_BYTES];   /* "": the best for this processor */
  char cache_dir[SETTING_PATH_BYTES]; /* "": the environment's MOBILE_BUNDLE_CACHE_DIR, if set */
} onnx_settings;

/* ORT_INVALID_ARGUMENT, with the entry's name, for a value that it cannot have. */
OrtStatus *onnx_settings_read(const OrtSessionOptions *options, onnx_settings *settings);

#endif
