#include "search/rans_encode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/aligned.h"
#include "base/error.h"
#include "base/processor.h"
#include "packed/formats.h"
#include "storage/entropy.h"
#include "storage/streams.h"

/* Chunks that share a model are neighbours, 1, 2, 4, ... of them, or all: the grouping that takes least. */
typedef struct {
  uint32_t frequency[256]; /* adds up to 4096; one symbol alone has all of it */
  double bits;             /* of the group's symbols and of the model, or of the cheaper raw or constant form */
  uint8_t mode;            /* MB_MODE_RAW, _CONSTANT or _MODEL */
} group_model;

typedef struct {
  uint8_t *symbols;              /* of the whole payload; NULL: the stream is not there */
  size_t *begin;                 /* [chunks + 1] */
  uint32_t *histogram;           /* [chunks][256] */
  size_t per_group;              /* chunks that share a model */
  group_model *groups;           /* [ceil(chunks / per_group)] */
  uint16_t *words;               /* [symbols]; coded backwards from its end */
  size_t *first_word;            /* [chunks + 1]: where the words of a chunk begin */
  uint32_t state[MB_RANS_LANES]; /* what the decoder starts with */
} stream;

typedef struct {
  size_t chunks;
  stream streams[MB_STREAMS];
} encoder;

typedef struct {
  uint8_t *at, *end;
  bool full;
} writer;

static void put(writer *w, const void *data, size_t bytes) {
  if (w->full || bytes > (size_t)(w->end - w->at)) {
    w->full = true;
    return;
  }
  memcpy(w->at, data, bytes);
  w->at += bytes;
}

static void put_byte(writer *w, uint32_t value) {
  const uint8_t byte = (uint8_t)value;
  put(w, &byte, 1);
}

static void put_u32(writer *w, uint32_t value) {
  const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
  put(w, bytes, sizeof bytes);
}

/* ---- dividing ---- */

/* Counts chunks and symbols (symbols NULL), or writes the symbols and where the chunks begin in them. */
static size_t divide(const mb_stream_layout *layout, const uint8_t *payload, uint8_t *symbols[MB_STREAMS],
                     size_t count[MB_STREAMS], encoder *e) {
  mb_stream_cursor cursor = {0};
  size_t chunks = 0;
  memset(count, 0, MB_STREAMS * sizeof *count);
  for (; cursor.record < layout->records; chunks++) {
    uint64_t room = MB_ENTROPY_CHUNK, units;
    const mb_part *part;
    for (uint32_t k = 0; symbols && k < MB_STREAMS; k++)
      if (symbols[k]) e->streams[k].begin[chunks] = count[k];
    while ((units = mb_stream_next(layout, &cursor, room, &part)) > 0) {
      if (symbols) {
        uint8_t *to[MB_PART_STREAMS] = {0};
        for (uint32_t k = 0; k < MB_PART_STREAMS; k++)
          if (part->symbols[k] > 0) to[k] = symbols[part->stream + k] + count[part->stream + k];
        mb_stream_split(part, units, payload, to);
        payload += units * part->unit;
      }
      for (uint32_t k = 0; k < MB_PART_STREAMS; k++)
        if (part->symbols[k] > 0) count[part->stream + k] += (size_t)units * part->symbols[k];
      room -= units * part->unit;
    }
  }
  for (uint32_t k = 0; symbols && k < MB_STREAMS; k++)
    if (symbols[k]) e->streams[k].begin[chunks] = count[k];
  return chunks;
}

/* ---- models ---- */

/* Frequencies that add up to 4096 and cost least for these counts: rounded, then corrected where it costs least. */
static void fit(const uint64_t count[256], uint64_t total, uint32_t frequency[256]) {
  int64_t left = MB_RANS_TOTAL;
  for (uint32_t s = 0; s < 256; s++) {
    frequency[s] = 0;
    if (count[s] == 0) continue;
    const uint64_t exact = (count[s] * MB_RANS_TOTAL + total / 2) / total;
    frequency[s] = exact > 0 ? (uint32_t)exact : 1;
    left -= frequency[s];
  }
  for (; left != 0; left += left < 0 ? 1 : -1) {
    const uint32_t up = left > 0;
    double least = INFINITY;
    uint32_t best = 0;
    for (uint32_t s = 0; s < 256; s++) {
      if (count[s] == 0 || (!up && frequency[s] == 1)) continue;
      /* In units of 1 / log(2) bits, the logarithm by its tangent in the middle of the step. */
      const double f = frequency[s], cost = (double)count[s] / (up ? -f - 0.5 : f - 0.5);
      if (cost < least) least = cost, best = s;
    }
    frequency[best] += up ? 1 : UINT32_MAX;
  }
}

static size_t model_bytes(const uint32_t frequency[256]) {
  size_t bytes = 32;
  for (uint32_t s = 0; s < 256; s++) bytes += (frequency[s] > 0) + (frequency[s] > 128);
  return bytes;
}

static void put_model(writer *w, const uint32_t frequency[256]) {
  uint8_t present[32] = {0};
  for (uint32_t s = 0; s < 256; s++)
    if (frequency[s] > 0) present[s / 8] |= (uint8_t)(1u << s % 8);
  put(w, present, sizeof present);
  for (uint32_t s = 0; s < 256; s++) {
    if (frequency[s] == 0) continue;
    const uint32_t value = frequency[s] - 1;
    put_byte(w, value < 128 ? value : 128 + value % 128);
    if (value >= 128) put_byte(w, value / 128);
  }
}

/* The best model of chunks first..last-1. */
static group_model model_group(const stream *st, size_t first, size_t last) {
  uint64_t count[256] = {0};
  for (size_t chunk = first; chunk < last; chunk++)
    for (uint32_t s = 0; s < 256; s++) count[s] += st->histogram[256 * chunk + s];
  const uint64_t total = st->begin[last] - st->begin[first];
  group_model g = {.mode = MB_MODE_RAW, .bits = 8.0 * (double)total};
  if (total == 0) return g;
  fit(count, total, g.frequency);
  double bits = 8.0 * (double)model_bytes(g.frequency) + 32.0 * (double)(last - first);
  for (uint32_t s = 0; s < 256; s++) {
    if (g.frequency[s] == MB_RANS_TOTAL) {
      g.mode = MB_MODE_CONSTANT;
      g.bits = 8.0 * (double)(last - first);
      return g;
    }
    if (count[s] > 0) bits += (double)count[s] * (MB_RANS_BITS - log2(g.frequency[s]));
  }
  if (bits < g.bits) {
    g.mode = MB_MODE_MODEL;
    g.bits = bits;
  }
  return g;
}

/* Bits of the stream with `per_group` chunks for every model; fills `groups` unless it is NULL. */
static double model_stream(const stream *st, size_t chunks, size_t per_group, group_model *groups) {
  double bits = 0;
  bool coded = false;
  for (size_t first = 0, i = 0; first < chunks; first += per_group, i++) {
    const size_t last = chunks - first < per_group ? chunks : first + per_group;
    const group_model g = model_group(st, first, last);
    bits += g.bits;
    coded = coded || g.mode == MB_MODE_MODEL;
    if (groups) groups[i] = g;
  }
  return bits + (coded ? 32.0 * MB_RANS_LANES : 0); /* the states */
}

/* Chooses the grouping. A stream that the states make larger than its raw form is left raw. */
static bool choose_models(stream *st, size_t chunks) {
  double least = INFINITY;
  for (size_t size = chunks;; size = (size + 1) / 2) {
    const double bits = model_stream(st, chunks, size, NULL);
    if (bits < least) {
      least = bits;
      st->per_group = size;
    }
    if (size == 1) break;
  }
  const size_t groups = (chunks + st->per_group - 1) / st->per_group;
  st->groups = malloc(groups * sizeof *st->groups);
  if (st->groups == NULL) return false;
  model_stream(st, chunks, st->per_group, st->groups);
  if (least >= 8.0 * (double)st->begin[chunks])
    for (size_t i = 0; i < groups; i++) st->groups[i].mode = MB_MODE_RAW;
  return true;
}

/* ---- coding ---- */

/* Codes the stream backwards, so that the decoder gives it forwards. */
static void code_stream(stream *st, size_t chunks) {
  uint32_t start[256] = {0};
  size_t word = st->begin[chunks];
  st->first_word[chunks] = word;
  for (uint32_t lane = 0; lane < MB_RANS_LANES; lane++) st->state[lane] = MB_RANS_LOW;
  for (size_t chunk = chunks; chunk-- > 0; st->first_word[chunk] = word) {
    const group_model *g = &st->groups[chunk / st->per_group];
    if (g->mode != MB_MODE_MODEL) continue;
    for (uint32_t s = 1; s < 256; s++) start[s] = start[s - 1] + g->frequency[s - 1];
    const uint8_t *symbols = st->symbols + st->begin[chunk];
    for (size_t i = st->begin[chunk + 1] - st->begin[chunk]; i-- > 0;) {
      const uint32_t f = g->frequency[symbols[i]];
      uint32_t x = st->state[i % MB_RANS_LANES];
      if (x >= f << (32 - MB_RANS_BITS)) { /* the decoder's state would not fit: it takes this word back afterwards */
        st->words[--word] = (uint16_t)x;
        x >>= 16;
      }
      st->state[i % MB_RANS_LANES] = (x / f << MB_RANS_BITS) + x % f + start[symbols[i]];
    }
  }
}

static void put_stream_chunk(writer *w, const stream *st, size_t chunk, bool *started) {
  const size_t begin = st->begin[chunk], count = st->begin[chunk + 1] - begin;
  if (count == 0) return;
  const group_model *g = &st->groups[chunk / st->per_group];
  if (g->mode != MB_MODE_MODEL) {
    put_byte(w, g->mode);
    put(w, st->symbols + begin, g->mode == MB_MODE_RAW ? count : 1);
    return;
  }
  /* The group's first chunk with symbols of this stream brings the model. */
  const size_t group_begin = st->begin[chunk / st->per_group * st->per_group];
  put_byte(w, begin == group_begin ? MB_MODE_MODEL : MB_MODE_SAME);
  if (begin == group_begin) put_model(w, g->frequency);
  if (!*started)
    for (uint32_t lane = 0; lane < MB_RANS_LANES; lane++) put_u32(w, st->state[lane]);
  *started = true;
  const size_t first = st->first_word[chunk], words = st->first_word[chunk + 1] - first;
  put_u32(w, (uint32_t)words);
  put(w, st->words + first, 2 * words); /* little endian, as every processor that the runtime is built for */
}

/* Memory of a stream with `symbols` symbols. */
static bool open_stream(stream *st, size_t symbols, size_t chunks) {
  st->symbols = malloc(symbols);
  st->begin = malloc((chunks + 1) * sizeof *st->begin);
  st->histogram = calloc(256 * chunks, sizeof *st->histogram);
  st->first_word = malloc((chunks + 1) * sizeof *st->first_word);
  return st->symbols && st->begin && st->histogram && st->first_word;
}

static bool encode_stream(stream *st, size_t chunks) {
  for (size_t chunk = 0; chunk < chunks; chunk++)
    for (size_t i = st->begin[chunk]; i < st->begin[chunk + 1]; i++) st->histogram[256 * chunk + st->symbols[i]]++;
  if (!choose_models(st, chunks)) return false;
  st->words = malloc(st->begin[chunks] * sizeof *st->words); /* a symbol takes one at most */
  if (st->words == NULL) return false;
  code_stream(st, chunks);
  return true;
}

static bool encode(encoder *e, const mb_stream_layout *layout, const uint8_t *payload, writer *w) {
  size_t count[MB_STREAMS];
  uint8_t *symbols[MB_STREAMS] = {0};
  e->chunks = divide(layout, payload, NULL, count, e);
  for (uint32_t k = 0; k < MB_STREAMS; k++) {
    if (count[k] == 0) continue;
    if (!open_stream(&e->streams[k], count[k], e->chunks)) return false;
    symbols[k] = e->streams[k].symbols;
  }
  divide(layout, payload, symbols, count, e);
  for (uint32_t k = 0; k < MB_STREAMS; k++)
    if (symbols[k] && !encode_stream(&e->streams[k], e->chunks)) return false;
  bool started[MB_STREAMS] = {false};
  for (size_t chunk = 0; chunk < e->chunks; chunk++)
    for (uint32_t k = 0; k < MB_STREAMS; k++)
      if (symbols[k]) put_stream_chunk(w, &e->streams[k], chunk, &started[k]);
  return true;
}

static void release(encoder *e) {
  for (uint32_t k = 0; k < MB_STREAMS; k++) {
    stream *st = &e->streams[k];
    free(st->symbols);
    free(st->begin);
    free(st->histogram);
    free(st->groups);
    free(st->words);
    free(st->first_word);
  }
  free(e);
}

mb_status mb_rans_encode(const void *blob, uint64_t bytes, void *out, uint64_t capacity, uint64_t *written) {
  mb_blob_header header;
  if (bytes < sizeof header) return mb_fail(MB_ERROR_ARGUMENT, "no blob to code");
  memcpy(&header, blob, sizeof header);
  if (header.format >= MB_FIRST_STORED_FORMAT || header.payload_bytes != bytes - sizeof header ||
      header.payload_bytes != mb_payload_bytes(header.format, header.rows, header.columns, header.group, header.flags))
    return mb_fail(MB_ERROR_ARGUMENT, "the blob to code is not a packed one");
  mb_stream_layout layout;
  mb_stream_layout_of(&header, &layout);
  encoder *e = calloc(1, sizeof *e);
  if (e == NULL) return mb_fail(MB_ERROR_MEMORY, "no memory to code a blob");
  writer w = {out, (uint8_t *)out + capacity, false};
  const bool done = encode(e, &layout, (const uint8_t *)blob + sizeof header, &w);
  release(e);
  if (!done) return mb_fail(MB_ERROR_MEMORY, "no memory to code a blob of %llu bytes", (unsigned long long)bytes);
  *written = w.full ? 0 : (uint64_t)(w.at - (uint8_t *)out);
  return MB_OK;
}

typedef struct {
  uint8_t *at, *end;
} buffer;

static bool append(void *context, const void *data, size_t bytes) {
  buffer *b = context;
  if (bytes > (size_t)(b->end - b->at)) return false;
  memcpy(b->at, data, bytes);
  b->at += bytes;
  return true;
}

static mb_rans_decoder decoder_named(const char *name) {
  if (strcmp(name, "scalar") == 0) return mb_rans_decode_scalar;
#if defined(MB_HAVE_AVX2)
  if (strcmp(name, "avx2") == 0 && mb_processor_has_avx2()) return mb_rans_decode_avx2;
#endif
  return NULL;
}

mb_status mb_entropy_decode_with(const char *decoder, const void *blob, uint64_t bytes, void *out, uint64_t capacity,
                                 uint64_t *written) {
  const mb_rans_decoder rans = decoder_named(decoder);
  if (rans == NULL) return mb_fail(MB_ERROR_ARGUMENT, "no rANS decoder %s on this processor", decoder);
  mb_storage_plan plan;
  mb_blob_header header;
  const char *reason = NULL;
  if (!mb_storage_plan_of(blob, bytes, &plan, &reason)) return mb_fail(MB_ERROR_FORMAT, "%s", reason);
  memcpy(&header, blob, sizeof header);
  if (header.format != MB_FORMAT_ENTROPY) return mb_fail(MB_ERROR_ARGUMENT, "the blob is not entropy-coded");
  void *scratch = mb_aligned_malloc(plan.scratch_bytes);
  if (scratch == NULL) return mb_fail(MB_ERROR_MEMORY, "no memory to decode a blob");
  buffer b = {out, (uint8_t *)out + capacity};
  const bool done =
      mb_entropy_decode_by(rans, &header, (const uint8_t *)blob + sizeof header, scratch, append, &b, &reason);
  free(scratch);
  if (!done) return mb_fail(MB_ERROR_FORMAT, "%s", reason ? reason : "no room for the decoded blob");
  *written = (uint64_t)(b.at - (uint8_t *)out);
  return MB_OK;
}
