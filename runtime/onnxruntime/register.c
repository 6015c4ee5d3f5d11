/* What ONNX Runtime calls when it has loaded this library, the library's only export. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "onnxruntime/decoder.h"

#define EXPORT __attribute__((visibility("default")))

/* A domain with the decoder for sessions of these settings. It is never released: every session that was opened with it
 * points at it. Sessions of the same settings share one. */
typedef struct registration {
  struct registration *next;
  OrtCustomOpDomain *domain;
  onnx_decoder_operator decoder;
} registration;

static registration *registrations;

static OrtStatus *make_domain(registration *made) {
  MB_ORT_TRY(mb_ort->CreateCustomOpDomain("mobile_bundle", &made->domain));
  OrtStatus *status = mb_ort->CustomOpDomain_Add(made->domain, &made->decoder.op);
  if (!status) status = mb_ort->CustomOpDomain_Add(made->domain, &mb_compressed_matmul);
  if (!status) status = mb_ort->CustomOpDomain_Add(made->domain, &mb_compressed_gather);
  if (status) mb_ort->ReleaseCustomOpDomain(made->domain);
  return status;
}

static OrtStatus *find_domain(const OrtSessionOptions *options, OrtCustomOpDomain **domain) {
  onnx_settings settings;
  MB_ORT_TRY(onnx_settings_read(options, &settings));
  registration *found = registrations;
  while (found && memcmp(&found->decoder.settings, &settings, sizeof settings) != 0) found = found->next;
  if (!found) {
    found = calloc(1, sizeof *found);
    if (!found) return mb_ort_fail(ORT_FAIL, "no memory to register the operators");
    onnx_decoder_operator_make(&settings, &found->decoder);
    OrtStatus *status = make_domain(found);
    if (status) {
      free(found);
      return status;
    }
    found->next = registrations;
    registrations = found;
  }
  *domain = found->domain;
  return NULL;
}

EXPORT OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

EXPORT OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  const OrtApi *api = base->GetApi(ORT_API_VERSION);
  if (!api) /* the first version of the interface, which every runtime has, can say so */
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "libmobile_bundle_onnx.so needs ONNX Runtime 1.21 or later");
  OrtCustomOpDomain *domain = NULL;
  pthread_mutex_lock(&lock);
  mb_ort = api;
  OrtStatus *status = find_domain(options, &domain);
  pthread_mutex_unlock(&lock);
  return status ? status : api->AddCustomOpDomain(options, domain);
}
