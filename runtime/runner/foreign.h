/* What the decoders of ExecuTorch and ONNX Runtime share: what is known of a bundle whose weights the other runtime
 * opens, and feeding it in chunks.
 *
 * foreign.c is linked into their runners and implements of decoder.h: decoder_config, decoder_kernels, decoder_options,
 * decoder_position, decoder_rewind_point, decoder_rewind, decoder_remove, decoder_can_remove, decoder_feed and the
 * functions of states. The rest, and the two functions at the end, is the runtime's own.
 */
#ifndef MB_RUNNER_FOREIGN_H
#define MB_RUNNER_FOREIGN_H

#include "runner/decoder.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  mb_model_config config;
  mb_session_options options;                                   /* every default filled in */
  const char *kernels;                                          /* the engine's, by name */
  uint64_t file_bytes, touched_file_bytes, resident_file_bytes; /* as in mb_memory */
  uint64_t floor_bytes; /* resident before anything of the bundle is loaded: what the program and its libraries take */
  uint32_t position;    /* tokens that the runtime's KV cache holds */
  uint32_t written;     /* one behind the last position that was written to it since position 0 */
  bool keeps_all;       /* layers with a window keep all positions, unlike the engine's */
} foreign_bundle;

/* Opens the bundle's weights, checks and installs them (here, so that progress is reported), and closes them. */
mb_status foreign_open(const runner_options *options, foreign_bundle *bundle);
/* As decoder_memory, for a runtime that uses the engine's own session. */
mb_status foreign_memory(const foreign_bundle *bundle, uint32_t chunk, uint32_t positions, mb_memory *memory);

/* The decoder's own. */
foreign_bundle *foreign_bundle_of(const decoder *decoder);
/* Computes the `count` tokens, prefill_chunk at most, that stand at bundle->position, which it does not move. All of
 * them are in the vocabulary, and fit the context. *logits: float[vocabulary] of the last one, valid until the next
 * call. */
mb_status foreign_compute(decoder *decoder, const int32_t *tokens, uint32_t count, const float **logits);

#ifdef __cplusplus
}
#endif

#endif
