/* Interleaved rANS with 32 lanes of 32 bits, 16-bit words and 12-bit probabilities (entropy.h says how the words lie).
 * Asymmetric numeral systems: J. Duda, arXiv:1311.2540; interleaving: F. Giesen, arXiv:1402.3392. */
#ifndef MB_STORAGE_RANS_H
#define MB_STORAGE_RANS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MB_RANS_LANES 32
#define MB_RANS_BITS 12
#define MB_RANS_TOTAL (1u << MB_RANS_BITS)
#define MB_RANS_LOW (1u << 16)           /* states are at least this */
#define MB_RANS_MODEL_MAX (32 + 2 * 256) /* bytes of a model, at most */
#define MB_RANS_MARGIN 64                /* bytes of words that 32 symbols take at most */

/* What a slot (x % 4096) decodes to: bits 0..7 the symbol, 8..19 slot - start, 20..31 frequency. */
typedef struct {
  uint32_t slot[MB_RANS_TOTAL];
} mb_rans_table;

/* Reads a model from `available` bytes. Gives its length, 0 where it is not valid. */
size_t mb_rans_read_model(const uint8_t *model, size_t available, mb_rans_table *table);

/* Decodes `count` symbols. `words` lie before `words_end`; up to `readable_end` bytes may be read. false where the
 * symbols do not take exactly these words. Nothing is written behind out[count - 1]. */
typedef bool (*mb_rans_decoder)(const mb_rans_table *table, uint32_t state[MB_RANS_LANES], const uint8_t *words,
                                const uint8_t *words_end, const uint8_t *readable_end, uint8_t *out, size_t count);

bool mb_rans_decode_scalar(const mb_rans_table *, uint32_t state[MB_RANS_LANES], const uint8_t *words,
                           const uint8_t *words_end, const uint8_t *readable_end, uint8_t *out, size_t count);
#if defined(MB_HAVE_AVX2)
bool mb_rans_decode_avx2(const mb_rans_table *, uint32_t state[MB_RANS_LANES], const uint8_t *words,
                         const uint8_t *words_end, const uint8_t *readable_end, uint8_t *out, size_t count);
#endif
/* The fastest that this processor can run. */
mb_rans_decoder mb_rans_best_decoder(void);

#endif
