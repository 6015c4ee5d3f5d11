/* The parts of a weights.ptd, and mending what follows from others. */
#include <stdlib.h>
#include <string.h>

#include "base/crc32.h"
#include "fuzz_bundle.h"

enum { FLAT_BASE = 32, FLAT_SEGMENTS = 40 };

bundle_file bundle_parts(uint8_t *data, size_t size, size_t most) {
  uint64_t base;
  memcpy(&base, data + FLAT_BASE, sizeof base);
  mb_index_header *header = (mb_index_header *)(void *)(data + base);
  return (bundle_file){.data = data,
                       .size = size,
                       .most = most,
                       .header = header,
                       .config = (mb_model_config *)(void *)(data + base + header->config_offset),
                       .records = (mb_index_record *)(void *)(data + base + header->records_offset),
                       .names = (char *)data + base + header->names_offset,
                       .names_bytes = header->names_bytes,
                       .count = header->tensor_count < MOST_RECORDS ? header->tensor_count : MOST_RECORDS};
}

bool bundle_holds(const bundle_file *f, const mb_index_record *r) {
  return r->offset % 64 == 0 && r->bytes >= sizeof(mb_blob_header) && r->offset <= f->size &&
         r->bytes <= f->size - r->offset;
}

mb_blob_header *bundle_blob(const bundle_file *f, const mb_index_record *r) {
  return bundle_holds(f, r) ? (mb_blob_header *)(void *)(f->data + r->offset) : NULL;
}

static uint64_t hash_of(const bundle_file *f, const mb_index_record *r) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (uint32_t i = 0; i < r->name_bytes; i++) hash = (hash ^ (uint8_t)f->names[r->name_offset + i]) * 0x100000001b3u;
  return hash;
}

static int by_hash(const void *a, const void *b) {
  const uint64_t x = ((const mb_index_record *)a)->name_hash, y = ((const mb_index_record *)b)->name_hash;
  return x < y ? -1 : x > y;
}

void bundle_mend(bundle_file *f, uint64_t index_bytes) {
  const uint64_t base = (uint64_t)((uint8_t *)f->header - f->data);
  for (uint32_t i = 0; i < f->count; i++) {
    mb_index_record *r = &f->records[i];
    if (r->name_offset <= f->names_bytes && r->name_bytes <= f->names_bytes - r->name_offset)
      r->name_hash = hash_of(f, r);
    if (bundle_holds(f, r)) r->crc32 = mb_crc32(0, f->data + r->offset, r->bytes);
  }
  qsort(f->records, f->count, sizeof *f->records, by_hash);
  const uint64_t segments = f->size - base;
  memcpy(f->data + FLAT_SEGMENTS, &segments, sizeof segments);
  f->header->file_bytes = f->size;
  f->header->crc32 = 0;
  if (f->header->index_bytes > f->size - base) index_bytes = 0; /* damaged on purpose */
  if (index_bytes) f->header->crc32 = mb_crc32(0, f->header, f->header->index_bytes);
}
