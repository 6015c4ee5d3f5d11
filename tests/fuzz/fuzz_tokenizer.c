/* Opens any bytes as a tokenizer.bin, without looking at its checksum, and uses all of it that opens. Seeds: small
 * files of tokenizer.bin, one byte-level and one SentencePiece-style, with a chat template. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tokenizer_internal.h"

enum { MOST_TEXT = 512, TAIL = 96 };

static const char fixed_text[] =
    "<s>Hello, it's  13 na\xC3\xAFve e\xCC\x81\xCC\xA3 \xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x8E\x89\r\n\t [INST] "
    "\xE2\x96\x81\xE2\x96\x81x</s><|im_end|>\xFF\xE2\x96 looooooooooooooooooooooooooooooooooooooong\n \n  end ";

static void use(const mb_tokenizer *tokenizer, const uint8_t *tail, size_t tail_bytes) {
  char text[MOST_TEXT];
  size_t bytes = sizeof fixed_text - 1, count = 0, written = 0;
  memcpy(text, fixed_text, bytes);
  memcpy(text + bytes, tail, tail_bytes);
  bytes += tail_bytes;
  int32_t ids[2 * MOST_TEXT];
  char decoded[256]; /* too small, on purpose */
  size_t capacity = sizeof ids / sizeof *ids;
  for (int special = 0; special < 2; special++) {
    if (mb_tokenizer_encode(tokenizer, text, bytes, special, ids, capacity, &count) != MB_OK) abort();
    if (count > capacity) count = capacity;
    for (size_t i = 0; i < count; i++) {
      if (ids[i] < 0 || (uint32_t)ids[i] >= mb_tokenizer_vocabulary(tokenizer)) abort();
    }
    mb_tokenizer_decode(tokenizer, ids, count, special, decoded, sizeof decoded, &written);
  }
  for (size_t i = 0; i < capacity; i++) ids[i] = (int32_t)(i * 7) - 3;
  mb_tokenizer_decode(tokenizer, ids, capacity, false, NULL, 0, &written);
  mb_stream stream;
  mb_stream_begin(&stream, tokenizer, MB_STREAM_SKIP_SPECIAL);
  size_t most = mb_tokenizer_longest(tokenizer);
  char *room = malloc(most);
  if (!room) return;
  for (size_t i = 0; i < 300; i++) {
    if (mb_stream_token(&stream, ids[i], room, most) > most) abort();
  }
  if (mb_stream_finish(&stream, room, most) > most) abort();
  free(room);
  for (int from = 0; from < 5; from++) {
    for (int to = 0; to < 5; to++) {
      const char *piece;
      size_t size;
      if (mb_chat_between(tokenizer, (mb_chat_place)from, (mb_chat_place)to, &piece, &size) != MB_OK) continue;
      mb_chat_trim(tokenizer, (mb_chat_place)(to % 3), &piece, &size);
      for (size_t i = 0; i < size; i++) written += (unsigned char)piece[i];
    }
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
  uint8_t *copy = malloc(bytes ? bytes : 1); /* aligned, and its end is watched */
  if (!copy) return 0;
  if (bytes) memcpy(copy, data, bytes);
  if (bytes >= sizeof(mb_token_header)) { /* a wrong length and magic are found by any test; get past them */
    mb_token_header *header = (mb_token_header *)(void *)copy;
    memcpy(header->magic, MB_TOKEN_MAGIC, sizeof header->magic);
    header->version = MB_TOKEN_VERSION;
    header->file_bytes = (uint32_t)bytes;
  }
  mb_tokenizer *tokenizer;
  if (mb_tokenizer_open_memory(copy, bytes, false, &tokenizer) == MB_OK) {
    size_t tail = bytes < TAIL ? bytes : TAIL;
    use(tokenizer, copy + bytes - tail, tail);
    mb_tokenizer_close(tokenizer);
  }
  free(copy);
  return 0;
}
