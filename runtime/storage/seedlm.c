/* SeedLM (packed_formats.h): seeds of a 16-bit LFSR and 4-bit coefficients to weights, and those to AFFINE8. */
#include <math.h>
#include <string.h>

#include "storage/affine8_writer.h"
#include "storage/decoders.h"
#include "storage/target.h"

typedef struct {
  const uint8_t *seeds, *nibbles;
  uint64_t blocks; /* of a row */
  uint32_t length; /* of a block */
  float steps[16]; /* scale * 2^e, e = -8..7 */
} stored;

bool mb_seedlm_plan(const mb_blob_header *header, const uint8_t *payload, mb_storage_plan *plan, const char **reason) {
  (void)payload;
  return mb_storage_target(header, MB_FORMAT_AFFINE8, MB_AFFINE8_GROUP, 0, 1, mb_affine8_scratch_bytes(), plan, reason);
}

static inline uint32_t nibble(const uint8_t *nibbles, uint64_t i) { return nibbles[i / 2] >> i % 2 * 4 & 15u; }

/* The register's output from the seed on, oldest bit lowest: bits j..j+15 are the state after j steps. x[n + 16] =
 * x[n] ^ x[n+1] ^ x[n+3] ^ x[n+12], which is known four bits ahead; squared, x[n + 32] = x[n] ^ x[n+2] ^ x[n+6] ^
 * x[n+24], eight ahead. `count` bits, 40 to 64, hold count - 16 states. */
static inline uint64_t lfsr_bits(uint32_t seed, uint32_t count) {
  uint64_t x = seed;
  for (uint32_t i = 0; i < 16; i += 4) x |= ((x ^ x >> 1 ^ x >> 3 ^ x >> 12) >> i & 15u) << (16 + i);
  for (uint32_t i = 0; i < count - 32; i += 8) x |= ((x ^ x >> 2 ^ x >> 6 ^ x >> 24) >> i & 255u) << (32 + i);
  return x;
}

static inline void decode_block(uint32_t seed, float step, const int32_t *q, float *out, uint32_t length,
                                uint32_t coefficients) {
  const uint64_t bits = lfsr_bits(seed, 16 + length * coefficients);
  int32_t offset = 0;
  for (uint32_t p = 0; p < coefficients; p++) offset -= 32768 * q[p];
  for (uint32_t i = 0; i < length; i++) {
    int32_t sum = offset;
    for (uint32_t p = 0; p < coefficients; p++) sum += (int32_t)(bits >> (i * coefficients + p + 1) & 0xffffu) * q[p];
    out[i] = (float)sum * step; /* |sum| < 2^21: exact */
  }
}

static bool read_tile(const void *context, uint32_t row, uint32_t column, uint32_t count, float *out) {
  const stored *s = context;
  const uint32_t length = s->length, coefficients = length == 8 ? 3 : 4;
  uint64_t block = row * s->blocks + column / length;
  uint64_t at = block * (coefficients + 1);
  for (uint32_t done = 0; done < count; done += length, block++) {
    uint16_t seed;
    memcpy(&seed, s->seeds + 2 * block, 2);
    if (seed == 0) return false;
    const float step = s->steps[nibble(s->nibbles, at++)];
    int32_t q[4];
    for (uint32_t p = 0; p < coefficients; p++) q[p] = (int32_t)nibble(s->nibbles, at++) - 8;
    float last[12], *here = count - done < length ? last : out + done;
    if (length == 8) {
      decode_block(seed, step, q, here, 8, 3);
    } else {
      decode_block(seed, step, q, here, 12, 4);
    }
    if (here == last) memcpy(out + done, last, (count - done) * sizeof *last);
  }
  return true;
}

bool mb_seedlm_decode(const mb_blob_header *header, const uint8_t *payload, void *scratch, mb_sink sink, void *context,
                      const char **reason) {
  mb_storage_plan plan;
  if (!mb_seedlm_plan(header, payload, &plan, reason)) return false;
  const uint64_t blocks = (header->columns + header->group - 1) / header->group;
  stored s = {
      .seeds = payload, .nibbles = payload + 2 * blocks * header->rows, .blocks = blocks, .length = header->group};
  for (int e = -8; e < 8; e++) s.steps[e + 8] = ldexpf(header->scale, e);
  return mb_affine8_write(&plan, read_tile, &s, scratch, sink, context, reason);
}
