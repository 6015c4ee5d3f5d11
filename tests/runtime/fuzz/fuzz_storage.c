/* One stored blob (packed_formats.h, formats from 32 on) from a hostile hand: planned and, whatever the plan says,
 * decoded. What decodes must be a blob of exactly the size and header that the plan gave, which the kernels can read.
 * Seeds: a blob of every stored form. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "kernels/kernels.h"
#include "storage/storage.h"

enum { MOST_BYTES = 8 << 20, MOST_SCRATCH = 64 << 20 };

typedef struct {
  uint8_t *data; /* room for MOST_BYTES, or for the whole target where that is less */
  uint64_t taken, room;
} output;

static bool take(void *context, const void *data, size_t bytes) {
  output *out = context;
  if (bytes > out->room - out->taken) return false;
  memcpy(out->data + out->taken, data, bytes);
  out->taken += bytes;
  return true;
}

static void check(const output *out, const mb_storage_plan *plan) {
  if (out->taken != plan->target_bytes) abort();
  mb_blob_header header, expected = plan->target;
  memcpy(&header, out->data, sizeof header);
  expected.scale = header.scale; /* some forms find it by decoding */
  if (memcmp(&header, &expected, sizeof header) != 0) abort();
  mb_matrix matrix;
  const char *reason;
  if (!mb_matrix_view(out->data, out->taken, &matrix, &reason)) return; /* a hostile payload of a vector blob */
  if (matrix.format == MB_FORMAT_VECTOR) return;                        /* its codebook may be elsewhere */
  float *row = malloc(matrix.columns * sizeof *row);
  if (!row) return;
  mb_decode_row(&matrix, 0, row);
  mb_decode_row(&matrix, matrix.rows - 1, row);
  free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  mb_storage_plan plan;
  const char *reason = NULL;
  if (!mb_storage_plan_of(data, size, &plan, &reason)) {
    if (!reason) abort();
    return 0;
  }
  if (plan.scratch_bytes > MOST_SCRATCH) return 0;
  output out = {.room = plan.target_bytes < MOST_BYTES ? plan.target_bytes : MOST_BYTES};
  void *scratch = NULL;
  /* Exactly as large as asked for, so that one byte beyond is seen; filled, so that nothing relies on zeros. */
  if (posix_memalign(&scratch, 64, plan.scratch_bytes ? plan.scratch_bytes : 1) != 0) return 0;
  memset(scratch, 0xa5, plan.scratch_bytes);
  if (posix_memalign((void **)&out.data, 64, (size_t)out.room) == 0) {
    if (mb_storage_decode(data, size, scratch, take, &out, &reason)) check(&out, &plan);
    free(out.data);
  }
  free(scratch);
  return 0;
}
