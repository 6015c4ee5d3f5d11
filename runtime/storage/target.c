#include "storage/target.h"

#include <string.h>

#include "packed/formats.h"

#define MAX_QUANTISED_COLUMNS ((uint32_t)1 << 20) /* mb_matrix_view */

bool mb_storage_target(const mb_blob_header *stored, mb_format format, uint32_t group, uint32_t flags, float scale,
                       size_t scratch_bytes, mb_storage_plan *plan, const char **reason) {
  if (stored->columns > MAX_QUANTISED_COLUMNS) {
    *reason = "stored blob has more than 2^20 columns";
    return false;
  }
  const uint64_t bytes = mb_payload_bytes(format, stored->rows, stored->columns, group, flags);
  if (bytes == 0) {
    *reason = "stored blob has a shape that its packed form cannot have";
    return false;
  }
  *plan = (mb_storage_plan){
      .target = {.version = MB_BLOB_VERSION,
                 .format = (uint16_t)format,
                 .rows = stored->rows,
                 .columns = stored->columns,
                 .group = group,
                 .flags = flags,
                 .scale = scale,
                 .payload_bytes = bytes},
      .target_bytes = sizeof(mb_blob_header) + bytes,
      .scratch_bytes = scratch_bytes,
  };
  memcpy(plan->target.magic, MB_BLOB_MAGIC, sizeof plan->target.magic);
  return true;
}
