/* Opens tokenizer.bin: maps it and checks all that the other files take for granted. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* O_CLOEXEC under -std=c11 */
#endif

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32.h"
#include "base/error.h"
#include "base/unicode.h"
#include "tokenizer/tokenizer.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tokenizer.bin is little endian and is mapped, not read: a big-endian processor cannot use it"
#endif

static mb_status damaged(const char *what) {
  return mb_fail(MB_ERROR_FORMAT, "tokenizer.bin: %s: the file is damaged, copy or build the bundle again", what);
}

static bool ids_below(const int32_t *ids, size_t count, int32_t lowest, uint32_t vocabulary) {
  for (size_t i = 0; i < count; i++) {
    if (ids[i] < lowest || ids[i] >= (int32_t)vocabulary) return false;
  }
  return true;
}

static mb_status check_header(const mb_token_header *header, size_t bytes) {
  if (header->file_bytes != bytes) return damaged("its length is not what it was written with (cut off?)");
  if (header->vocabulary == 0 || header->vocabulary > MB_TOKEN_MAX_VOCABULARY) return damaged("impossible vocabulary");
  if (header->merge_count > MB_TOKEN_MAX_MERGES || header->merge_probes > MB_TOKEN_MAX_PROBES ||
      header->string_probes > MB_TOKEN_MAX_PROBES || (header->merge_slots == 0 && header->merge_probes > 0) ||
      (header->string_slots == 0 && header->string_probes > 0) || header->strip > 16 ||
      header->prefix_count > MB_TOKEN_MAX_TEMPLATE || header->suffix_count > MB_TOKEN_MAX_TEMPLATE ||
      header->added_raw > header->added_count || header->added_count > MB_TOKEN_MAX_VOCABULARY ||
      header->unknown < -1 || header->unknown >= (int32_t)header->vocabulary)
    return damaged("impossible counts in its header");
  if (header->flags & ~MB_TOKEN_KNOWN_FLAGS || header->split > MB_TOKEN_SPLIT_TABLES ||
      header->decoder < MB_TOKEN_DECODER_BYTES || header->decoder > MB_TOKEN_DECODER_MARKS)
    return mb_fail(MB_ERROR_FORMAT,
                   "tokenizer.bin needs a feature that this program does not have: use a newer program");
  /* The two kinds share buffers, so their steps must not be mixed. */
  const uint32_t bytes_only = MB_TOKEN_PREFIX_SPACE | MB_TOKEN_DIGITS | MB_TOKEN_DIGIT_RUNS;
  const uint32_t characters_only = MB_TOKEN_METASPACE | MB_TOKEN_METASPACE_FIRST | MB_TOKEN_METASPACE_ALWAYS |
                                   MB_TOKEN_METASPACE_SPLIT | MB_TOKEN_CUT_WORDS | MB_TOKEN_BYTE_FALLBACK |
                                   MB_TOKEN_UNIGRAM;
  const bool tables = header->split == MB_TOKEN_SPLIT_TABLES;
  if (header->flags & MB_TOKEN_BYTE_LEVEL
          ? header->flags & characters_only
          : header->flags & bytes_only || (header->split != MB_TOKEN_SPLIT_NONE && !tables))
    return damaged("its flags contradict each other");
  if (header->flags & MB_TOKEN_UNIGRAM && header->unknown < 0) return damaged("it has no unknown token");
  if (tables && header->flags & bytes_only) return damaged("its flags contradict each other");
  return MB_OK;
}

static mb_status find_sections(mb_tokenizer *tokenizer) {
  const mb_token_header *header = &tokenizer->header;
  const uint64_t vocabulary = header->vocabulary;
  const uint64_t merged = (uint64_t)header->merge_count * sizeof(uint32_t);
  const uint64_t expected[MB_TOKEN_SECTIONS] = {
      [MB_TOKEN_OFFSETS] = (vocabulary + 1) * sizeof(uint32_t),
      [MB_TOKEN_BYTES] = header->sections[MB_TOKEN_BYTES].bytes,
      [MB_TOKEN_SYMBOLS] = 256 * sizeof(int32_t),
      [MB_TOKEN_MERGES] = (uint64_t)header->merge_slots * sizeof(uint64_t),
      [MB_TOKEN_MERGED] = header->sections[MB_TOKEN_MERGED].bytes ? merged : 0,
      [MB_TOKEN_STRINGS] = (uint64_t)header->string_slots * sizeof(int32_t),
      [MB_TOKEN_ADDED] = (uint64_t)header->added_count * sizeof(mb_token_added),
      [MB_TOKEN_ADDED_BYTES] = header->sections[MB_TOKEN_ADDED_BYTES].bytes,
      [MB_TOKEN_TEMPLATE] = ((uint64_t)header->prefix_count + header->suffix_count) * sizeof(int32_t),
      [MB_TOKEN_CHAT] = header->sections[MB_TOKEN_CHAT].bytes && !(header->flags & MB_TOKEN_CHAT_PROGRAM)
                            ? sizeof(mb_token_chat)
                            : header->sections[MB_TOKEN_CHAT].bytes,
      [MB_TOKEN_CHAT_BYTES] = header->sections[MB_TOKEN_CHAT_BYTES].bytes,
      [MB_TOKEN_SPLITS] = header->split == MB_TOKEN_SPLIT_TABLES ? header->sections[MB_TOKEN_SPLITS].bytes : 0,
      [MB_TOKEN_SCORES] = header->flags & MB_TOKEN_UNIGRAM ? (vocabulary + 1) * sizeof(double) : 0,
      [MB_TOKEN_CHARSMAP] = header->flags & MB_TOKEN_CHARSMAP_FLAG ? header->sections[MB_TOKEN_CHARSMAP].bytes : 0,
      [MB_TOKEN_TRIE] = header->flags & MB_TOKEN_UNIGRAM ? header->sections[MB_TOKEN_TRIE].bytes : 0,
  };
  const void *at[MB_TOKEN_SECTIONS];
  for (int i = 0; i < MB_TOKEN_SECTIONS; i++) {
    const mb_token_span *span = &header->sections[i];
    if (span->offset % 8 != 0 || span->offset > tokenizer->file_bytes ||
        span->bytes > tokenizer->file_bytes - span->offset || span->bytes != expected[i])
      return damaged("a section is not where it should be");
    at[i] = span->bytes ? tokenizer->file + span->offset : NULL;
  }
  if (!at[MB_TOKEN_MERGED] && (uint64_t)header->merge_first + header->merge_count > vocabulary)
    return damaged("its merges lead out of the vocabulary");
  tokenizer->offsets = at[MB_TOKEN_OFFSETS];
  tokenizer->bytes = tokenizer->file + header->sections[MB_TOKEN_BYTES].offset; /* may be empty, never NULL */
  tokenizer->symbols = at[MB_TOKEN_SYMBOLS];
  tokenizer->merges = at[MB_TOKEN_MERGES];
  tokenizer->merged = at[MB_TOKEN_MERGED];
  tokenizer->strings = at[MB_TOKEN_STRINGS];
  tokenizer->added = at[MB_TOKEN_ADDED];
  tokenizer->added_bytes = at[MB_TOKEN_ADDED_BYTES];
  tokenizer->template_ids = at[MB_TOKEN_TEMPLATE];
  if (!(header->flags & MB_TOKEN_CHAT_PROGRAM)) tokenizer->chat = at[MB_TOKEN_CHAT];
  tokenizer->scores = at[MB_TOKEN_SCORES];
  tokenizer->chat_bytes = tokenizer->file + header->sections[MB_TOKEN_CHAT_BYTES].offset;
  return MB_OK;
}

static mb_status check_tokens(const mb_tokenizer *tokenizer) {
  const mb_token_header *header = &tokenizer->header;
  uint32_t before = 0, longest = 0;
  for (uint32_t i = 0; i <= header->vocabulary; i++) {
    uint32_t offset = tokenizer->offsets[i] & MB_TOKEN_OFFSET_MASK;
    if (offset < before) return damaged("its tokens overlap");
    if (i > 0 && offset - before > longest) longest = offset - before;
    before = offset;
  }
  if (before > header->sections[MB_TOKEN_BYTES].bytes || longest != header->longest)
    return damaged("its tokens are not as long as it says");
  for (uint32_t i = 0; i < header->vocabulary; i++) { /* the decoder and the streams count on this */
    uint32_t bytes;
    const uint8_t *text = mb_token_text(tokenizer, i, &bytes);
    bool is_byte = tokenizer->offsets[i] & MB_TOKEN_IS_BYTE;
    if (is_byte && bytes != 1) return damaged("a byte token is not one byte");
    if (header->decoder == MB_TOKEN_DECODER_MARKS && is_byte) return damaged("its decoder does not know bytes");
    if (header->decoder != MB_TOKEN_DECODER_BYTES && !is_byte && !mb_utf8_valid(text, bytes))
      return damaged("a token is not UTF-8");
  }
  if (!ids_below(tokenizer->symbols, 256, -1, header->vocabulary) ||
      !ids_below(tokenizer->strings, header->string_slots, -1, header->vocabulary) ||
      !ids_below(tokenizer->template_ids, header->prefix_count + header->suffix_count, 0, header->vocabulary) ||
      (tokenizer->merged && !ids_below((const int32_t *)tokenizer->merged, header->merge_count, 0, header->vocabulary)))
    return damaged("an id is outside of the vocabulary");
  return MB_OK;
}

/* Sorted, so that the search by bytes works, and without equal texts. */
static mb_status check_added(const mb_tokenizer *tokenizer) {
  const mb_token_header *header = &tokenizer->header;
  const uint32_t size = header->sections[MB_TOKEN_ADDED_BYTES].bytes;
  for (uint32_t i = 0; i < header->added_count; i++) {
    const mb_token_added *token = &tokenizer->added[i];
    if (token->id >= header->vocabulary || token->bytes == 0 || token->bytes > MB_TOKEN_MAX_ADDED_BYTES ||
        token->offset > size || token->bytes > size - token->offset ||
        !mb_utf8_valid(tokenizer->added_bytes + token->offset, token->bytes))
      return damaged("an added token is impossible");
    if (i == 0 || i == header->added_raw) continue;
    const mb_token_added *last = &tokenizer->added[i - 1];
    const uint8_t *text = tokenizer->added_bytes + token->offset, *last_text = tokenizer->added_bytes + last->offset;
    int order = memcmp(last_text, text, last->bytes < token->bytes ? last->bytes : token->bytes);
    if (order > 0 || (order == 0 && last->bytes >= token->bytes)) return damaged("its added tokens are not sorted");
  }
  return MB_OK;
}

static mb_status check_chat(mb_tokenizer *tokenizer) {
  const mb_token_span *section = &tokenizer->header.sections[MB_TOKEN_CHAT];
  const uint32_t size = tokenizer->header.sections[MB_TOKEN_CHAT_BYTES].bytes;
  for (int i = 0; tokenizer->chat && i < MB_TOKEN_CHAT_PLACES * MB_TOKEN_CHAT_PLACES; i++) {
    mb_token_span span = tokenizer->chat->between[i / MB_TOKEN_CHAT_PLACES][i % MB_TOKEN_CHAT_PLACES];
    if (span.offset != MB_TOKEN_CHAT_ABSENT && (span.offset > size || span.bytes > size - span.offset))
      return damaged("its chat template leads out of the file");
  }
  if (!(tokenizer->header.flags & MB_TOKEN_CHAT_PROGRAM)) return MB_OK;
  return chat_program_open(tokenizer->file + section->offset, section->bytes, tokenizer->chat_bytes, size,
                           &tokenizer->chat_program);
}

static void build_lookups(mb_tokenizer *tokenizer) {
  for (int i = 0; i < 128; i++) tokenizer->ascii[i] = mb_token_find(tokenizer, (const uint8_t[]){(uint8_t)i}, 1);
  for (uint32_t i = 0; i < tokenizer->header.added_count; i++) {
    uint8_t first = tokenizer->added_bytes[tokenizer->added[i].offset];
    tokenizer->added_first[i >= tokenizer->header.added_raw][first >> 3] |= (uint8_t)(1u << (first & 7));
  }
}

static uint32_t checksum(const mb_tokenizer *tokenizer) {
  mb_token_header header = tokenizer->header;
  header.crc32 = 0;
  return mb_crc32(mb_crc32(0, &header, sizeof header), tokenizer->file + sizeof header,
                  tokenizer->file_bytes - sizeof header);
}

mb_status mb_tokenizer_open_memory(const void *data, size_t bytes, bool check_crc, mb_tokenizer **result) {
  *result = NULL;
  if (bytes < sizeof(mb_token_header) || memcmp(data, MB_TOKEN_MAGIC, 8) != 0)
    return mb_fail(MB_ERROR_FORMAT, "tokenizer.bin: not a mobile-bundle tokenizer: build the bundle again");
  mb_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
  if (!tokenizer) return mb_fail(MB_ERROR_MEMORY, "no memory for the tokenizer");
  tokenizer->file = data;
  tokenizer->file_bytes = bytes;
  memcpy(&tokenizer->header, data, sizeof tokenizer->header);
  mb_status status = MB_OK;
  if (tokenizer->header.version != MB_TOKEN_VERSION) {
    status = mb_fail(MB_ERROR_FORMAT,
                     "tokenizer.bin is of format version %u, this program reads version %u: build the bundle again",
                     tokenizer->header.version, MB_TOKEN_VERSION);
  }
  if (status == MB_OK) status = check_header(&tokenizer->header, bytes);
  if (status == MB_OK && check_crc && checksum(tokenizer) != tokenizer->header.crc32)
    status = damaged("its checksum is wrong");
  if (status == MB_OK) status = find_sections(tokenizer);
  if (status == MB_OK) status = check_tokens(tokenizer);
  if (status == MB_OK) status = check_added(tokenizer);
  if (status == MB_OK) status = check_chat(tokenizer);
  if (status == MB_OK && tokenizer->header.split == MB_TOKEN_SPLIT_TABLES) {
    const mb_token_span *section = &tokenizer->header.sections[MB_TOKEN_SPLITS];
    status = mb_split_tables_open(tokenizer->file + section->offset, section->bytes,
                                  tokenizer->header.flags & MB_TOKEN_BYTE_LEVEL, &tokenizer->splits);
  }
  if (status == MB_OK && tokenizer->header.flags & MB_TOKEN_UNIGRAM) {
    const mb_token_span *section = &tokenizer->header.sections[MB_TOKEN_TRIE];
    status =
        mb_trie_open(tokenizer->file + section->offset, section->bytes, tokenizer->header.vocabulary, &tokenizer->trie);
  }
  if (status == MB_OK && tokenizer->header.flags & MB_TOKEN_CHARSMAP_FLAG) {
    const mb_token_span *section = &tokenizer->header.sections[MB_TOKEN_CHARSMAP];
    status = mb_charsmap_open(tokenizer->file + section->offset, section->bytes, &tokenizer->charsmap);
  }
  if (status != MB_OK) {
    free(tokenizer);
    return status;
  }
  build_lookups(tokenizer);
  *result = tokenizer;
  return MB_OK;
}

mb_status mb_tokenizer_open(const char *path, mb_tokenizer **tokenizer) {
  *tokenizer = NULL;
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* of a pipe that nobody writes to it would wait for ever */
  if (file < 0) return mb_fail(MB_ERROR_IO, "cannot open %s: %s", path, strerror(errno));
  struct stat about;
  if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
    close(file);
    return mb_fail(MB_ERROR_IO, "cannot read %s: not a file", path);
  }
  if (about.st_size < (off_t)sizeof(mb_token_header) || about.st_size > INT32_MAX) {
    close(file);
    return damaged("its size is impossible");
  }
  size_t bytes = (size_t)about.st_size;
  void *data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, 0);
  int error = errno;
  close(file);
  if (data == MAP_FAILED) return mb_fail(MB_ERROR_IO, "cannot map %s: %s", path, strerror(error));
  mb_status status = mb_tokenizer_open_memory(data, bytes, true, tokenizer);
  if (status != MB_OK) {
    munmap(data, bytes);
    return status;
  }
  (*tokenizer)->mapped = true;
  return MB_OK;
}

void mb_tokenizer_close(mb_tokenizer *tokenizer) {
  if (!tokenizer) return;
  if (tokenizer->mapped) munmap((void *)(uintptr_t)tokenizer->file, tokenizer->file_bytes);
  free(tokenizer);
}

uint32_t mb_tokenizer_vocabulary(const mb_tokenizer *tokenizer) { return tokenizer->header.vocabulary; }
