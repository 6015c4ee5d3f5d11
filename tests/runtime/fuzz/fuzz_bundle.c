/* weights.ptd from a hand that knows the format: dimensions, records, places and values are changed together and every
 * size and checksum is mended, so that only the checks of what they mean stand between the file and the engine. It is
 * opened, its memory is estimated and compared with exact arithmetic, and a session of any size decodes tokens, at the
 * far end of its context, too. Files with stored forms are installed first, in a folder in memory.
 *
 * Seeds: whole weights.ptd files of a few kilobytes, of every format. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32.h"
#include "engine/cache.h"
#include "engine/model.h"
#include "engine/session.h"
#include "engine/verify.h"
#include "fuzz.h"
#include "storage/entropy.h"

enum { FLAT_BASE = 32, FLAT_SEGMENTS = 40, MOST_RECORDS = 256 };

/* ---- changing a file ---- */

/* The parts of a seed, which is valid. */
typedef struct {
  uint8_t *data;
  size_t size, most;
  mb_index_header *header;
  mb_model_config *config;
  mb_index_record *records;
  char *names;
  uint32_t count, names_bytes;
} file;

static file parts_of(uint8_t *data, size_t size, size_t most) {
  uint64_t base;
  memcpy(&base, data + FLAT_BASE, sizeof base);
  mb_index_header *header = (mb_index_header *)(void *)(data + base);
  return (file){.data = data,
                .size = size,
                .most = most,
                .header = header,
                .config = (mb_model_config *)(void *)(data + base + header->config_offset),
                .records = (mb_index_record *)(void *)(data + base + header->records_offset),
                .names = (char *)data + base + header->names_offset,
                .names_bytes = header->names_bytes,
                .count = header->tensor_count < MOST_RECORDS ? header->tensor_count : MOST_RECORDS};
}

static bool in_file(const file *f, const mb_index_record *r) {
  return r->offset % 64 == 0 && r->bytes >= sizeof(mb_blob_header) && r->offset <= f->size &&
         r->bytes <= f->size - r->offset;
}

static mb_blob_header *blob_of(const file *f, const mb_index_record *r) {
  return in_file(f, r) ? (mb_blob_header *)(void *)(f->data + r->offset) : NULL;
}

static uint32_t one_to(uint32_t most) { return 1 + fuzz_below(most); }

/* A size near a limit, or anything. */
static uint32_t any_size(uint32_t limit) {
  switch (fuzz_below(5)) {
    case 0:
      return limit + fuzz_below(3) - 1;
    case 1:
      return one_to(limit);
    case 2:
      return one_to(64);
    case 3:
      return limit >> fuzz_below(12);
    default:
      return (uint32_t)fuzz_edge();
  }
}

static void change_dimension(mb_model_config *c) {
  switch (fuzz_below(12)) {
    case 0:
      c->vocabulary = any_size(MB_MOST_VOCABULARY);
      break;
    case 1:
      c->hidden = any_size(MB_MOST_HIDDEN);
      break;
    case 2:
      c->layers = any_size(MB_MOST_LAYERS);
      break;
    case 3:
      c->heads = any_size(MB_MOST_HEADS);
      if (fuzz_below(2)) c->kv_heads = c->heads;
      break;
    case 4:
      c->kv_heads = any_size(MB_MOST_HEADS);
      if (fuzz_below(2)) c->heads = c->kv_heads * one_to(MB_MOST_SHARED_HEADS);
      break;
    case 5:
      c->head_dim = any_size(MB_MOST_HEAD_DIM) & ~(fuzz_below(4) ? 1u : 0u);
      break;
    case 6:
      c->feed_forward = any_size(MB_MOST_FEED_FORWARD);
      break;
    case 7:
    case 8:
      c->context = any_size(MB_MOST_CONTEXT);
      c->default_context = fuzz_below(2) ? c->context : one_to(c->context);
      break;
    case 9:
      c->sliding_window = fuzz_below(2) ? one_to(8) : (uint32_t)fuzz_edge();
      break;
    case 10:
      c->flags ^= 1u << fuzz_below(fuzz_below(4) ? 1 : 32);
      c->activation = fuzz_below(4);
      break;
    default: {
      const uint32_t bits = fuzz_below(2) ? (uint32_t)fuzz_random() : 0x7f800000u;
      memcpy(&c->norm_epsilon, &bits, sizeof bits);
      c->eos_count = fuzz_below(10);
      break;
    }
  }
}

/* The shape that the model needs of a tensor; false: none of its own (a shared codebook). */
static bool needed_shape(const mb_model_config *c, const char *name, size_t bytes, uint32_t *rows, uint32_t *columns) {
  const uint32_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  const struct {
    const char *name;
    uint32_t rows, columns;
  } tensors[] = {{"embedding.weight", c->vocabulary, c->hidden},
                 {"output.weight", c->vocabulary, c->hidden},
                 {"norm.weight", 1, c->hidden},
                 {"rope.inverse_frequencies", 1, c->head_dim / 2},
                 {"attention.norm.weight", 1, c->hidden},
                 {"attention.query.weight", attention, c->hidden},
                 {"attention.query.bias", 1, attention},
                 {"attention.key.weight", kv, c->hidden},
                 {"attention.key.bias", 1, kv},
                 {"attention.value.weight", kv, c->hidden},
                 {"attention.value.bias", 1, kv},
                 {"attention.output.weight", c->hidden, attention},
                 {"attention.output.bias", 1, c->hidden},
                 {"attention.query.norm.weight", 1, c->head_dim},
                 {"attention.key.norm.weight", 1, c->head_dim},
                 {"attention.sub_norm.weight", 1, attention},
                 {"mlp.norm.weight", 1, c->hidden},
                 {"mlp.gate.weight", c->feed_forward, c->hidden},
                 {"mlp.gate.bias", 1, c->feed_forward},
                 {"mlp.up.weight", c->feed_forward, c->hidden},
                 {"mlp.up.bias", 1, c->feed_forward},
                 {"mlp.down.weight", c->hidden, c->feed_forward},
                 {"mlp.down.bias", 1, c->hidden},
                 {"mlp.sub_norm.weight", 1, c->feed_forward}};
  if (bytes > 7 && memcmp(name, "layers.", 7) == 0) {
    const char *dot = memchr(name + 7, '.', bytes - 7);
    if (!dot) return false;
    bytes -= (size_t)(dot + 1 - name);
    name = dot + 1;
  }
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
    if (strlen(tensors[i].name) != bytes || memcmp(tensors[i].name, name, bytes) != 0) continue;
    *rows = tensors[i].rows;
    *columns = tensors[i].columns;
    return true;
  }
  return false;
}

/* Other dimensions that go together, small enough for a file of a few hundred kilobytes. */
static void choose_dimensions(mb_model_config *c) {
  if (fuzz_below(2)) c->vocabulary = one_to(fuzz_below(4) ? 64 : 4096);
  if (fuzz_below(2)) c->hidden = one_to(fuzz_below(4) ? 160 : 1024);
  if (fuzz_below(2)) c->feed_forward = one_to(fuzz_below(4) ? 160 : 2048);
  if (fuzz_below(2)) {
    c->kv_heads = one_to(fuzz_below(4) ? 4 : 32);
    c->heads = c->kv_heads * one_to(fuzz_below(4) ? 4 : MB_MOST_SHARED_HEADS);
    c->head_dim = 2 * one_to(fuzz_below(4) ? 16 : 160);
  }
  if (fuzz_below(2)) c->layers = one_to(c->layers);
  if (fuzz_below(2)) {
    c->context = any_size(MB_MOST_CONTEXT);
    c->default_context = one_to(c->context);
    c->sliding_window = one_to(8);
  }
}

/* Fills `bytes` with what was there, again and again. */
static void repeat(uint8_t *to, uint64_t bytes, const uint8_t *from, uint64_t had) {
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t part = bytes - done < had ? bytes - done : had;
    if (part == 0) {
      memset(to + done, 0, bytes - done);
      return;
    }
    memcpy(to + done, from, part);
    done += part;
  }
}

/* A blob of another shape at `to`, of which `room` bytes are free. Its size; 0: it cannot be. An entropy-coded one
 * becomes one that is stored as it is. */
static uint64_t reshape(const uint8_t *blob, uint64_t bytes, uint32_t rows, uint32_t columns, uint8_t *to,
                        uint64_t room) {
  mb_blob_header h, inner;
  memcpy(&h, blob, sizeof h);
  const bool coded = h.format == MB_FORMAT_ENTROPY && bytes >= sizeof h + MB_ENTROPY_HEAD;
  const uint64_t head = sizeof h + (coded ? MB_ENTROPY_HEAD : 0);
  memcpy(&inner, coded ? blob + sizeof h : blob, sizeof inner);
  if (inner.format == MB_FORMAT_VECTOR && MB_VECTOR_OUTLIERS(inner.flags) > columns) inner.flags &= (1u << 18) - 1;
  const uint64_t payload = mb_payload_bytes(inner.format, rows, columns, inner.group, inner.flags);
  if (payload == 0 || payload > room || head + payload > room) return 0;
  repeat(to + head, payload, blob + head, bytes - head);
  inner.rows = h.rows = rows;
  inner.columns = h.columns = columns;
  inner.payload_bytes = payload;
  h.payload_bytes = MB_ENTROPY_HEAD + payload;
  memcpy(to, coded ? &h : &inner, sizeof h);
  if (coded) {
    memset(to + sizeof h, 0, MB_ENTROPY_HEAD);
    memcpy(to + sizeof h, &inner, sizeof inner);
  }
  return head + payload;
}

static int by_offset(const void *a, const void *b) {
  const uint64_t x = (*(mb_index_record *const *)a)->offset, y = (*(mb_index_record *const *)b)->offset;
  return x < y ? -1 : x > y;
}

/* Lays all blobs out again, in the shapes that the config asks for (`follow`) or their own. */
static void lay_out(file *f, bool follow) {
  static uint8_t *out;
  if (!out && !(out = malloc((size_t)4 << 20))) exit(2);
  const uint64_t room = f->most < (size_t)4 << 20 ? f->most : (size_t)4 << 20;
  const uint64_t index_end = (uint64_t)((uint8_t *)f->header - f->data) + f->header->index_bytes;
  mb_index_record *order[MOST_RECORDS], changed[MOST_RECORDS];
  for (uint32_t i = 0; i < f->count; i++) order[i] = &f->records[i];
  qsort(order, f->count, sizeof *order, by_offset);
  uint64_t end = index_end;
  for (uint32_t i = 0; i < f->count; i++) {
    mb_index_record r = *order[i];
    const uint64_t at = (end + 63) / 64 * 64;
    if (!in_file(f, order[i]) || at > room) return;
    memset(out + end, 0, at - end);
    const uint8_t *blob = f->data + r.offset;
    uint32_t rows = r.rows, columns = r.columns;
    if (follow) (void)needed_shape(f->config, f->names + r.name_offset, r.name_bytes, &rows, &columns);
    r.offset = at;
    r.bytes = reshape(blob, r.bytes, rows, columns, out + at, room - at);
    if (r.bytes == 0) return;
    r.rows = rows;
    r.columns = columns;
    const mb_blob_header *h = (const mb_blob_header *)(const void *)(out + at);
    r.flags = h->flags;
    changed[i] = r;
    end = at + r.bytes;
  }
  for (uint32_t i = 0; i < f->count; i++) *order[i] = changed[i];
  memcpy(f->data + index_end, out + index_end, end - index_end);
  f->size = end;
}

/* Writes a record's description into its blob, and the size that it asks for into both. */
static void agree(const file *f, mb_index_record *r) {
  const uint64_t payload = mb_payload_bytes(r->format, r->rows, r->columns, r->group, r->flags);
  if (payload && payload < UINT32_MAX) r->bytes = sizeof(mb_blob_header) + payload;
  mb_blob_header *h = blob_of(f, r);
  if (!h) return;
  h->format = r->format;
  h->version = r->blob_version;
  h->rows = r->rows;
  h->columns = r->columns;
  h->group = r->group;
  h->flags = r->flags;
  h->payload_bytes = r->bytes - sizeof *h;
}

/* Another layout of vectors: their length, the indices' bits, outliers, whose codebooks. */
static void choose_vectors(mb_index_record *r) {
  const uint32_t length = 4 + fuzz_below(9);
  r->format = MB_FORMAT_VECTOR;
  r->flags = length << 4 | (8 + fuzz_below(9)) << 8 | (fuzz_below(2) ? 0 : 8 + fuzz_below(9)) << 13 |
             fuzz_below(4) << 18 | fuzz_below(2) * MB_FLAG_SHARED_CODEBOOK;
  r->group = length == 4 || length == 8 ? 128 : 0;
}

static void change_shape(const file *f, mb_index_record *r) {
  static const uint16_t formats[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 32, 33, 34, 35, 0, 14};
  static const uint32_t groups[] = {0, 8, 12, 32, 64, 128};
  const mb_index_record before = *r;
  switch (fuzz_below(5)) {
    case 0:
      r->rows = any_size(1u << 28);
      break;
    case 1:
      r->columns = any_size(fuzz_below(2) ? 1u << 28 : 1u << 20);
      break;
    case 2:
      r->group = groups[fuzz_below(6)];
      break;
    case 3:
      r->flags = fuzz_below(2) ? fuzz_below(8) : r->flags ^ 1u << fuzz_below(32);
      break;
    default:
      r->format = formats[fuzz_below(16)];
      if (r->format == MB_FORMAT_VECTOR) choose_vectors(r);
      break;
  }
  if (before.format == MB_FORMAT_VECTOR && fuzz_below(2)) { /* of a tensor that the model has a use for */
    *r = before;
    if (fuzz_below(2)) choose_vectors(r);
    if (fuzz_below(2)) r->flags = (r->flags & ((1u << 18) - 1)) | one_to(4) << 18;
  }
  if (fuzz_below(8)) agree(f, r);
}

static void change_place(const file *f, mb_index_record *r) {
  const mb_index_record *other = &f->records[fuzz_below(f->count)];
  switch (fuzz_below(5)) {
    case 0:
      r->offset = other->offset;
      break;
    case 1:
      r->offset += 64 * (uint64_t)fuzz_below(4) - 128;
      break;
    case 2:
      r->bytes = fuzz_below(2) ? other->bytes : r->bytes + fuzz_below(200) - 100;
      break;
    case 3:
      r->offset = fuzz_edge() & ~(uint64_t)63;
      break;
    default: { /* two change places */
      mb_index_record *second = &f->records[fuzz_below(f->count)];
      const uint64_t offset = r->offset;
      r->offset = second->offset;
      second->offset = offset;
      break;
    }
  }
}

/* The payload, or what an entropy-coded blob says of the blob in it. */
static void change_values(const file *f, const mb_index_record *r) {
  static const uint32_t floats[] = {0x7f800000, 0xff800000, 0x7fc00000, 0, 1, 0x7f7fffff, 0x80000000, 0x00800000};
  mb_blob_header *h = blob_of(f, r);
  if (!h) return;
  uint8_t *payload = (uint8_t *)(h + 1);
  const uint64_t bytes = r->bytes - sizeof *h;
  if (bytes < 4) return;
  for (uint32_t times = one_to(8); times > 0; times--) {
    uint64_t at = fuzz_below((uint32_t)(bytes < UINT32_MAX ? bytes : UINT32_MAX));
    if (fuzz_below(3) == 0) at %= 256;
    if (fuzz_below(3) == 0 && at / 4 * 4 + 4 <= bytes) {
      const uint32_t value = fuzz_below(2) ? floats[fuzz_below(8)] : (uint32_t)fuzz_edge();
      memcpy(payload + at / 4 * 4, &value, sizeof value);
    } else if (at < bytes) {
      payload[at] = fuzz_below(2) ? (uint8_t)fuzz_random() : fuzz_below(2) ? 0xff : 0;
    }
  }
  if (fuzz_below(8) == 0) memcpy(&h->scale, &floats[fuzz_below(8)], sizeof h->scale);
  if (h->format != MB_FORMAT_ENTROPY || bytes < MB_ENTROPY_HEAD || fuzz_below(2)) return;
  mb_blob_header *inner = (mb_blob_header *)(void *)payload;
  inner->format = fuzz_below(3) ? inner->format : (uint16_t)one_to(10);
  if (fuzz_below(3) == 0) inner->group = h->group = 32u << fuzz_below(3);
  if (fuzz_below(3) == 0) inner->rows = h->rows;
  inner->payload_bytes = mb_payload_bytes(inner->format, inner->rows, inner->columns, inner->group, inner->flags);
  if (fuzz_below(4) == 0) payload[sizeof *inner] = (uint8_t)fuzz_below(5);
}

static void change_name(const file *f, mb_index_record *r) {
  const mb_index_record *other = &f->records[fuzz_below(f->count)];
  switch (fuzz_below(4)) {
    case 0:
      r->name_offset = other->name_offset;
      r->name_bytes = other->name_bytes;
      break;
    case 1:
      r->name_bytes = fuzz_below(2) ? fuzz_below(300) : (uint32_t)fuzz_edge();
      break;
    case 2:
      f->names[fuzz_below(f->names_bytes)] ^= (char)(1 << fuzz_below(8));
      break;
    default:
      *r = *other;
      break;
  }
}

static void change_header(const file *f) {
  uint32_t *fields[] = {&f->header->tensor_count, &f->header->config_offset, &f->header->records_offset,
                        &f->header->names_offset, &f->header->names_bytes,   &f->header->version};
  uint32_t *field = fields[fuzz_below(6)];
  *field = fuzz_below(2) ? (uint32_t)fuzz_edge() : *field + 8 * fuzz_below(5) - 16;
  if (fuzz_below(4) == 0) f->header->index_bytes += fuzz_edge();
}

static uint64_t hash_of(const file *f, const mb_index_record *r) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (uint32_t i = 0; i < r->name_bytes; i++) hash = (hash ^ (uint8_t)f->names[r->name_offset + i]) * 0x100000001b3u;
  return hash;
}

static int by_hash(const void *a, const void *b) {
  const uint64_t x = ((const mb_index_record *)a)->name_hash, y = ((const mb_index_record *)b)->name_hash;
  return x < y ? -1 : x > y;
}

/* Hashes, order, sizes and checksums as they have to be. */
static void mend(file *f, uint64_t index_bytes) {
  const uint64_t base = (uint64_t)((uint8_t *)f->header - f->data);
  for (uint32_t i = 0; i < f->count; i++) {
    mb_index_record *r = &f->records[i];
    if (r->name_offset <= f->names_bytes && r->name_bytes <= f->names_bytes - r->name_offset)
      r->name_hash = hash_of(f, r);
    if (in_file(f, r)) r->crc32 = mb_crc32(0, f->data + r->offset, r->bytes);
  }
  qsort(f->records, f->count, sizeof *f->records, by_hash);
  const uint64_t segments = f->size - base;
  memcpy(f->data + FLAT_SEGMENTS, &segments, sizeof segments);
  f->header->file_bytes = f->size;
  f->header->crc32 = 0;
  if (f->header->index_bytes > f->size - base) index_bytes = 0; /* damaged on purpose */
  if (index_bytes) f->header->crc32 = mb_crc32(0, f->header, f->header->index_bytes);
}

size_t fuzz_mutate(uint8_t *data, size_t size, size_t most) {
  file f = parts_of(data, size, most);
  const uint64_t index_bytes = f.header->index_bytes;
  if (fuzz_below(2)) {
    choose_dimensions(f.config);
    lay_out(&f, true);
  }
  for (uint32_t times = fuzz_below(4); times > 0; times--) {
    mb_index_record *r = &f.records[fuzz_below(f.count)];
    switch (fuzz_below(10)) {
      case 0:
      case 1:
        change_dimension(f.config);
        break;
      case 2:
        change_shape(&f, r);
        if (fuzz_below(2)) lay_out(&f, false);
        break;
      case 3:
        change_place(&f, r);
        break;
      case 4:
        change_name(&f, r);
        break;
      case 5:
        if (fuzz_below(4) == 0) change_header(&f);
        break;
      default:
        change_values(&f, r);
        break;
    }
  }
  if (fuzz_below(32) == 0) f.size = f.size - fuzz_below(256);
  mend(&f, index_bytes);
  return f.size;
}

/* ---- using it ---- */

/* A product that the estimate has said to be possible. */
static uint64_t exact(uint64_t a, uint64_t b) {
  uint64_t product;
  if (__builtin_mul_overflow(a, b, &product)) abort();
  return product;
}

/* An estimate is an error, or what exact arithmetic gives. */
static void estimate(const mb_model_config *c, const mb_session_options *o) {
  mb_memory memory;
  if (mb_memory_estimate(c, o, &memory) != MB_OK) return;
  const uint64_t stride = ((uint64_t)c->head_dim + 31) / 32 * 32,
                 context = o->context ? o->context : c->default_context;
  const uint64_t vector = o->kv_type == MB_KV_INT8 ? stride + stride / 32 * 2 : 2 * stride;
  const uint64_t per_token = exact(exact(2 * (uint64_t)c->layers, c->kv_heads), vector), kv = exact(per_token, context);
  const uint64_t chunk = o->prefill_chunk ? o->prefill_chunk : 32;
  const uint64_t logits = exact(4 * (o->all_logits ? chunk : 1), c->vocabulary);
  const uint64_t widths = (uint64_t)c->hidden + c->feed_forward + exact(c->heads, c->head_dim);
  if (memory.kv_bytes_per_token != per_token || memory.kv_bytes < kv || memory.kv_bytes - kv > 256 ||
      memory.scratch_bytes < logits + exact(8 * chunk, widths) || memory.scratch_bytes > (uint64_t)1 << 50)
    abort();
}

static void estimates(const mb_model_config *c) {
  const mb_session_options options[] = {
      {.threads = 1},
      {.threads = 64, .prefill_chunk = 256, .all_logits = true},
      {.context = c->context, .threads = 64, .prefill_chunk = 256, .kv_type = MB_KV_F16, .all_logits = true},
      {.context = MB_MOST_CONTEXT, .threads = 3},
  };
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) estimate(c, &options[i]);
}

/* Tokens at the start of the context and, where the window keeps that cheap, at its end. */
static void decode(mb_model *model, const mb_session_options *options) {
  const mb_model_config *c = mb_model_get_config(model);
  mb_session *session;
  if (mb_session_open(model, options, &session) != MB_OK) return;
  const uint32_t context = mb_session_get_options(session)->context, last = c->vocabulary - 1;
  const int32_t tokens[] = {0, (int32_t)last, (int32_t)(last / 2)};
  const float *logits;
  (void)mb_session_feed(session, tokens, context < 3 ? context : 3, &logits);
  if (context > 4 && (context <= 4096 || (c->sliding_window > 0 && c->sliding_window <= 64))) {
    session->position = context - 2;
    (void)mb_session_feed(session, tokens, 2, &logits);
    if (mb_session_feed(session, tokens, 1, &logits) == MB_OK) abort();
  }
  if (options->all_logits) {
    (void)mb_session_rewind(session, 0);
    (void)mb_session_feed_all(session, tokens, context < 3 ? context : 3, &logits);
  }
  mb_memory memory;
  if (mb_session_memory(session, &memory) != MB_OK || memory.touched_file_bytes > memory.file_bytes ||
      memory.resident_file_bytes > memory.touched_file_bytes)
    abort();
  mb_session_close(session);
}

static void use(mb_model *model, uint32_t variant) {
  mb_session_options options = {.threads = 1,
                                .prefill_chunk = variant % 2 ? 2 : 0,
                                .kv_type = variant & 2 ? MB_KV_F16 : MB_KV_INT8,
                                .all_logits = (variant & 4) != 0,
                                .unchecked = variant % 64 != 0};
  if (variant & 8) options.context = mb_model_get_config(model)->context;
  decode(model, &options);
}

static void look_at(const mb_weights *weights, uint32_t variant) {
  for (uint32_t i = 0; i < weights->count && variant % 8 == 1; i++) {
    const mb_index_record *record = &weights->records[i];
    mb_matrix matrix;
    const char *reason;
    if (!mb_matrix_view(weights->file + record->offset, record->bytes, &matrix, &reason)) continue;
    if (matrix.format == MB_FORMAT_VECTOR && !matrix.vector.codebook) continue;
    float *row = malloc(matrix.columns * sizeof *row);
    if (!row) continue;
    mb_decode_row(&matrix, 0, row);
    mb_decode_row(&matrix, matrix.rows - 1, row);
    free(row);
  }
  if (variant % 8 == 2) (void)mb_weights_verify(weights);
}

/* A file and a folder for its cache, both in memory, used again and again. */
static struct {
  int fd;
  char path[64], folder[64];
} place = {.fd = -1};

static void remove_place(void) {
  char cache[160];
  snprintf(cache, sizeof cache, "%s/%d.cache", place.folder, place.fd);
  unlink(cache);
  rmdir(place.folder);
}

static void open_place(void) {
  const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
  const struct rlimit limit = {4 << 20, 4 << 20}; /* of a cache: what a file asks for is not what it may have */
  /* Named after the driver, whose children are one after another: what one leaves that dies, the next one uses. */
  snprintf(place.folder, sizeof place.folder, "%s/mb-fuzz-%d", folder, (int)getppid());
  place.fd = memfd_create("weights.ptd", MFD_CLOEXEC);
  snprintf(place.path, sizeof place.path, "/proc/self/fd/%d", place.fd);
  if (place.fd < 0 || (mkdir(place.folder, 0700) != 0 && errno != EEXIST) || setrlimit(RLIMIT_FSIZE, &limit) != 0)
    exit(2);
  signal(SIGXFSZ, SIG_IGN);
  atexit(remove_place);
}

/* Stored forms are decoded into a cache, which the model is then opened with. */
static void install_and_use(const uint8_t *data, size_t size, uint32_t variant) {
  if (place.fd < 0) open_place();
  if (ftruncate(place.fd, 0) != 0 || pwrite(place.fd, data, size, 0) != (ssize_t)size) return;
  const mb_model_options options = {.cache_dir = place.folder,
                                    .mapping = variant & 16 ? MB_MAPPING_LAYERS : MB_MAPPING_WHOLE};
  mb_model *model;
  if (mb_model_open(place.path, &options, &model) == MB_OK) {
    use(model, variant);
    mb_model_close(model);
    if (variant % 8 == 3) (void)mb_verify(place.path, place.folder);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  mb_weights weights;
  if (mb_weights_from_memory(data, size, true, &weights) != MB_OK) return 0;
  const uint32_t variant = weights.index_crc32;
  estimates(&weights.config);
  look_at(&weights, variant);
  if (mb_stored_count(&weights) > 0) {
    install_and_use(data, size, variant);
  } else {
    mb_model *model;
    if (mb_model_from_memory(data, size, true, NULL, &model) == MB_OK) {
      use(model, variant);
      mb_model_close(model);
    }
  }
  return 0;
}
