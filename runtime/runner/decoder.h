/* The decoder that a runner drives. Each runner links one implementation of this interface: mobile-run the engine
 * itself (decoder_native.c), mobile-run-executorch model.pte, mobile-run-onnx model.onnx. Everything else (command
 * line, tokenizer, sampler, events, measuring) is the same program, so that what they report can be compared. */
#ifndef MB_RUNNER_DECODER_H
#define MB_RUNNER_DECODER_H

#include "runner/options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct decoder decoder;

/* "native", "executorch" or "onnx", and the name of the program. */
extern const char decoder_runtime[];
extern const char decoder_program[];

/* Options of the command line that only some decoders have; for the others they are unknown options. */
enum {
  DECODER_KV = 1,              /* --kv */
  DECODER_KERNELS = 2,         /* --kernels */
  DECODER_MAPPING = 4,         /* --mapping */
  DECODER_RUNTIME_LIBRARY = 8, /* --runtime-library */
  DECODER_LOOKUP = 16,         /* --lookup */
};
extern const unsigned decoder_option_set; /* DECODER_* */

/* Loads options->bundle and makes room for options->session. On an error nothing stays open. */
mb_status decoder_open(const runner_options *options, decoder **out);
void decoder_close(decoder *decoder);

const mb_model_config *decoder_config(const decoder *decoder);
/* The name of the kernels in use. */
const char *decoder_kernels(const decoder *decoder);
/* The options with every default filled in. */
const mb_session_options *decoder_options(const decoder *decoder);
/* What the run uses where no more than `chunk` tokens were computed together; kv_bytes is of the first `positions` of
 * the context, process_bytes what the process takes before it has a model. */
mb_status decoder_memory(const decoder *decoder, uint32_t chunk, uint32_t positions, mb_memory *memory);

/* As mb_session_position, mb_session_rewind_point, mb_session_rewind, mb_session_feed and mb_session_cancel. */
uint32_t decoder_position(const decoder *decoder);
uint32_t decoder_rewind_point(const decoder *decoder, uint32_t position);
mb_status decoder_rewind(decoder *decoder, uint32_t position);
/* As mb_session_remove and mb_session_can_remove; MB_ERROR_ARGUMENT for a runtime with a KV cache of its own. */
mb_status decoder_remove(decoder *decoder, uint32_t first, uint32_t end);
mb_status decoder_can_remove(const decoder *decoder);
mb_status decoder_feed(decoder *decoder, const int32_t *tokens, size_t count, const float **logits);
/* As mb_session_feed_all, for at most 1 + lookahead tokens. */
mb_status decoder_feed_all(decoder *decoder, const int32_t *tokens, size_t count, const float **logits);
void decoder_cancel(decoder *decoder);
/* As mb_session_state_bytes of what the decoder holds, mb_session_save and mb_session_resume. A runtime with a KV cache
 * of its own has no states: MB_ERROR_ARGUMENT. */
mb_status decoder_state_bytes(const decoder *decoder, uint64_t *bytes);
mb_status decoder_save(const decoder *decoder, const int32_t *tokens, const char *path);
mb_status decoder_resume(decoder *decoder, const char *path, int32_t *tokens, uint32_t *count);

#ifdef __cplusplus
}
#endif

#endif
