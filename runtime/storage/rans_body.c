/* The body of an rANS-coded blob (entropy.h), chunk by chunk. */
#include <string.h>

#include "storage/entropy.h"
#include "storage/streams.h"

/* A chunk of AFFINE3 alone has more symbols than bytes, 4 for 3. */
enum { CHUNK_SYMBOLS = MB_ENTROPY_CHUNK / 3 * 4 };

typedef struct {
  bool has_model, has_state;
  uint32_t state[MB_RANS_LANES];
  mb_rans_table table;
} stream_coder;

/* In the caller's scratch; of `coder` only as many as the layout has streams. */
typedef struct {
  mb_stream_layout layout;
  uint8_t packed[MB_ENTROPY_CHUNK];
  uint8_t symbols[CHUNK_SYMBOLS];
  stream_coder coder[];
} scratch_space;

typedef struct {
  const uint8_t *at, *end;
} reader;

/* The next `bytes` bytes, NULL where they are not there. */
static const uint8_t *take(reader *r, size_t bytes) {
  if (bytes > (size_t)(r->end - r->at)) return NULL;
  r->at += bytes;
  return r->at - bytes;
}

static uint32_t load_u32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static bool read_states(reader *r, uint32_t state[MB_RANS_LANES]) {
  const uint8_t *p = take(r, 4 * MB_RANS_LANES);
  if (p == NULL) return false;
  for (uint32_t lane = 0; lane < MB_RANS_LANES; lane++) {
    state[lane] = load_u32(p + 4 * lane);
    if (state[lane] < MB_RANS_LOW) return false;
  }
  return true;
}

/* `count` symbols of a stream; gives where they are (in `out` or, raw ones, in the body), NULL for a damaged body. */
static const uint8_t *read_symbols(reader *r, stream_coder *coder, mb_rans_decoder decode, uint8_t *out, size_t count) {
  const uint8_t *mode = take(r, 1);
  if (mode == NULL) return NULL;
  if (*mode == MB_MODE_RAW) return take(r, count);
  if (*mode == MB_MODE_CONSTANT) {
    const uint8_t *value = take(r, 1);
    return value == NULL ? NULL : memset(out, *value, count);
  }
  if (*mode == MB_MODE_MODEL) {
    const size_t bytes = mb_rans_read_model(r->at, (size_t)(r->end - r->at), &coder->table);
    coder->has_model = bytes > 0;
    r->at += bytes;
  } else if (*mode != MB_MODE_SAME) {
    return NULL;
  }
  if (!coder->has_model) return NULL;
  if (!coder->has_state && !read_states(r, coder->state)) return NULL;
  coder->has_state = true;
  const uint8_t *size = take(r, 4);
  if (size == NULL) return NULL;
  const uint32_t words = load_u32(size);
  if (words > count) return NULL; /* a symbol takes one at most */
  const uint8_t *data = take(r, 2 * (size_t)words);
  if (data == NULL) return NULL;
  return decode(&coder->table, coder->state, data, r->at, r->end, out, count) ? out : NULL;
}

/* Symbols of each stream in the chunk at `cursor`. */
static void count_symbols(const mb_stream_layout *layout, mb_stream_cursor cursor, size_t count[MB_STREAMS]) {
  const mb_part *part;
  uint64_t room = MB_ENTROPY_CHUNK, units;
  memset(count, 0, MB_STREAMS * sizeof *count);
  while ((units = mb_stream_next(layout, &cursor, room, &part)) > 0) {
    room -= units * part->unit;
    for (uint32_t k = 0; k < MB_PART_STREAMS; k++)
      if (part->symbols[k] > 0) count[part->stream + k] += (size_t)units * part->symbols[k];
  }
}

/* Streams to packed bytes; gives how many. */
static size_t merge_chunk(const mb_stream_layout *layout, mb_stream_cursor *cursor, const uint8_t *stream[MB_STREAMS],
                          uint8_t *packed) {
  const mb_part *part;
  uint64_t room = MB_ENTROPY_CHUNK, units;
  while ((units = mb_stream_next(layout, cursor, room, &part)) > 0) {
    const uint8_t *from[MB_PART_STREAMS] = {0};
    for (uint32_t k = 0; k < MB_PART_STREAMS; k++)
      if (part->symbols[k] > 0) from[k] = stream[part->stream + k];
    mb_stream_merge(part, units, from, packed + (MB_ENTROPY_CHUNK - room));
    for (uint32_t k = 0; k < MB_PART_STREAMS; k++)
      if (part->symbols[k] > 0) stream[part->stream + k] = from[k];
    room -= units * part->unit;
  }
  return (size_t)(MB_ENTROPY_CHUNK - room);
}

static uint32_t stream_count(const mb_stream_layout *layout) {
  uint32_t streams = 0;
  for (uint32_t i = 0; i < layout->records; i++)
    for (uint32_t j = 0; j < layout->record[i].parts; j++)
      for (uint32_t k = 0; k < MB_PART_STREAMS; k++) {
        const mb_part *part = &layout->record[i].part[j];
        if (part->symbols[k] > 0 && part->stream + k >= streams) streams = part->stream + k + 1;
      }
  return streams;
}

size_t mb_rans_scratch_bytes(const mb_blob_header *inner) {
  mb_stream_layout layout;
  mb_stream_layout_of(inner, &layout);
  return sizeof(scratch_space) + stream_count(&layout) * sizeof(stream_coder);
}

bool mb_rans_body(const mb_entropy_body *body, mb_rans_decoder decode, void *scratch, mb_sink sink, void *context,
                  const char **reason) {
  scratch_space *s = scratch;
  mb_stream_layout_of(body->inner, &s->layout);
  const uint32_t streams = stream_count(&s->layout);
  for (uint32_t k = 0; k < streams; k++) s->coder[k].has_model = s->coder[k].has_state = false;
  reader r = {body->data, body->data + body->bytes};
  mb_stream_cursor cursor = {0};
  *reason = "rANS-coded blob is damaged";
  while (cursor.record < s->layout.records) {
    size_t count[MB_STREAMS];
    const uint8_t *stream[MB_STREAMS];
    count_symbols(&s->layout, cursor, count);
    uint8_t *out = s->symbols;
    for (uint32_t k = 0; k < streams; k++) {
      if (count[k] == 0) continue;
      stream[k] = read_symbols(&r, &s->coder[k], decode, out, count[k]);
      if (stream[k] == NULL) return false;
      out += count[k];
    }
    const size_t bytes = merge_chunk(&s->layout, &cursor, stream, s->packed);
    if (!sink(context, s->packed, bytes)) {
      *reason = NULL;
      return false;
    }
  }
  if (r.at != r.end) return false;
  for (uint32_t k = 0; k < streams; k++)
    for (uint32_t lane = 0; s->coder[k].has_state && lane < MB_RANS_LANES; lane++)
      if (s->coder[k].state[lane] != MB_RANS_LOW) return false;
  *reason = NULL;
  return true;
}
