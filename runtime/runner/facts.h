/* What a runner knows of a bundle whose weights another runtime opens: for the decoders of ExecuTorch and ONNX Runtime.
 */
#ifndef MB_RUNNER_FACTS_H
#define MB_RUNNER_FACTS_H

#include "runner/options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  mb_model_config config;
  mb_session_options options;                                   /* every default filled in */
  const char *kernels;                                          /* the engine's, by name */
  uint64_t file_bytes, touched_file_bytes, resident_file_bytes; /* as in mb_memory */
  uint64_t floor_bytes; /* resident before anything of the bundle is loaded: what the program and its libraries take */
} bundle_facts;

/* Opens the bundle's weights, checks and installs them (so that it is seen here how far that is), and closes them. */
mb_status bundle_facts_read(const runner_options *options, bundle_facts *facts);
/* As decoder_memory, for a runtime that uses the engine's own session. */
mb_status bundle_facts_memory(const bundle_facts *facts, uint32_t chunk, mb_memory *memory);

#ifdef __cplusplus
}
#endif

#endif
