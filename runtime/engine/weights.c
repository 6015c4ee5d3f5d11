#include "engine/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32.h"
#include "base/error.h"
#include "base/sizes.h"
#include "engine/config.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights.ptd is little endian and is mapped, not read: a big-endian processor cannot run it"
#endif

enum { EXTENDED_HEADER_OFFSET = 8, EXTENDED_HEADER_BYTES = 40, HUGE_PAGE = 2 << 20 };

static uint64_t read_u64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}

static bool inside(uint64_t offset, uint64_t bytes, uint64_t size) { return offset <= size && bytes <= size - offset; }

/* Whether a part lies in the index, behind its header. */
static bool in_index(const mb_index_header *header, uint64_t offset, uint64_t bytes) {
  return offset >= sizeof *header && inside(offset, bytes, header->index_bytes);
}

static uint64_t fnv1a(const char *name, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < bytes; i++) hash = (hash ^ (uint8_t)name[i]) * 0x100000001b3u;
  return hash;
}

static mb_status entry_damaged(uint32_t entry, const char *what) {
  return mb_fail(MB_ERROR_FORMAT, "weights.ptd: entry %u of its index is damaged (%s): copy it again", entry, what);
}

/* One record by itself: inside of the file, of a size that its shape asks for, under its own name. */
static mb_status check_record(const mb_weights *w, uint32_t i, uint64_t names_bytes) {
  const mb_index_record *r = &w->records[i];
  if (r->name_bytes < 1 || r->name_bytes > MB_MOST_NAME_BYTES || !inside(r->name_offset, r->name_bytes, names_bytes))
    return entry_damaged(i, "name");
  const char *name = w->names + r->name_offset;
  if (r->name_hash != fnv1a(name, r->name_bytes)) return entry_damaged(i, "hash of its name");
  if (r->offset % MB_BLOB_ALIGNMENT != 0 || r->bytes < sizeof(mb_blob_header) ||
      !inside(r->offset, r->bytes, w->file_bytes))
    return entry_damaged(i, "place");
  if (r->blob_version != MB_BLOB_VERSION || r->reserved[0] != 0 || r->reserved[1] != 0 || mb_is_withdrawn(r->format))
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: entry %u of its index is of another version: build the bundle again",
                   i);
  if (r->format != MB_FORMAT_ENTROPY) { /* whose size is free */
    const uint64_t payload = mb_payload_bytes(r->format, r->rows, r->columns, r->group, r->flags);
    if (payload == 0 || r->bytes - sizeof(mb_blob_header) != payload) return entry_damaged(i, "shape and size");
  }
  if (i == 0) return MB_OK;
  const mb_index_record *before = r - 1;
  const uint32_t shorter = before->name_bytes < r->name_bytes ? before->name_bytes : r->name_bytes;
  const int names = before->name_hash != r->name_hash ? 0 : memcmp(w->names + before->name_offset, name, shorter);
  if (before->name_hash > r->name_hash ||
      (before->name_hash == r->name_hash && (names > 0 || (names == 0 && before->name_bytes >= r->name_bytes))))
    return entry_damaged(i, "order, or a name twice");
  return MB_OK;
}

static int by_offset(const void *a, const void *b) {
  const uint64_t x = (*(const mb_index_record *const *)a)->offset, y = (*(const mb_index_record *const *)b)->offset;
  return x < y ? -1 : x > y;
}

mb_status mb_weights_in_order(const mb_weights *weights, const mb_index_record ***out) {
  const mb_index_record **order = calloc((size_t)weights->count + 1, sizeof *order);
  *out = order;
  if (!order) return mb_fail(MB_ERROR_MEMORY, "no memory to open %u tensors", weights->count);
  for (uint32_t i = 0; i < weights->count; i++) order[i] = &weights->records[i];
  qsort(order, weights->count, sizeof *order, by_offset);
  return MB_OK;
}

/* No blob reaches into the index or into another one, and the file ends with the last. */
static mb_status check_places(const mb_weights *w) {
  const mb_index_record **order;
  mb_status status = mb_weights_in_order(w, &order);
  uint64_t end = w->index_end;
  for (uint32_t i = 0; i < w->count && status == MB_OK; i++) {
    if (order[i]->offset < end)
      status = mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %.*s overlaps %s (damaged file?): copy it again",
                       (int)order[i]->name_bytes, w->names + order[i]->name_offset,
                       i == 0 ? "the index" : "the tensor before it");
    end = order[i]->offset + order[i]->bytes;
  }
  if (status == MB_OK && end != w->file_bytes)
    status = mb_fail(MB_ERROR_FORMAT, "weights.ptd: %llu bytes behind the last tensor: copy it again",
                     (unsigned long long)(w->file_bytes - end));
  free(order);
  return status;
}

mb_status mb_weights_from_memory(const void *bytes, uint64_t size, bool check_crc, mb_weights *weights) {
  const uint8_t *file = bytes;
  memset(weights, 0, sizeof *weights);
  if (size < EXTENDED_HEADER_OFFSET + EXTENDED_HEADER_BYTES || memcmp(file + EXTENDED_HEADER_OFFSET, "FH01", 4) != 0)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: not a FlatTensor file (no FH01 header): build the bundle again");
  uint64_t base = read_u64(file + EXTENDED_HEADER_OFFSET + 24), segments = read_u64(file + EXTENDED_HEADER_OFFSET + 32);
  if (base < EXTENDED_HEADER_OFFSET + EXTENDED_HEADER_BYTES || base % MB_SEGMENT_ALIGNMENT != 0 ||
      !inside(base, segments, size) || base + segments != size || segments < sizeof(mb_index_header))
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: truncated, or its header is damaged (%llu bytes): copy it again",
                   (unsigned long long)size);
  mb_index_header header;
  memcpy(&header, file + base, sizeof header);
  if (memcmp(header.magic, MB_INDEX_MAGIC, 8) != 0)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: a FlatTensor file that mobile-bundle did not write (no index)");
  if (header.version != MB_INDEX_VERSION)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: index version %u, this runtime reads %u: build the bundle again",
                   header.version, MB_INDEX_VERSION);
  if (header.file_bytes != size)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: %llu bytes, but its index says %llu: truncated, copy it again",
                   (unsigned long long)size, (unsigned long long)header.file_bytes);
  if (header.tensor_count > MB_MOST_TENSORS)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: %u tensors: %u at most (damaged file?)", header.tensor_count,
                   MB_MOST_TENSORS);
  if (!inside(base, header.index_bytes, size) || header.index_bytes > MB_MOST_INDEX_BYTES ||
      header.config_offset % 8 != 0 || header.records_offset % 8 != 0 ||
      !in_index(&header, header.config_offset, sizeof(mb_model_config)) ||
      !in_index(&header, header.records_offset, (uint64_t)header.tensor_count * sizeof(mb_index_record)) ||
      !in_index(&header, header.names_offset, header.names_bytes))
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: its index is damaged (sizes): copy it again");
  if (header.reserved[0] | header.reserved[1] | header.reserved[2])
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: reserved fields of its index are in use: made by a newer version?");
  if (check_crc) {
    uint32_t expected = header.crc32;
    mb_index_header blank = header;
    blank.crc32 = 0;
    uint32_t crc = mb_crc32(0, &blank, sizeof blank);
    crc = mb_crc32(crc, file + base + sizeof blank, header.index_bytes - sizeof blank);
    if (crc != expected) return mb_fail(MB_ERROR_FORMAT, "weights.ptd: its index is damaged (checksum): copy it again");
  }
  weights->file = file;
  weights->file_bytes = size;
  weights->records = (const mb_index_record *)(const void *)(file + base + header.records_offset);
  weights->count = header.tensor_count;
  weights->index_crc32 = header.crc32;
  weights->names = (const char *)file + base + header.names_offset;
  memcpy(&weights->config, file + base + header.config_offset, sizeof weights->config);
  weights->index_begin = base;
  weights->index_end = base + header.index_bytes;
  mb_status status = mb_config_check(&weights->config);
  for (uint32_t i = 0; i < weights->count && status == MB_OK; i++)
    status = check_record(weights, i, header.names_bytes);
  return status == MB_OK ? check_places(weights) : status;
}

/* Maps the file read-only at a multiple of a huge page and asks for huge pages. Where the file system has large folios
 * (ext4, xfs of recent kernels), the kernel then reads and maps 2 MiB at a time: a decoder that streams all weights for
 * every token otherwise spends a third of its time on page-table walks. Elsewhere the request changes nothing.
 * Layer by layer they are mapped one by one, so that no page holds a whole layer's neighbours (looking at every
 * tensor's header would otherwise map the whole file), and are read as a stream: such pages are the first that the
 * kernel takes back after they were dropped here. */
static void *map_file(int fd, size_t size, mb_mapping mapping, void **area, size_t *area_bytes) {
  *area_bytes = size + HUGE_PAGE;
  *area = mmap(NULL, *area_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*area == MAP_FAILED) return MAP_FAILED;
  char *aligned = (char *)*area + (HUGE_PAGE - (uintptr_t)*area % HUGE_PAGE) % HUGE_PAGE;
  void *file = mmap(aligned, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
  if (file == MAP_FAILED) {
    munmap(*area, *area_bytes);
  } else {
    (void)madvise(file, size, MADV_HUGEPAGE);
    if (mapping == MB_MAPPING_LAYERS) (void)madvise(file, size, MADV_SEQUENTIAL);
  }
  return file;
}

mb_status mb_weights_open(const char *path, mb_mapping mapping, mb_weights *weights) {
  memset(weights, 0, sizeof *weights);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* of a pipe that nobody writes to it would wait for ever */
  if (fd < 0) return mb_fail(MB_ERROR_IO, "%s: %s", path, strerror(errno));
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    close(fd);
    return mb_fail(MB_ERROR_IO, "%s: not a regular file", path);
  }
  if (st.st_size == 0) {
    close(fd);
    return mb_fail(MB_ERROR_FORMAT, "%s: the file is empty: copy it again", path);
  }
  void *area;
  size_t area_bytes;
  void *file = MAP_FAILED;
  errno = ENOMEM;
  if (mb_size_fits((uint64_t)st.st_size)) file = map_file(fd, (size_t)st.st_size, mapping, &area, &area_bytes);
  const int reason = errno;
  close(fd);
  if (file == MAP_FAILED && reason == ENOMEM && sizeof(void *) == 4)
    return mb_fail(MB_ERROR_MEMORY, "%s: %lld MB do not fit the address space of a 32-bit program: use a smaller model",
                   path, (long long)(st.st_size >> 20));
  if (file == MAP_FAILED) return mb_fail(MB_ERROR_IO, "%s: cannot be mapped: %s", path, strerror(reason));
  mb_status status = mb_weights_from_memory(file, (uint64_t)st.st_size, true, weights);
  if (status != MB_OK) {
    munmap(area, area_bytes);
    memset(weights, 0, sizeof *weights);
    return status;
  }
  weights->area = area;
  weights->area_bytes = area_bytes;
  weights->mapping = mapping;
  return MB_OK;
}

void mb_weights_close(mb_weights *weights) {
  if (weights->area) munmap(weights->area, weights->area_bytes);
  memset(weights, 0, sizeof *weights);
}

void mb_weights_release(const mb_weights *weights) {
  for (; weights; weights = weights->cache) {
    if (weights->mapping == MB_MAPPING_LAYERS)
      (void)madvise((void *)(uintptr_t)weights->file, (size_t)weights->file_bytes, MADV_DONTNEED);
  }
}

const mb_index_record *mb_weights_find(const mb_weights *weights, const char *name, size_t bytes) {
  uint64_t hash = fnv1a(name, bytes);
  uint32_t low = 0, high = weights->count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (weights->records[middle].name_hash < hash) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  for (; low < weights->count && weights->records[low].name_hash == hash; low++) {
    const mb_index_record *r = &weights->records[low];
    if (r->name_bytes == bytes && memcmp(weights->names + r->name_offset, name, bytes) == 0) return r;
  }
  return NULL;
}

/* The entry of that name that is computed with, and the file it is in. */
static const mb_index_record *find(const mb_weights **weights, const char *name) {
  const size_t bytes = strlen(name);
  const mb_weights *cache = (*weights)->cache;
  const mb_index_record *r = cache ? mb_weights_find(cache, name, bytes) : NULL;
  if (r) {
    *weights = cache;
    return r;
  }
  return mb_weights_find(*weights, name, bytes);
}

bool mb_weights_has(const mb_weights *weights, const char *name) { return find(&weights, name) != NULL; }

uint64_t mb_weights_bytes(const mb_weights *weights, const char *name) {
  const mb_index_record *r = find(&weights, name);
  return r ? r->bytes : 0;
}

/* The codebooks that a tensor shares with the others of its kind and layout (packed_formats.h says how it is named). */
static mb_status bind_codebook(const mb_weights *weights, const char *name, mb_matrix *matrix) {
  char shared[128];
  const char *kind = name;
  if (strncmp(name, "layers.", 7) == 0) {
    const char *dot = strchr(name + 7, '.');
    if (dot) kind = dot + 1;
  }
  const int length = snprintf(shared, sizeof shared, "shared.v%u.b%u.r%u.%s", matrix->vector.length,
                              matrix->vector.index_bits, matrix->vector.residual_bits, kind);
  if (length < 0 || (size_t)length >= sizeof shared)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: the name of tensor %s is too long", name);
  const mb_vector_parts *v = &matrix->vector;
  const uint32_t rows = (1u << v->index_bits) + (v->residual_bits > 0 ? 1u << v->residual_bits : 0);
  mb_matrix codebook;
  mb_status status = mb_weights_matrix(weights, shared, rows, v->stride, &codebook);
  if (status != MB_OK) return status;
  if (codebook.format != MB_FORMAT_INT8)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s is not a codebook: build the bundle again", shared);
  mb_vector_bind(matrix, (const int8_t *)codebook.data);
  return MB_OK;
}

mb_status mb_weights_matrix(const mb_weights *weights, const char *name, uint32_t rows, uint32_t columns,
                            mb_matrix *matrix) {
  const mb_weights *holder = weights;
  const mb_index_record *r = find(&holder, name);
  if (!r) return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s is missing: build the bundle again", name);
  const char *reason = NULL;
  if (!mb_matrix_view(holder->file + r->offset, r->bytes, matrix, &reason))
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s: %s: copy the file again", name, reason);
  if (matrix->format != r->format || matrix->rows != r->rows || matrix->columns != r->columns ||
      matrix->group != r->group || matrix->flags != r->flags)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s differs from its index entry (damaged): copy it again",
                   name);
  if (matrix->rows != rows || matrix->columns != columns)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s is %u x %u, the model needs %u x %u", name, matrix->rows,
                   matrix->columns, rows, columns);
  if (matrix->format == MB_FORMAT_INT8 && strncmp(name, "shared.", 7) != 0)
    return mb_fail(MB_ERROR_FORMAT, "weights.ptd: tensor %s is a codebook, not weights: build the bundle again", name);
  if (matrix->format == MB_FORMAT_VECTOR && matrix->flags & MB_FLAG_SHARED_CODEBOOK)
    return bind_codebook(weights, name, matrix);
  return MB_OK;
}
