/* Raw deflate (RFC 1951) to the sink, with the 32 KiB that matches may reach back in scratch. */
#include <string.h>

#include "storage/entropy.h"
#include "storage/window.h"

enum { WINDOW = 1 << 15, MAX_BITS = 15, FAST_BITS = 10, LITERALS = 288, DISTANCES = 32, LENGTH_CODES = 19 };

/* A canonical Huffman code. Codes of up to FAST_BITS bits are looked up, longer ones are found by their length. */
typedef struct {
  uint16_t fast[1 << FAST_BITS]; /* symbol << 4 | length; 0: longer, or no code */
  uint16_t count[MAX_BITS + 1];  /* codes of each length */
  uint16_t symbol[LITERALS];     /* in the order of their codes */
} huffman;

typedef struct {
  uint8_t window[WINDOW];
  huffman literals, distances;
} scratch_space;

typedef struct {
  const uint8_t *at, *end;
  uint64_t pending; /* bits not yet used, the next in bit 0 */
  uint32_t have;
  bool overrun; /* more bits were wanted than there are */
} bit_reader;

/* Makes at least 32 bits pending, zeros behind the end. */
static void refill(bit_reader *b) {
  for (; b->have <= 56 && b->at < b->end; b->have += 8) b->pending |= (uint64_t)*b->at++ << b->have;
}

static void drop(bit_reader *b, uint32_t bits) {
  if (bits > b->have) {
    b->overrun = true;
    bits = b->have;
  }
  b->pending >>= bits;
  b->have -= bits;
}

static uint32_t take(bit_reader *b, uint32_t bits) {
  refill(b);
  const uint32_t value = (uint32_t)b->pending & ((1u << bits) - 1);
  drop(b, bits);
  return value;
}

static uint32_t reverse(uint32_t code, uint32_t length) {
  uint32_t out = 0;
  for (uint32_t i = 0; i < length; i++) out |= (code >> i & 1) << (length - 1 - i);
  return out;
}

/* Builds the code of n lengths. false where more codes are wanted than there are. */
static bool build(huffman *h, const uint8_t *lengths, uint32_t n) {
  uint32_t next[MAX_BITS + 1], first[MAX_BITS + 1], code = 0, index = 0;
  memset(h, 0, sizeof *h);
  for (uint32_t i = 0; i < n; i++) h->count[lengths[i]]++;
  h->count[0] = 0;
  for (uint32_t length = 1; length <= MAX_BITS; length++) {
    code <<= 1;
    next[length] = code;
    first[length] = index;
    code += h->count[length];
    index += h->count[length];
    if (code > 1u << length) return false;
  }
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t length = lengths[i];
    if (length == 0) continue;
    h->symbol[first[length]++] = (uint16_t)i;
    const uint32_t low = reverse(next[length]++, length);
    for (uint32_t slot = low; length <= FAST_BITS && slot < 1u << FAST_BITS; slot += 1u << length)
      h->fast[slot] = (uint16_t)(i << 4 | length);
  }
  return true;
}

/* The next symbol; -1 where the bits are no code. */
static int32_t symbol(bit_reader *b, const huffman *h) {
  refill(b);
  const uint32_t entry = h->fast[b->pending & ((1 << FAST_BITS) - 1)];
  if (entry != 0) {
    drop(b, entry & 15);
    return (int32_t)(entry >> 4);
  }
  uint32_t code = 0, first = 0, index = 0;
  for (uint32_t length = 1; length <= MAX_BITS; length++) {
    code = code << 1 | (b->pending >> (length - 1) & 1);
    first <<= 1;
    if (code - first < h->count[length]) {
      drop(b, length);
      return h->symbol[index + code - first];
    }
    first += h->count[length];
    index += h->count[length];
  }
  return -1;
}

static bool fixed_codes(scratch_space *s) {
  uint8_t lengths[LITERALS];
  memset(lengths, 8, 144);
  memset(lengths + 144, 9, 112);
  memset(lengths + 256, 7, 24);
  memset(lengths + 280, 8, 8);
  if (!build(&s->literals, lengths, LITERALS)) return false;
  memset(lengths, 5, DISTANCES);
  return build(&s->distances, lengths, DISTANCES);
}

static bool dynamic_codes(bit_reader *b, scratch_space *s) {
  static const uint8_t order[LENGTH_CODES] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  uint8_t lengths[LITERALS + DISTANCES] = {0};
  const uint32_t literals = 257 + take(b, 5), distances = 1 + take(b, 5), given = 4 + take(b, 4);
  if (literals > LITERALS) return false;
  for (uint32_t i = 0; i < given; i++) lengths[order[i]] = (uint8_t)take(b, 3);
  if (!build(&s->literals, lengths, LENGTH_CODES)) return false;
  memset(lengths, 0, LENGTH_CODES);
  for (uint32_t i = 0; i < literals + distances;) {
    const int32_t code = symbol(b, &s->literals);
    if (code < 0 || b->overrun) return false;
    if (code < 16) {
      lengths[i++] = (uint8_t)code;
      continue;
    }
    if (code == 16 && i == 0) return false;
    const uint8_t value = code == 16 ? lengths[i - 1] : 0;
    const uint32_t times = code == 16 ? 3 + take(b, 2) : code == 17 ? 3 + take(b, 3) : 11 + take(b, 7);
    if (times > literals + distances - i) return false;
    memset(lengths + i, value, times);
    i += times;
  }
  return build(&s->literals, lengths, literals) && build(&s->distances, lengths + literals, distances);
}

static bool coded_block(bit_reader *b, const scratch_space *s, mb_window *w) {
  static const uint16_t length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                           31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
  static const uint8_t length_bits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                          2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
  static const uint16_t distance_base[30] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                             33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                             1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
  for (;;) {
    const int32_t code = symbol(b, &s->literals);
    if (code < 0 || b->overrun) return false;
    if (code < 256) {
      if (!mb_window_put(w, (uint8_t)code)) return false;
      continue;
    }
    if (code == 256) return true;
    if (code > 285) return false;
    const uint32_t length = length_base[code - 257] + take(b, length_bits[code - 257]);
    const int32_t far = symbol(b, &s->distances);
    if (far < 0 || far > 29) return false;
    const uint32_t distance = distance_base[far] + take(b, far < 2 ? 0 : (uint32_t)far / 2 - 1);
    if (b->overrun || !mb_window_copy(w, distance, length)) return false;
  }
}

static bool stored_block(bit_reader *b, mb_window *w) {
  drop(b, b->have % 8);
  const uint32_t length = take(b, 16);
  if ((take(b, 16) ^ length) != 0xffff) return false;
  for (uint32_t i = 0; i < length; i++)
    if (!mb_window_put(w, (uint8_t)take(b, 8)) || b->overrun) return false;
  return true;
}

static bool inflate(bit_reader *b, scratch_space *s, mb_window *w) {
  bool last = false;
  while (!last) {
    last = take(b, 1) != 0;
    const uint32_t type = take(b, 2);
    if (b->overrun || type == 3) return false;
    if (type == 0 ? !stored_block(b, w) : !(type == 1 ? fixed_codes(s) : dynamic_codes(b, s)) || !coded_block(b, s, w))
      return false;
  }
  return w->given == w->limit && b->at == b->end && b->have < 8;
}

size_t mb_inflate_scratch_bytes(void) { return sizeof(scratch_space); }

bool mb_inflate_body(const mb_entropy_body *body, void *scratch, mb_sink sink, void *context, const char **reason) {
  scratch_space *s = scratch;
  mb_window w = {
      .data = s->window, .size = WINDOW, .limit = body->inner->payload_bytes, .sink = sink, .context = context};
  bit_reader b = {.at = body->data, .end = body->data + body->bytes};
  const bool done = inflate(&b, s, &w) && mb_window_flush(&w);
  *reason = done || w.stopped ? NULL : "deflated blob is damaged";
  return done;
}
