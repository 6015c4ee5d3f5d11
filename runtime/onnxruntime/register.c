/* What ONNX Runtime calls when it has loaded this library, the library's only export. */
#include <pthread.h>

#include "onnxruntime/operators.h"

#define EXPORT __attribute__((visibility("default")))

/* Made once and never released: every session that was opened with it points at it. */
static OrtCustomOpDomain *domain;

static OrtStatus *make_domain(const OrtApi *api) {
  OrtCustomOpDomain *made;
  mb_ort = api;
  MB_ORT_TRY(api->CreateCustomOpDomain("mobile_bundle", &made));
  OrtStatus *status = api->CustomOpDomain_Add(made, &mb_compressed_matmul);
  if (!status) status = api->CustomOpDomain_Add(made, &mb_compressed_gather);
  if (status) {
    api->ReleaseCustomOpDomain(made);
    return status;
  }
  domain = made;
  return NULL;
}

EXPORT OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

EXPORT OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  const OrtApi *api = base->GetApi(ORT_API_VERSION);
  if (!api) /* the first version of the interface, which every runtime has, can say so */
    return base->GetApi(1)->CreateStatus(ORT_FAIL, "libmobile_bundle_onnx.so needs ONNX Runtime 1.21 or later");
  pthread_mutex_lock(&lock);
  OrtStatus *status = domain ? NULL : make_domain(api);
  pthread_mutex_unlock(&lock);
  return status ? status : api->AddCustomOpDomain(options, domain);
}
