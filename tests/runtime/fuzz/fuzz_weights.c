/* weights.ptd from a hostile hand: opened, every tensor looked at, and two tokens computed from it. */
#include <stdlib.h>

#include "engine/model.h"
#include "engine/session.h"
#include "engine/verify.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  mb_weights weights;
  if (mb_weights_from_memory(data, size, false, &weights) == MB_OK) {
    for (uint32_t i = 0; i < weights.count; i++) {
      const mb_index_record *record = &weights.records[i];
      mb_matrix matrix;
      const char *reason;
      if (!mb_matrix_view(weights.file + record->offset, record->bytes, &matrix, &reason)) continue;
      if (matrix.format == MB_FORMAT_VECTOR && !matrix.vector.codebook) continue; /* it is another tensor */
      float *row = malloc(matrix.columns * sizeof *row);
      if (!row) continue;
      mb_decode_row(&matrix, 0, row);
      mb_decode_row(&matrix, matrix.rows - 1, row);
      free(row);
    }
    (void)mb_weights_verify(&weights);
  }
  mb_model *model;
  if (mb_model_from_memory(data, size, false, NULL, &model) != MB_OK) return 0;
  const mb_session_options options = {.size = sizeof options, .context = 4, .threads = 1, .prefill_chunk = 2};
  mb_session *session;
  if (mb_session_open(model, &options, &session) == MB_OK) {
    const int32_t tokens[] = {0, 1, 2};
    const float *logits;
    (void)mb_session_feed(session, tokens, 3, &logits);
    mb_session_close(session);
  }
  mb_model_close(model);
  return 0;
}
