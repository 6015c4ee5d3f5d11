#include "base/crc32.h"

#include <pthread.h>
#include <string.h>

/* Slicing by 8: table k gives the effect of a byte that stands k bytes before the end of an 8-byte word. */
static uint32_t table[8][256];
static pthread_once_t built = PTHREAD_ONCE_INIT;

static void build(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; bit++) c = (c >> 1) ^ (c & 1 ? 0xEDB88320u : 0);
    table[0][i] = c;
  }
  for (uint32_t i = 0; i < 256; i++) {
    for (int k = 1; k < 8; k++) table[k][i] = (table[k - 1][i] >> 8) ^ table[0][table[k - 1][i] & 255];
  }
}

uint32_t mb_crc32(uint32_t crc, const void *data, size_t bytes) {
  const uint8_t *p = data;
  pthread_once(&built, build);
  crc = ~crc;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    uint32_t low, high;
    memcpy(&low, p, 4);
    memcpy(&high, p + 4, 4);
    low ^= crc;
    crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
          table[3][high & 255] ^ table[2][high >> 8 & 255] ^ table[1][high >> 16 & 255] ^ table[0][high >> 24];
  }
  for (; bytes; bytes--) crc = (crc >> 8) ^ table[0][(crc ^ *p++) & 255];
  return ~crc;
}
