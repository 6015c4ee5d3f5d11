/* Opens any bytes as a tokenizer.bin, without looking at its checksum, and uses all of it that opens. Seeds: small
 * files of tokenizer.bin, one byte-level and one SentencePiece-style, with a chat template. */
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "tokenizer/tokenizer.h"

enum { MOST_TEXT = 512, TAIL = 96 };

static const char fixed_text[] =
    "<s>Hello, it's  13 na\xC3\xAFve e\xCC\x81\xCC\xA3 \xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x8E\x89\r\n\t [INST] "
    "\xE2\x96\x81\xE2\x96\x81x</s><|im_end|>\xFF\xE2\x96 looooooooooooooooooooooooooooooooooooooong\n \n  end ";

/* Conversations of the same contents, one that ends with a question and one with an answer. */
static void chat(const mb_tokenizer *tokenizer, const char *text, size_t bytes) {
  const mb_chat_message messages[] = {{MB_ROLE_SYSTEM, "Be brief.", 9},
                                      {MB_ROLE_USER, text, bytes},
                                      {MB_ROLE_ASSISTANT, "<think>\xE6\xBC\xA2</think> \nx", 22},
                                      {MB_ROLE_USER, " \xE3\x80\x80", 4},
                                      {MB_ROLE_ASSISTANT, "", 0}};
  const struct tm now = {.tm_mday = 3, .tm_mon = 10, .tm_year = 126, .tm_wday = 2};
  for (int thinking = 0; thinking < 3; thinking++) {
    const mb_chat_options options = {sizeof options, (mb_chat_thinking)thinking, &now};
    for (size_t first = 0; first < 2; first++) {
      for (size_t count = 0; count <= 5 - first; count++) {
        char *rendered;
        size_t size;
        if (mb_chat_render(tokenizer, messages + first, count, &options, &rendered, &size) != MB_OK && rendered)
          abort();
        mb_chat_free(rendered);
      }
    }
  }
}

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
  chat(tokenizer, text, bytes);
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
