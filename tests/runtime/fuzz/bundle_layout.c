/* Models of other dimensions, in files that are laid out for them. */
#include <stdlib.h>
#include <string.h>

#include "engine/config.h"
#include "fuzz_bundle.h"
#include "storage/entropy.h"

/* The shape that the model needs of a tensor; false: none of its own (a shared codebook). */
static bool needed_shape(const mb_model_config *c, const char *name, size_t bytes, uint32_t *rows, uint32_t *columns) {
  const uint32_t attention = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
  const bool wide = (c->flags & MB_MODEL_WIDE_QK_NORMS) != 0;
  const struct {
    const char *name;
    uint32_t rows, columns;
  } tensors[] = {{"embedding.weight", c->vocabulary, c->hidden},
                 {"output.weight", c->vocabulary, c->hidden},
                 {"norm.weight", 1, c->hidden},
                 {"rope.inverse_frequencies", 1, mb_rotary_dim(c) / 2},
                 {"rope.window.inverse_frequencies", 1, mb_rotary_dim(c) / 2},
                 {"attention.norm.weight", 1, c->hidden},
                 {"conv.input.weight", 3 * c->hidden, c->hidden},
                 {"conv.taps.weight", 1, c->convolution_taps * c->hidden},
                 {"conv.output.weight", c->hidden, c->hidden},
                 {"attention.query.weight", attention, c->hidden},
                 {"attention.query.bias", 1, attention},
                 {"attention.key.weight", kv, c->hidden},
                 {"attention.key.bias", 1, kv},
                 {"attention.value.weight", kv, c->hidden},
                 {"attention.value.bias", 1, kv},
                 {"attention.output.weight", c->hidden, attention},
                 {"attention.output.bias", 1, c->hidden},
                 {"attention.query.norm.weight", 1, wide ? attention : c->head_dim},
                 {"attention.key.norm.weight", 1, wide ? kv : c->head_dim},
                 {"attention.sub_norm.weight", 1, attention},
                 {"mlp.norm.weight", 1, c->hidden},
                 {"mlp.gate.weight", c->feed_forward, c->hidden},
                 {"mlp.gate.bias", 1, c->feed_forward},
                 {"mlp.up.weight", c->feed_forward, c->hidden},
                 {"mlp.up.bias", 1, c->feed_forward},
                 {"mlp.down.weight", c->hidden, c->feed_forward},
                 {"mlp.down.bias", 1, c->hidden},
                 {"mlp.sub_norm.weight", 1, c->feed_forward},
                 {"attention.output.norm.weight", 1, c->hidden},
                 {"mlp.output.norm.weight", 1, c->hidden}};
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

void bundle_choose_dimensions(mb_model_config *c) {
  if (fuzz_below(2)) c->vocabulary = bundle_one_to(fuzz_below(4) ? 64 : 4096);
  if (fuzz_below(2)) c->hidden = bundle_one_to(fuzz_below(4) ? 160 : 1024);
  if (fuzz_below(2)) c->feed_forward = bundle_one_to(fuzz_below(4) ? 160 : 2048);
  if (fuzz_below(2)) {
    c->kv_heads = bundle_one_to(fuzz_below(4) ? 4 : 32);
    c->heads = c->kv_heads * bundle_one_to(fuzz_below(4) ? 4 : MB_MOST_SHARED_HEADS);
    c->head_dim = 2 * bundle_one_to(fuzz_below(4) ? 16 : 160);
  }
  if (fuzz_below(2)) c->layers = bundle_one_to(c->layers);
  if (fuzz_below(2)) {
    c->context = bundle_any_size(MB_MOST_CONTEXT);
    c->default_context = bundle_one_to(c->context);
    c->sliding_window = bundle_one_to(8);
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

void bundle_lay_out(bundle_file *f, bool follow) {
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
    if (!bundle_holds(f, order[i]) || at > room) return;
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
