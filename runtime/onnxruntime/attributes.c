#include "onnxruntime/attributes.h"

OrtStatus *onnx_ints(const OrtKernelInfo *info, const char *name, int64_t *values, size_t most, size_t *count) {
  *count = 0;
  OrtStatus *missing = mb_ort->KernelInfoGetAttributeArray_int64(info, name, NULL, count);
  if (missing) {
    mb_ort->ReleaseStatus(missing);
    return mb_ort_fail(ORT_INVALID_GRAPH, "attribute %s (ints) is missing", name);
  }
  if (*count < 1 || *count > most)
    return mb_ort_fail(ORT_INVALID_GRAPH, "attribute %s has %zu numbers: 1 to %zu are possible", name, *count, most);
  return mb_ort->KernelInfoGetAttributeArray_int64(info, name, values, count);
}

int64_t onnx_int(const OrtKernelInfo *info, const char *name, int64_t absent) {
  int64_t value = absent;
  OrtStatus *missing = mb_ort->KernelInfoGetAttribute_int64(info, name, &value);
  if (!missing) return value;
  mb_ort->ReleaseStatus(missing);
  return absent;
}
