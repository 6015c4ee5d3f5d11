/* Single changes of a weights.ptd, each of a kind that a check must find or that must do no harm. */
#include <string.h>

#include "fuzz_bundle.h"
#include "storage/entropy.h"

uint32_t bundle_any_size(uint32_t limit) {
  switch (fuzz_below(5)) {
    case 0:
      return limit + fuzz_below(3) - 1;
    case 1:
      return bundle_one_to(limit);
    case 2:
      return bundle_one_to(64);
    case 3:
      return limit >> fuzz_below(12);
    default:
      return (uint32_t)fuzz_edge();
  }
}

void bundle_change_dimension(mb_model_config *c) {
  switch (fuzz_below(16)) {
    case 0:
      c->vocabulary = bundle_any_size(MB_MOST_VOCABULARY);
      break;
    case 1:
      c->hidden = bundle_any_size(MB_MOST_HIDDEN);
      break;
    case 2:
      c->layers = bundle_any_size(MB_MOST_LAYERS);
      break;
    case 3:
      c->heads = bundle_any_size(MB_MOST_HEADS);
      if (fuzz_below(2)) c->kv_heads = c->heads;
      break;
    case 4:
      c->kv_heads = bundle_any_size(MB_MOST_HEADS);
      if (fuzz_below(2)) c->heads = c->kv_heads * bundle_one_to(MB_MOST_SHARED_HEADS);
      break;
    case 5:
      c->head_dim = bundle_any_size(MB_MOST_HEAD_DIM) & ~(fuzz_below(4) ? 1u : 0u);
      break;
    case 6:
      c->feed_forward = bundle_any_size(MB_MOST_FEED_FORWARD);
      break;
    case 7:
    case 8:
      c->context = bundle_any_size(MB_MOST_CONTEXT);
      c->default_context = fuzz_below(2) ? c->context : bundle_one_to(c->context);
      break;
    case 9:
      c->sliding_window = fuzz_below(2) ? bundle_one_to(8) : (uint32_t)fuzz_edge();
      break;
    case 10:
      c->flags ^= 1u << fuzz_below(fuzz_below(4) ? 7 : 32);
      c->activation = fuzz_below(5);
      break;
    case 11: {
      float *factors[] = {&c->embedding_scale, &c->residual_scale, &c->query_scale,
                          &c->rotary_scale,    &c->score_cap,      &c->logit_cap};
      const uint32_t bits = fuzz_below(2) ? (uint32_t)fuzz_random() : 0x3f000000u;
      memcpy(factors[fuzz_below(6)], &bits, sizeof bits);
      break;
    }
    case 12:
      c->rotary_dim = fuzz_below(2) ? 2 * bundle_one_to(c->head_dim) : (uint32_t)fuzz_edge();
      break;
    case 13: {
      uint8_t *sets[] = {c->full_layers, c->unrotated_layers, c->convolution_layers};
      sets[fuzz_below(3)][fuzz_below(MB_LAYER_SET_BYTES)] ^= (uint8_t)fuzz_below(4);
      break;
    }
    case 14:
      c->convolution_taps = bundle_any_size(MB_MOST_TAPS);
      break;
    default: {
      const uint32_t bits = fuzz_below(2) ? (uint32_t)fuzz_random() : 0x7f800000u;
      memcpy(&c->norm_epsilon, &bits, sizeof bits);
      c->eos_count = fuzz_below(10);
      break;
    }
  }
}

/* Writes a record's description into its blob, and the size that it asks for into both. */
static void agree(const bundle_file *f, mb_index_record *r) {
  const uint64_t payload = mb_payload_bytes(r->format, r->rows, r->columns, r->group, r->flags);
  if (payload && payload < UINT32_MAX) r->bytes = sizeof(mb_blob_header) + payload;
  mb_blob_header *h = bundle_blob(f, r);
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

void bundle_change_shape(const bundle_file *f, mb_index_record *r) {
  static const uint16_t formats[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                     13, 14, 15, 16, 17, 18, 32, 33, 34, 35, 0,  19};
  static const uint32_t groups[] = {0, 8, 12, 32, 64, 128};
  const mb_index_record before = *r;
  switch (fuzz_below(5)) {
    case 0:
      r->rows = bundle_any_size(1u << 28);
      break;
    case 1:
      r->columns = bundle_any_size(fuzz_below(2) ? 1u << 28 : 1u << 20);
      break;
    case 2:
      r->group = groups[fuzz_below(6)];
      break;
    case 3:
      r->flags = fuzz_below(2) ? fuzz_below(16) : r->flags ^ 1u << fuzz_below(32);
      break;
    default:
      r->format = formats[fuzz_below(sizeof formats / sizeof *formats)];
      if (r->format == MB_FORMAT_VECTOR) choose_vectors(r);
      break;
  }
  if (before.format == MB_FORMAT_VECTOR && fuzz_below(2)) { /* of a tensor that the model has a use for */
    *r = before;
    if (fuzz_below(2)) choose_vectors(r);
    if (fuzz_below(2)) r->flags = (r->flags & ((1u << 18) - 1)) | bundle_one_to(4) << 18;
  }
  if (fuzz_below(8)) agree(f, r);
}

void bundle_change_place(const bundle_file *f, mb_index_record *r) {
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

void bundle_change_values(const bundle_file *f, const mb_index_record *r) {
  static const uint32_t floats[] = {0x7f800000, 0xff800000, 0x7fc00000, 0, 1, 0x7f7fffff, 0x80000000, 0x00800000};
  mb_blob_header *h = bundle_blob(f, r);
  if (!h) return;
  uint8_t *payload = (uint8_t *)(h + 1);
  const uint64_t bytes = r->bytes - sizeof *h;
  if (bytes < 4) return;
  for (uint32_t times = bundle_one_to(8); times > 0; times--) {
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
  inner->format = fuzz_below(3) ? inner->format : (uint16_t)bundle_one_to(10);
  if (fuzz_below(3) == 0) inner->group = h->group = 32u << fuzz_below(3);
  if (fuzz_below(3) == 0) inner->rows = h->rows;
  inner->payload_bytes = mb_payload_bytes(inner->format, inner->rows, inner->columns, inner->group, inner->flags);
  if (fuzz_below(4) == 0) payload[sizeof *inner] = (uint8_t)fuzz_below(5);
}

void bundle_change_name(const bundle_file *f, mb_index_record *r) {
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

void bundle_change_header(const bundle_file *f) {
  uint32_t *fields[] = {&f->header->tensor_count, &f->header->config_offset, &f->header->records_offset,
                        &f->header->names_offset, &f->header->names_bytes,   &f->header->version};
  uint32_t *field = fields[fuzz_below(6)];
  *field = fuzz_below(2) ? (uint32_t)fuzz_edge() : *field + 8 * fuzz_below(5) - 16;
  if (fuzz_below(4) == 0) f->header->index_bytes += fuzz_edge();
}
