#include "engine/install.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32.h"
#include "base/error.h"
#include "base/option_struct.h"
#include "base/sizes.h"
#include "engine/file_writer.h"
#include "engine/verify.h"
#include "storage/storage.h"

enum {
  STEP_BYTES = 4 << 20,   /* decoded between two reports, and between two droppings of the source's pages */
  CHECK_BYTES = 1 << 20,  /* stored bytes whose checksum is computed at once */
  FLAT_HEADER_OFFSET = 8, /* of FlatTensor's fixed header */
  FLAT_HEADER_BYTES = 40,
};

typedef struct {
  const mb_index_record *source;
  mb_storage_plan plan;
  uint64_t offset; /* of the packed blob in the cache */
  uint32_t crc32;
} tensor;

typedef struct {
  mb_weights weights; /* mapped so that its pages can be given back as they have been read */
  int source;         /* descriptor of weights.ptd; -1: its pages are only unmapped, not dropped */
  tensor *tensors;    /* in the order of the file, so that it is read and written forwards */
  uint32_t count;
  uint64_t index_bytes, file_bytes, packed_bytes;
  void *scratch;
  mb_file_writer writer;
  mb_progress progress;
  void *context;
  uint64_t done, reported;
  /* the tensor that is being decoded */
  const tensor *current;
  mb_blob_header header; /* as the decoder wrote it */
  uint64_t taken;
  uint32_t crc32;
  char name[128];
  mb_status status; /* what the sink met */
} installation;

static const uint8_t *stored_blob(const installation *j, const tensor *t) {
  return j->weights.file + t->source->offset;
}

static void set_name(installation *j, const mb_index_record *r) {
  const size_t bytes = r->name_bytes < sizeof j->name - 1 ? r->name_bytes : sizeof j->name - 1;
  memcpy(j->name, j->weights.names + r->name_offset, bytes);
  j->name[bytes] = 0;
}

/* Unmaps the pages of stored bytes that were read; those that are needed again come back from the system's cache. */
static void drop_mapped(const uint8_t *data, uint64_t bytes) {
  const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data / page * page;
  (void)madvise((void *)begin, (size_t)((uintptr_t)data + bytes - begin), MADV_DONTNEED);
}

static mb_status report(installation *j) {
  j->reported = j->done;
  if (!j->progress || j->progress(j->context, j->done, j->packed_bytes, j->name)) return MB_OK;
  return mb_fail(MB_ERROR_CANCELLED, "the installation was cancelled");
}

static bool take(void *context, const void *data, size_t bytes) {
  installation *j = context;
  if (bytes > j->current->plan.target_bytes - j->taken) {
    j->status = mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s decodes to more than its header says", j->name);
    return false;
  }
  if (j->taken < sizeof j->header) {
    const size_t rest = sizeof j->header - (size_t)j->taken;
    memcpy((uint8_t *)&j->header + j->taken, data, bytes < rest ? bytes : rest);
  }
  j->crc32 = mb_crc32(j->crc32, data, bytes);
  j->status = mb_file_writer_append(&j->writer, data, bytes);
  j->taken += bytes;
  j->done += bytes;
  if (j->status == MB_OK && j->done - j->reported >= STEP_BYTES) {
    drop_mapped(stored_blob(j, j->current), j->current->source->bytes);
    j->status = report(j);
  }
  return j->status == MB_OK;
}

static mb_status check_stored(const installation *j, const tensor *t) {
  const uint8_t *blob = stored_blob(j, t);
  uint32_t crc = 0;
  for (uint64_t done = 0; done < t->source->bytes; done += CHECK_BYTES) {
    const uint64_t rest = t->source->bytes - done, part = rest < CHECK_BYTES ? rest : CHECK_BYTES;
    crc = mb_crc32(crc, blob + done, (size_t)part);
    drop_mapped(blob + done, part);
  }
  if (crc == t->source->crc32) return MB_OK;
  return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s is damaged (checksum): copy the file again", j->name);
}

static mb_status decode(installation *j, tensor *t) {
  set_name(j, t->source);
  mb_status status = check_stored(j, t);
  if (status == MB_OK) status = mb_file_writer_seek(&j->writer, t->offset);
  if (status != MB_OK) return status;
  j->current = t;
  j->taken = 0;
  j->crc32 = 0;
  j->status = MB_OK;
  const char *reason = NULL;
  const bool whole = mb_storage_decode(stored_blob(j, t), t->source->bytes, j->scratch, take, j, &reason);
  drop_mapped(stored_blob(j, t), t->source->bytes);
  if (j->source >= 0)
    (void)posix_fadvise(j->source, (off_t)t->source->offset, (off_t)t->source->bytes, POSIX_FADV_DONTNEED);
  if (j->status != MB_OK) return j->status;
  if (!whole)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s: %s: build the bundle again", j->name,
                   reason ? reason : "cannot be decoded");
  mb_blob_header expected = t->plan.target;
  expected.scale = j->header.scale; /* some forms find it by decoding */
  if (j->taken != t->plan.target_bytes || memcmp(&expected, &j->header, sizeof expected) != 0)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s does not decode to what its header says", j->name);
  t->crc32 = j->crc32;
  return MB_OK;
}

static int by_record(const void *a, const void *b) {
  const mb_index_record *x = ((const tensor *)a)->source, *y = ((const tensor *)b)->source;
  return x < y ? -1 : x > y;
}

static int by_offset(const void *a, const void *b) {
  const uint64_t x = ((const tensor *)a)->source->offset, y = ((const tensor *)b)->source->offset;
  return x < y ? -1 : x > y;
}

/* What every stored tensor decodes to, where it goes, and the most scratch that one needs. */
static mb_status plan(installation *j, size_t *scratch_bytes) {
  const mb_weights *w = &j->weights;
  j->tensors = calloc(j->count, sizeof *j->tensors);
  if (!j->tensors) return mb_fail(MB_ERROR_MEMORY, "no memory to install the bundle");
  uint64_t names = 0;
  *scratch_bytes = 64;
  uint32_t next = 0;
  for (uint32_t i = 0; i < w->count; i++) {
    const mb_index_record *r = &w->records[i];
    if (!mb_is_stored(r)) continue;
    tensor *t = &j->tensors[next++];
    set_name(j, r);
    t->source = r;
    const char *reason = NULL;
    if (!mb_storage_plan_of(w->file + r->offset, r->bytes, &t->plan, &reason))
      return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s: %s: copy the file again", j->name,
                     reason ? reason : "damaged");
    if (t->plan.target.format >= MB_FIRST_STORED_FORMAT || t->plan.target.rows != r->rows ||
        t->plan.target.columns != r->columns || t->plan.target_bytes < sizeof(mb_blob_header))
      return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s differs from its index entry (damaged): copy it again",
                     j->name);
    if (t->plan.scratch_bytes > *scratch_bytes) *scratch_bytes = t->plan.scratch_bytes;
    names += r->name_bytes;
    mb_weights_release(w);
  }
  qsort(j->tensors, j->count, sizeof *j->tensors, by_offset);
  /* At most MB_MOST_TENSORS records and names, so far below 2^32. */
  j->index_bytes = sizeof(mb_index_header) + sizeof(mb_model_config) + j->count * sizeof(mb_index_record) + names;
  j->file_bytes = MB_SEGMENT_ALIGNMENT + j->index_bytes;
  for (uint32_t i = 0; i < j->count; i++) {
    tensor *t = &j->tensors[i];
    t->offset = mb_size_round_up(j->file_bytes, MB_BLOB_ALIGNMENT);
    j->file_bytes = mb_size_add(t->offset, t->plan.target_bytes);
    j->packed_bytes = mb_size_add(j->packed_bytes, t->plan.target_bytes);
  }
  if (j->file_bytes > INT64_MAX)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: its stored tensors decode to an impossible size (damaged file?)");
  return MB_OK;
}

/* Everything before the first blob, malloc'd: the fixed header, the identity, the index. */
static uint8_t *make_head(installation *j, size_t *bytes) {
  const mb_weights *w = &j->weights;
  *bytes = MB_SEGMENT_ALIGNMENT + (size_t)j->index_bytes;
  uint8_t *head = calloc(1, *bytes);
  if (!head) return NULL;
  const uint32_t flat_bytes = FLAT_HEADER_BYTES;
  const uint64_t flat[] = {0, 0, MB_SEGMENT_ALIGNMENT, j->file_bytes - MB_SEGMENT_ALIGNMENT};
  memcpy(head + 4, "FT01", 4);
  memcpy(head + FLAT_HEADER_OFFSET, "FH01", 4);
  memcpy(head + FLAT_HEADER_OFFSET + 4, &flat_bytes, sizeof flat_bytes);
  memcpy(head + FLAT_HEADER_OFFSET + 8, flat, sizeof flat);
  const mb_cache_identity identity = mb_weights_cache_identity(w);
  memcpy(head + MB_CACHE_IDENTITY_OFFSET, &identity, sizeof identity);

  uint8_t *index = head + MB_SEGMENT_ALIGNMENT;
  const size_t records_at = sizeof(mb_index_header) + sizeof(mb_model_config);
  const size_t names_at = records_at + j->count * sizeof(mb_index_record);
  mb_index_header header = {.version = MB_INDEX_VERSION,
                            .tensor_count = j->count,
                            .index_bytes = j->index_bytes,
                            .file_bytes = j->file_bytes,
                            .config_offset = sizeof header,
                            .records_offset = (uint32_t)records_at,
                            .names_offset = (uint32_t)names_at,
                            .names_bytes = (uint32_t)(j->index_bytes - names_at)};
  memcpy(header.magic, MB_INDEX_MAGIC, sizeof header.magic);
  memcpy(index + sizeof header, &w->config, sizeof w->config);
  uint32_t name_offset = 0;
  qsort(j->tensors, j->count, sizeof *j->tensors, by_record); /* sorted by name there, so here, too */
  for (uint32_t i = 0; i < j->count; i++) {
    const tensor *t = &j->tensors[i];
    const mb_index_record *source = t->source;
    const mb_blob_header *target = &t->plan.target;
    const mb_index_record record = {.name_hash = source->name_hash,
                                    .offset = t->offset,
                                    .bytes = t->plan.target_bytes,
                                    .name_offset = name_offset,
                                    .name_bytes = source->name_bytes,
                                    .format = target->format,
                                    .blob_version = target->version,
                                    .rows = target->rows,
                                    .columns = target->columns,
                                    .group = target->group,
                                    .flags = target->flags,
                                    .crc32 = t->crc32};
    memcpy(index + records_at + i * sizeof record, &record, sizeof record);
    memcpy(index + names_at + name_offset, w->names + source->name_offset, source->name_bytes);
    name_offset += source->name_bytes;
  }
  memcpy(index, &header, sizeof header);
  header.crc32 = mb_crc32(0, index, (size_t)j->index_bytes);
  memcpy(index, &header, sizeof header);
  return head;
}

static const mb_file_purpose purpose = {
    .task = "installing the bundle",
    .no_space =
        "free some space, or run `mobile-run install BUNDLE --cache DIR` with another folder and give --cache DIR "
        "from then on",
    .wish = "the bundle must be installed",
    .no_access =
        "run `mobile-run install BUNDLE --cache DIR` with a folder that can, and give --cache DIR from then on",
    .no_folder = "make it, or choose another one for the cache",
    .mode = 0644,
};

static mb_status run(installation *j, const char *cache_path) {
  size_t scratch_bytes = 0;
  mb_status status = plan(j, &scratch_bytes);
  if (status != MB_OK) return status;
  if (posix_memalign(&j->scratch, 64, scratch_bytes) != 0) {
    j->scratch = NULL;
    return mb_fail(MB_ERROR_MEMORY, "no memory to install the bundle (%zu bytes)", scratch_bytes);
  }
  status = mb_file_writer_open(cache_path, &purpose, j->file_bytes, &j->writer);
  for (uint32_t i = 0; i < j->count && status == MB_OK; i++) status = decode(j, &j->tensors[i]);
  if (status == MB_OK) status = report(j);
  if (status != MB_OK) return status;
  size_t head_bytes;
  uint8_t *head = make_head(j, &head_bytes);
  if (!head) return mb_fail(MB_ERROR_MEMORY, "no memory to install the bundle");
  status = mb_file_writer_finish(&j->writer, head, head_bytes);
  free(head);
  return status;
}

mb_status mb_install_cache(const char *weights_path, const char *cache_path, mb_progress progress, void *context,
                           mb_install_result *result) {
  installation *j = calloc(1, sizeof *j);
  if (!j) return mb_fail(MB_ERROR_MEMORY, "no memory to install the bundle");
  j->progress = progress;
  j->context = context;
  j->writer.fd = -1;
  j->source = open(weights_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  mb_status status = mb_weights_open(weights_path, MB_MAPPING_LAYERS, &j->weights);
  if (status == MB_OK) {
    j->count = mb_stored_count(&j->weights);
    status = run(j, cache_path);
  }
  result->decoded_bytes = j->done;
  result->cache_bytes = j->file_bytes;
  mb_file_writer_close(&j->writer);
  mb_weights_close(&j->weights);
  if (j->source >= 0) close(j->source);
  free(j->scratch);
  free(j->tensors);
  free(j);
  return status;
}

static mb_status install(const char *path, const char *cache_path, const mb_weights *weights,
                         const mb_install_options *options, mb_install_result *result) {
  for (uint32_t i = 0; i < weights->count; i++) {
    if (mb_is_stored(&weights->records[i])) result->stored_bytes += weights->records[i].bytes;
  }
  mb_weights cache;
  if (mb_weights_cache_open(cache_path, weights, MB_MAPPING_LAYERS, &cache) == MB_OK) {
    const bool whole = mb_weights_cache_verify_file(&cache) == MB_OK;
    result->cache_bytes = cache.file_bytes;
    mb_weights_close(&cache);
    if (whole) return MB_OK;
  }
  return mb_install_cache(path, cache_path, options->progress, options->progress_context, result);
}

mb_status mb_install(const char *bundle, const mb_install_options *options, mb_install_result *result) {
  mb_install_options own;
  mb_install_result ignored;
  if (!result) result = &ignored;
  memset(result, 0, sizeof *result);
  char path[MB_PATH_BYTES], cache_path[MB_PATH_BYTES];
  mb_weights weights;
  mb_status status = mb_options_take("mb_install_options", options, &own, sizeof own);
  if (status == MB_OK) status = mb_weights_path(bundle, path);
  if (status == MB_OK) status = mb_weights_cache_path(path, own.cache_dir, cache_path);
  if (status == MB_OK) status = mb_weights_open(path, MB_MAPPING_LAYERS, &weights);
  if (status != MB_OK) return status;
  result->tensors = mb_stored_count(&weights);
  if (result->tensors > 0) status = install(path, cache_path, &weights, &own, result);
  mb_weights_close(&weights);
  return status;
}
