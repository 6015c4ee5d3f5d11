/* Base 3 (five ternary codes in a byte) to T2-R16 (packed_formats.h).
 *
 * A tile is 80 columns of a strip: 16 bytes of each row become five blocks. Per row and tile the bytes are looked up as
 * 10 bits each, which gives five 32-bit words of 16 codes in the order of their columns (column c at bits 2c), and a
 * transposition of 4 x 4 codes brings each word into the order of a block (column 4f + k at bits 8k + 2f). */
#include <string.h>

#include "packed/formats.h"
#include "storage/decoders.h"
#include "storage/target.h"

enum { TILE_BYTES = 16, TILE_WORDS = 5, TILE_COLUMNS = 80, TILES = 16 };

#define INVALID 0x8000u   /* in a table entry: no sum of five codes */
#define ZEROS 0x55555555u /* sixteen codes 1: weights of zero */
#define ZEROS_BYTE (1 + 3 + 9 + 27 + 81)

typedef struct {
  uint32_t blocks[TILES * TILE_WORDS][MB_STRIP_ROWS]; /* what goes to the sink at once */
  uint16_t codes[256];                                /* code i of the byte at bits 2i */
} scratch_space;

bool mb_base3_plan(const mb_blob_header *header, const uint8_t *payload, mb_storage_plan *plan, const char **reason) {
  (void)payload;
  return mb_storage_target(header, MB_FORMAT_TERNARY2, 0, header->flags, header->scale, sizeof(scratch_space), plan,
                           reason);
}

static void fill_table(uint16_t codes[256]) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t rest = byte, packed = 0;
    for (uint32_t i = 0; i < 5; i++, rest /= 3) packed |= rest % 3 << 2 * i;
    codes[byte] = (uint16_t)(rest == 0 ? packed : INVALID);
  }
}

/* Exchanges the code at column 4f + k with the one at column 4k + f. */
static inline uint32_t transpose(uint32_t w) {
  uint32_t t = (w ^ w >> 6) & 0x00cc00ccu; /* within 2 x 2 codes */
  w ^= t ^ t << 6;
  t = (w ^ w >> 12) & 0x0000f0f0u; /* 2 x 2 blocks of them */
  return w ^ t ^ t << 12;
}

/* The 10-bit codes of `count` bytes one behind the other; `seen` gathers the table entries. */
static inline uint64_t unpack_bytes(const uint16_t *codes, const uint8_t *bytes, uint32_t count, uint32_t *seen) {
  uint64_t packed = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t entry = codes[bytes[i]];
    *seen |= entry;
    packed |= (uint64_t)entry << 10 * i; /* INVALID reaches into the next code, but such a tile is thrown away */
  }
  return packed;
}

/* 16 bytes of one row to its words of five blocks; gives the table entries or-ed together. */
static inline uint32_t unpack_tile(const uint16_t *codes, const uint8_t *bytes, uint32_t out[TILE_WORDS]) {
  uint32_t seen = 0;
  const uint64_t a = unpack_bytes(codes, bytes, 6, &seen), b = unpack_bytes(codes, bytes + 6, 6, &seen),
                 c = unpack_bytes(codes, bytes + 12, 4, &seen);
  out[0] = (uint32_t)a;
  out[1] = (uint32_t)(a >> 32 | b << 28);
  out[2] = (uint32_t)(b >> 4);
  out[3] = (uint32_t)(b >> 36 | c << 24);
  out[4] = (uint32_t)(c >> 8);
  return seen;
}

/* The words of one row for the tile at `column`, which may be the row's last and partial one. */
static inline uint32_t row_tile(const uint16_t *codes, const uint8_t *row, uint32_t column, uint32_t columns,
                                uint32_t words[TILE_WORDS]) {
  if (column + TILE_COLUMNS <= columns) return unpack_tile(codes, row + column / 5, words);
  uint8_t bytes[TILE_BYTES];
  memset(bytes, ZEROS_BYTE, sizeof bytes);
  memcpy(bytes, row + column / 5, (columns - column + 4) / 5);
  const uint32_t seen = unpack_tile(codes, bytes, words);
  for (uint32_t i = 0; i < TILE_WORDS; i++) { /* whatever the last byte says behind the last column */
    const uint32_t first = column + 16 * i, left = first < columns ? columns - first : 0;
    const uint32_t keep = left >= 16 ? 0xffffffffu : (1u << 2 * left) - 1;
    words[i] = (words[i] & keep) | (ZEROS & ~keep);
  }
  return seen;
}

static bool decode_strip(scratch_space *s, const uint8_t *strip, uint32_t rows, uint32_t columns, mb_sink sink,
                         void *context, const char **reason) {
  const size_t row_bytes = (columns + 4) / 5;
  const uint32_t blocks = mb_round_up(columns, 16) / 16;
  for (uint32_t first = 0; first < blocks; first += TILES * TILE_WORDS) {
    const uint32_t count = blocks - first < TILES * TILE_WORDS ? blocks - first : TILES * TILE_WORDS;
    uint32_t seen = 0;
    for (uint32_t r = 0; r < MB_STRIP_ROWS; r++) {
      for (uint32_t block = 0; block < count; block += TILE_WORDS) {
        uint32_t words[TILE_WORDS] = {ZEROS, ZEROS, ZEROS, ZEROS, ZEROS};
        if (r < rows) {
          seen |= row_tile(s->codes, strip + r * row_bytes, 16 * (first + block), columns, words);
          for (uint32_t i = 0; i < TILE_WORDS; i++) words[i] = transpose(words[i]);
        }
        for (uint32_t i = 0; i < TILE_WORDS; i++) s->blocks[block + i][r] = words[i];
      }
    }
    if (seen & INVALID) {
      *reason = "base-3 blob holds a byte above 242";
      return false;
    }
    if (!sink(context, s->blocks, (size_t)count * sizeof s->blocks[0])) return false;
  }
  return true;
}

bool mb_base3_decode(const mb_blob_header *header, const uint8_t *payload, void *scratch, mb_sink sink, void *context,
                     const char **reason) {
  scratch_space *s = scratch;
  mb_storage_plan plan;
  if (!mb_base3_plan(header, payload, &plan, reason)) return false;
  fill_table(s->codes);
  if (!sink(context, &plan.target, sizeof plan.target)) return false;
  const uint32_t rows = header->rows;
  const size_t row_bytes = (header->columns + 4) / 5;
  for (uint32_t row = 0; row < rows; row += MB_STRIP_ROWS) {
    const uint32_t here = rows - row < MB_STRIP_ROWS ? rows - row : MB_STRIP_ROWS;
    if (!decode_strip(s, payload + row * row_bytes, here, header->columns, sink, context, reason)) return false;
  }
  if ((header->flags & MB_FLAG_ROW_SCALES) == 0) return true;
  static const float none[MB_STRIP_ROWS];
  const uint8_t *scales = payload + (rows * row_bytes + 3) / 4 * 4;
  return sink(context, scales, (size_t)rows * sizeof(float)) &&
         (rows % MB_STRIP_ROWS == 0 || sink(context, none, (MB_STRIP_ROWS - rows % MB_STRIP_ROWS) * sizeof(float)));
}
