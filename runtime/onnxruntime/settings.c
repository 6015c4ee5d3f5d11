#include "onnxruntime/settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The entry's value as text; value stays as it is where there is no such entry. */
static OrtStatus *read_text(const OrtSessionOptions *options, const char *key, char *value, size_t capacity) {
  int found = 0;
  size_t size = 0;
  MB_ORT_TRY(mb_ort->HasSessionConfigEntry(options, key, &found));
  if (!found) return NULL;
  MB_ORT_TRY(mb_ort->GetSessionConfigEntry(options, key, NULL, &size));
  if (size > capacity) return mb_ort_fail(ORT_INVALID_ARGUMENT, "%s is too long: %zu bytes at most", key, capacity - 1);
  return mb_ort->GetSessionConfigEntry(options, key, value, &size);
}

static OrtStatus *read_number(const OrtSessionOptions *options, const char *key, uint32_t *value) {
  char text[24] = "", *end;
  MB_ORT_TRY(read_text(options, key, text, sizeof text));
  if (!text[0]) return NULL;
  errno = 0;
  const unsigned long long number = strtoull(text, &end, 10);
  if (text[0] < '0' || text[0] > '9' || *end || errno || number == 0 || number > UINT32_MAX)
    return mb_ort_fail(ORT_INVALID_ARGUMENT, "%s must be a whole number above 0, not %s", key, text);
  *value = (uint32_t)number;
  return NULL;
}

static OrtStatus *read_choice(const OrtSessionOptions *options, const char *key, const char *const *names, size_t count,
                              unsigned *value) {
  char text[SETTING_NAME_BYTES] = "", known[128] = "";
  MB_ORT_TRY(read_text(options, key, text, sizeof text));
  if (!text[0]) return NULL;
  for (unsigned i = 0; i < count; i++) {
    if (strcmp(text, names[i]) == 0) {
      *value = i;
      return NULL;
    }
    strcat(strcat(known, i ? ", " : ""), names[i]);
  }
  return mb_ort_fail(ORT_INVALID_ARGUMENT, "%s is one of %s, not %s", key, known, text);
}

OrtStatus *onnx_settings_read(const OrtSessionOptions *options, onnx_settings *settings) {
  static const char *const kv_types[] = {
      [MB_KV_INT8] = "int8", [MB_KV_F16] = "f16", [MB_KV_INT4] = "int4", [MB_KV_K8V4] = "k8v4"};
  static const char *const mappings[] = {[MB_MAPPING_WHOLE] = "whole", [MB_MAPPING_LAYERS] = "layers"};
  unsigned kv_type = MB_KV_INT8, mapping = MB_MAPPING_WHOLE;
  memset(settings, 0, sizeof *settings);
  MB_ORT_TRY(read_number(options, "mobile_bundle.threads", &settings->threads));
  MB_ORT_TRY(read_number(options, "mobile_bundle.context", &settings->context));
  MB_ORT_TRY(read_number(options, "mobile_bundle.prefill_chunk", &settings->prefill_chunk));
  MB_ORT_TRY(read_choice(options, "mobile_bundle.kv_type", kv_types, sizeof kv_types / sizeof *kv_types, &kv_type));
  MB_ORT_TRY(read_choice(options, "mobile_bundle.mapping", mappings, sizeof mappings / sizeof *mappings, &mapping));
  MB_ORT_TRY(read_text(options, "mobile_bundle.kernels", settings->kernels, sizeof settings->kernels));
  settings->kv_type = (mb_kv_type)kv_type;
  settings->mapping = (mb_mapping)mapping;
  return read_text(options, "mobile_bundle.cache_dir", settings->cache_dir, sizeof settings->cache_dir);
}
