#include "storage/rans.h"

#include "base/processor.h"

size_t mb_rans_read_model(const uint8_t *model, size_t available, mb_rans_table *table) {
  if (available < 32) return 0;
  size_t at = 32;
  uint32_t start = 0, symbols = 0;
  for (uint32_t s = 0; s < 256; s++) {
    if ((model[s / 8] >> s % 8 & 1) == 0) continue;
    if (at == available) return 0;
    uint32_t frequency = model[at++];
    if (frequency >= 128) {
      if (at == available) return 0;
      frequency = frequency - 128 + 128u * model[at++];
    }
    frequency++;
    /* One symbol alone would need 13 bits of frequency: that is MB_MODE_CONSTANT. */
    if (frequency > MB_RANS_TOTAL - start || frequency == MB_RANS_TOTAL) return 0;
    for (uint32_t i = 0; i < frequency; i++) table->slot[start + i] = frequency << 20 | i << 8 | s;
    start += frequency;
    symbols++;
  }
  return start == MB_RANS_TOTAL && symbols >= 2 ? at : 0;
}

static inline uint32_t load_word(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }

/* One symbol of a lane; the new state is below MB_RANS_LOW where it wants a word. */
static inline uint32_t step(const mb_rans_table *table, uint32_t x, uint8_t *out) {
  const uint32_t entry = table->slot[x % MB_RANS_TOTAL];
  *out = (uint8_t)entry;
  return (entry >> 20) * (x >> MB_RANS_BITS) + (entry >> 8 & (MB_RANS_TOTAL - 1));
}

bool mb_rans_decode_scalar(const mb_rans_table *table, uint32_t state[MB_RANS_LANES], const uint8_t *words,
                           const uint8_t *words_end, const uint8_t *readable_end, uint8_t *out, size_t count) {
  const uint8_t *p = words;
  size_t i = 0;
  /* Whole rounds without a branch: they may read words behind words_end, which shows afterwards. */
  for (; count - i >= MB_RANS_LANES && readable_end - p >= MB_RANS_MARGIN; i += MB_RANS_LANES) {
    for (uint32_t lane = 0; lane < MB_RANS_LANES; lane++) {
      const uint32_t x = step(table, state[lane], &out[i + lane]), more = x < MB_RANS_LOW;
      const uint32_t next = x << 16 | load_word(p);
      state[lane] = x ^ ((x ^ next) & (0u - more)); /* no `?:`, which gcc makes a branch that is hard to foresee */
      p += 2 * more;
    }
  }
  if (p > words_end) return false;
  for (uint32_t lane = 0; i < count; i++, lane = (lane + 1) % MB_RANS_LANES) {
    uint32_t x = step(table, state[lane], &out[i]);
    if (x < MB_RANS_LOW) {
      if (words_end - p < 2) return false;
      x = x << 16 | load_word(p);
      p += 2;
    }
    state[lane] = x;
  }
  return p == words_end;
}

mb_rans_decoder mb_rans_best_decoder(void) {
#if defined(MB_HAVE_AVX2)
  if (mb_processor_has_avx2()) return mb_rans_decode_avx2;
#endif
  return mb_rans_decode_scalar;
}
