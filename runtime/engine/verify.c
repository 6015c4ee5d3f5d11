#include "engine/verify.h"

#include <stdlib.h>
#include <string.h>

#include "base/crc32.h"
#include "base/error.h"
#include "base/sizes.h"
#include "mobile_bundle/weights_cache.h"

enum {
  HEADER_END = 8 + 40, /* of FlatTensor's fixed header (weights_index.h) */
  TABLE_OFFSET = 16,   /* in it: where FlatTensor's table lies */
  TABLE_BYTES = 24,
  STEP_BYTES = 1 << 20, /* read between two releases of the pages */
};

typedef struct {
  const mb_weights *weights;
  const char *file; /* for messages, with what to do: "copy the file again" */
  const char *repair;
} verification;

static uint64_t read_u64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

static bool all_zero(const uint8_t *p, uint64_t bytes) {
  uint8_t any = 0;
  for (uint64_t i = 0; i < bytes; i++) any |= p[i];
  return any == 0;
}

static mb_status check_gap(const verification *v, uint64_t begin, uint64_t end) {
  for (uint64_t at = begin; at < end; at += STEP_BYTES) {
    const uint64_t part = end - at < STEP_BYTES ? end - at : STEP_BYTES;
    if (!all_zero(v->weights->file + at, part))
      return mb_fail(MB_ERROR_FORMAT, "%s: the gap at byte %llu is not zero (damaged): %s", v->file,
                     (unsigned long long)begin, v->repair);
    mb_weights_release(v->weights);
  }
  return MB_OK;
}

static mb_status check_blob(const verification *v, const mb_index_record *r) {
  uint32_t crc = 0;
  for (uint64_t done = 0; done < r->bytes; done += STEP_BYTES) {
    const uint64_t part = r->bytes - done < STEP_BYTES ? r->bytes - done : STEP_BYTES;
    crc = mb_crc32(crc, v->weights->file + r->offset + done, (size_t)part);
    mb_weights_release(v->weights);
  }
  if (crc == r->crc32) return MB_OK;
  return mb_fail(MB_ERROR_FORMAT, "%s: tensor %.*s is damaged (checksum): %s", v->file, (int)r->name_bytes,
                 v->weights->names + r->name_offset, v->repair);
}

/* What lies behind the index. */
static mb_status check_blobs(const verification *v) {
  const mb_index_record **order;
  mb_status status = mb_weights_in_order(v->weights, &order);
  uint64_t end = v->weights->index_end;
  for (uint32_t i = 0; i < v->weights->count && status == MB_OK; i++) {
    status = check_gap(v, end, order[i]->offset);
    if (status == MB_OK) status = check_blob(v, order[i]);
    end = order[i]->offset + order[i]->bytes;
  }
  free(order);
  return status;
}

mb_status mb_weights_verify_file(const mb_weights *weights) {
  const verification v = {weights, "weights.ptd", "copy the file again"};
  const uint64_t table = read_u64(weights->file + TABLE_OFFSET), bytes = read_u64(weights->file + TABLE_BYTES);
  const uint64_t end = mb_size_add(table, bytes);
  if (memcmp(weights->file + 4, "FT01", 4) != 0 || table < HEADER_END || end > weights->index_begin)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: its FlatTensor header is damaged: copy the file again");
  const mb_status status = check_gap(&v, end, weights->index_begin);
  return status == MB_OK ? check_blobs(&v) : status;
}

mb_status mb_weights_cache_verify_file(const mb_weights *cache) {
  const verification v = {cache, "the cache of weights.ptd", "run `mobile-run install`, which makes it again"};
  mb_status status = check_gap(&v, HEADER_END, MB_CACHE_IDENTITY_OFFSET);
  if (status == MB_OK) status = check_gap(&v, MB_CACHE_IDENTITY_OFFSET + sizeof(mb_cache_identity), cache->index_begin);
  return status == MB_OK ? check_blobs(&v) : status;
}

mb_status mb_weights_verify(const mb_weights *weights) {
  const mb_status status = mb_weights_verify_file(weights);
  return status == MB_OK && weights->cache ? mb_weights_cache_verify_file(weights->cache) : status;
}
