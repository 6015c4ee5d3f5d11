/* Hyper-Compression's lattice (lattice.h) to weights, and those to AFFINE8. */
#include "storage/lattice.h"

#include <math.h>
#include <string.h>

#include "storage/affine8_writer.h"
#include "storage/decoders.h"
#include "storage/target.h"

enum { CODES = MB_LATTICE_CLASSES * (MB_LATTICE_NODES + 1) };

typedef struct {
  const float (*points)[2]; /* both weights of every code */
  const uint8_t *indices;
  uint64_t bytes; /* of the indices */
  uint64_t pairs; /* of a row */
} stored;

bool mb_lattice_plan(const mb_blob_header *header, const uint8_t *payload, mb_storage_plan *plan, const char **reason) {
  (void)payload;
  return mb_storage_target(header, MB_FORMAT_AFFINE8, MB_AFFINE8_GROUP, 0, 1,
                           sizeof(float[CODES][2]) + mb_affine8_scratch_bytes(), plan, reason);
}

/* Index i. It lies in three bytes, the last two of which may be missing at the end of the payload. */
static inline uint32_t index_at(const stored *s, uint64_t i) {
  const uint64_t bit = i * MB_LATTICE_BITS, byte = bit / 8;
  uint32_t word;
  if (s->bytes - byte >= sizeof word) {
    memcpy(&word, s->indices + byte, sizeof word);
  } else {
    word = s->indices[byte];
    if (byte + 1 < s->bytes) word |= (uint32_t)s->indices[byte + 1] << 8;
    if (byte + 2 < s->bytes) word |= (uint32_t)s->indices[byte + 2] << 16;
  }
  return word >> bit % 8 & ((1u << MB_LATTICE_BITS) - 1);
}

static bool read_tile(const void *context, uint32_t row, uint32_t column, uint32_t count, float *out) {
  const stored *s = context;
  uint64_t at = row * s->pairs + column / 2;
  for (uint32_t c = 0; c < count; c += 2) {
    const uint32_t index = index_at(s, at++);
    if (index >= CODES) return false;
    memcpy(out + c, s->points[index], (count - c < 2 ? 1 : 2) * sizeof *out);
  }
  return true;
}

static void fill_points(const mb_lattice_head *head, float points[CODES][2]) {
  for (uint32_t index = 0; index < CODES; index++) {
    const int32_t n = (int32_t)(index % (MB_LATTICE_NODES + 1));
    const bool centre = n == MB_LATTICE_NODES;
    const int32_t x = centre ? 0 : 2 * n - (MB_LATTICE_NODES - 1);
    const int32_t y = centre ? 0 : MB_LATTICE_TURNS * (2 * (n % MB_LATTICE_TURNS) - (MB_LATTICE_TURNS - 1));
    const float step = head->step[index / (MB_LATTICE_NODES + 1)];
    points[index][0] = (float)x * step + head->centre[0];
    points[index][1] = (float)y * step + head->centre[1];
  }
}

static bool valid(const mb_lattice_head *head) {
  bool finite = isfinite(head->centre[0]) && isfinite(head->centre[1]);
  for (uint32_t k = 0; k < MB_LATTICE_CLASSES; k++) finite = finite && isfinite(head->step[k]);
  uint8_t reserved = 0;
  for (size_t i = 0; i < sizeof head->reserved; i++) reserved |= head->reserved[i];
  return finite && reserved == 0;
}

bool mb_lattice_decode(const mb_blob_header *header, const uint8_t *payload, void *scratch, mb_sink sink, void *context,
                       const char **reason) {
  mb_storage_plan plan;
  if (!mb_lattice_plan(header, payload, &plan, reason)) return false;
  mb_lattice_head head;
  memcpy(&head, payload, sizeof head);
  if (!valid(&head)) {
    *reason = "head of the lattice blob is damaged";
    return false;
  }
  float (*points)[2] = scratch;
  fill_points(&head, points);
  stored s = {.points = (const float (*)[2])points,
              .indices = payload + sizeof head,
              .bytes = header->payload_bytes - sizeof head,
              .pairs = ((uint64_t)header->columns + 1) / 2};
  return mb_affine8_write(&plan, read_tile, &s, (uint8_t *)scratch + sizeof(float[CODES][2]), sink, context, reason);
}
