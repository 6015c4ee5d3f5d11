/* What the runners and the parts for other runtimes ask of the engine beyond its public interface (mobile_bundle/).
 * The other headers of this folder are private to it. */
#ifndef MB_ENGINE_ENGINE_H
#define MB_ENGINE_ENGINE_H

#include "mobile_bundle/mobile_bundle.h"
#include "packed/formats.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a session of these options would use, as mb_session_memory tells it of one that is open. *resolved: the options
 * with every default filled in. */
mb_status mb_model_memory(const mb_model *model, const mb_session_options *options, mb_session_options *resolved,
                          mb_memory *memory);

/* Bytes of the KV cache when a session of these (resolved) options holds `positions` tokens: layers with a window take
 * no more than it. */
mb_status mb_kv_bytes(const mb_model_config *config, const mb_session_options *resolved, uint32_t positions,
                      uint64_t *bytes);
/* As mb_session_rewind_point, of a session of these (resolved) options that has written its cache up to position
 * `written` since it was at 0. */
uint32_t mb_rewind_point(const mb_model_config *config, const mb_session_options *resolved, uint32_t written,
                         uint32_t position);

/* Whether `count` tokens can be fed behind `position` others: MB_ERROR_ARGUMENT where there are none, where they do not
 * fit the context, or where one is not in the vocabulary. */
mb_status mb_tokens_check(const mb_model_config *config, uint32_t context, uint32_t position, const int32_t *tokens,
                          size_t count);
/* Moves a position back to `to`; MB_ERROR_ARGUMENT where that lies ahead. */
mb_status mb_position_rewind(uint32_t *position, uint32_t to);

/* The tensor whose blob is bytes offset..offset + bytes - 1 of weights.ptd; NULL: there is none. */
const mb_index_record *mb_model_record_at(const mb_model *model, uint64_t offset, uint64_t bytes);
/* That tensor as the decoder sees it: in its packed form, and with its codebook. It lies in the model's mapping. */
mb_status mb_model_matrix(const mb_model *model, const mb_index_record *record, mb_matrix *matrix);

#ifdef __cplusplus
}
#endif

#endif
