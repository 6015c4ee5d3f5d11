/* weights.ptd from a hand that knows the format: dimensions, records, places and values are changed together and every
 * size and checksum is mended, so that only the checks of what they mean stand between the file and the engine. It is
 * opened, its memory is estimated and compared with exact arithmetic, and a session of any size decodes tokens, at the
 * far end of its context, too. Files with stored forms are installed first, in a folder in memory.
 *
 * Seeds: whole weights.ptd files of a few kilobytes, of every format. */
#include "fuzz_bundle.h"

#include "engine/weights_cache.h"

size_t fuzz_mutate(uint8_t *data, size_t size, size_t most) {
  bundle_file f = bundle_parts(data, size, most);
  const uint64_t index_bytes = f.header->index_bytes;
  if (fuzz_below(2)) {
    bundle_choose_dimensions(f.config);
    bundle_lay_out(&f, true);
  }
  for (uint32_t times = fuzz_below(4); times > 0; times--) {
    mb_index_record *r = &f.records[fuzz_below(f.count)];
    switch (fuzz_below(10)) {
      case 0:
      case 1:
        bundle_change_dimension(f.config);
        break;
      case 2:
        bundle_change_shape(&f, r);
        if (fuzz_below(2)) bundle_lay_out(&f, false);
        break;
      case 3:
        bundle_change_place(&f, r);
        break;
      case 4:
        bundle_change_name(&f, r);
        break;
      case 5:
        if (fuzz_below(4) == 0) bundle_change_header(&f);
        break;
      default:
        bundle_change_values(&f, r);
        break;
    }
  }
  if (fuzz_below(32) == 0) f.size = f.size - fuzz_below(256);
  bundle_mend(&f, index_bytes);
  return f.size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  mb_weights weights;
  if (mb_weights_from_memory(data, size, true, &weights) != MB_OK) return 0;
  const uint32_t variant = weights.index_crc32;
  bundle_estimates(&weights.config);
  bundle_look_at(&weights, variant);
  if (mb_stored_count(&weights) > 0) {
    bundle_install_and_use(data, size, variant);
  } else {
    mb_model *model;
    if (mb_model_from_memory(data, size, true, NULL, &model) == MB_OK) {
      bundle_use(model, variant);
      mb_model_close(model);
    }
  }
  return 0;
}
