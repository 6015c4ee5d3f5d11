/* Ids to text, at once or token by token; both go through a stream. */
#include "base/unicode.h"
#include "tokenizer/tokenizer.h"

#define REPLACEMENT "\xEF\xBF\xBD"

/* Text for the caller: counts what does not fit. */
typedef struct {
  char *text;
  size_t capacity, size;
} sink;

static void put(mb_stream *stream, sink *out, const void *bytes, size_t count) {
  const char *from = bytes;
  for (; count > 0 && stream->strip > 0; count--, from++) {
    if (*from != ' ') {
      stream->strip = 0;
      break;
    }
    stream->strip--;
  }
  if (out->size < out->capacity && count) {
    size_t room = out->capacity - out->size;
    memcpy(out->text + out->size, from, count < room ? count : room);
  }
  out->size += count;
}

static void put_replacements(mb_stream *stream, sink *out, size_t count) {
  for (; count; count--) put(stream, out, REPLACEMENT, 3);
}

/* ByteLevel: at most three bytes of an unfinished character wait. */
static void put_byte_level(mb_stream *stream, sink *out, const uint8_t *bytes, size_t count) {
  for (size_t at = 0; at < count;) {
    if (stream->pending_bytes == 0) {
      size_t plain = at;
      while (plain < count && bytes[plain] < 0x80) plain++;
      put(stream, out, bytes + at, plain - at);
      if ((at = plain) == count) break;
    }
    stream->pending[stream->pending_bytes++] = bytes[at++];
    while (stream->pending_bytes) {
      int length = mb_utf8_scan(stream->pending, stream->pending_bytes);
      if (length == 0) break;
      size_t used = (size_t)(length > 0 ? length : -length);
      if (length > 0) {
        put(stream, out, stream->pending, used);
      } else {
        put_replacements(stream, out, 1);
      }
      stream->pending_bytes -= (uint32_t)used;
      memmove(stream->pending, stream->pending + used, stream->pending_bytes);
    }
  }
}

/* The run of byte tokens goes on: it waits as long as it is valid. */
static void put_fallback_byte(mb_stream *stream, sink *out, uint8_t byte) {
  if (stream->broken) {
    put_replacements(stream, out, 1);
    return;
  }
  stream->pending[stream->pending_bytes++] = byte;
  int length = mb_utf8_scan(stream->pending + stream->whole_bytes, stream->pending_bytes - stream->whole_bytes);
  if (length < 0) {
    put_replacements(stream, out, stream->pending_bytes);
    stream->pending_bytes = stream->whole_bytes = 0;
    stream->broken = true;
    return;
  }
  stream->whole_bytes += (uint32_t)length;
  if (stream->pending_bytes == MB_STREAM_PENDING) { /* too long to wait for its end */
    put(stream, out, stream->pending, stream->whole_bytes);
    stream->pending_bytes -= stream->whole_bytes;
    memmove(stream->pending, stream->pending + stream->whole_bytes, stream->pending_bytes);
    stream->whole_bytes = 0;
  }
}

static void end_run(mb_stream *stream, sink *out) {
  if (stream->whole_bytes == stream->pending_bytes) {
    put(stream, out, stream->pending, stream->pending_bytes);
  } else {
    put_replacements(stream, out, stream->pending_bytes);
  }
  stream->pending_bytes = stream->whole_bytes = 0;
  stream->broken = false;
}

/* mark: what "▁" becomes. */
static void put_metaspace(mb_stream *stream, sink *out, const char *mark, const uint8_t *bytes, size_t count) {
  size_t begin = 0;
  for (size_t at = 0; at + 3 <= count;) {
    if (memcmp(bytes + at, "\xE2\x96\x81", 3) != 0) {
      at++;
      continue;
    }
    put(stream, out, bytes + begin, at - begin);
    put(stream, out, mark, strlen(mark));
    begin = at += 3;
  }
  put(stream, out, bytes + begin, count - begin);
}

/* Whether the id gives nothing, not even an end of a run of byte tokens. */
static bool left_out(const mb_tokenizer *tokenizer, int32_t id, bool skip_special) {
  return id < 0 || (uint32_t)id >= tokenizer->header.vocabulary ||
         (tokenizer->offsets[id] & (MB_TOKEN_IS_ABSENT | (skip_special ? MB_TOKEN_IS_SPECIAL : 0)));
}

static void put_token(mb_stream *stream, sink *out, int32_t id) {
  const mb_tokenizer *tokenizer = stream->tokenizer;
  if (left_out(tokenizer, id, stream->flags & MB_STREAM_SKIP_SPECIAL)) return;
  uint32_t bytes;
  const uint8_t *text = mb_token_text(tokenizer, (uint32_t)id, &bytes);
  if (tokenizer->header.decoder == MB_TOKEN_DECODER_BYTES) {
    put_byte_level(stream, out, text, bytes);
  } else if (tokenizer->offsets[id] & MB_TOKEN_IS_BYTE) {
    put_fallback_byte(stream, out, text[0]);
  } else {
    end_run(stream, out);
    const bool first = tokenizer->header.decoder == MB_TOKEN_DECODER_MARKS && stream->strip > 0;
    if (first) stream->strip = 0; /* its marks, and no spaces */
    put_metaspace(stream, out, first ? "" : " ", text, bytes);
  }
}

static void finish(mb_stream *stream, sink *out) {
  if (stream->tokenizer->header.decoder == MB_TOKEN_DECODER_BYTES) {
    put_replacements(stream, out, stream->pending_bytes > 0);
    stream->pending_bytes = 0;
  } else {
    end_run(stream, out);
  }
}

void mb_stream_begin(mb_stream *stream, const mb_tokenizer *tokenizer, uint32_t flags) {
  memset(stream, 0, sizeof *stream);
  stream->tokenizer = tokenizer;
  stream->flags = flags;
  stream->strip = flags & MB_STREAM_CONTINUES ? 0 : tokenizer->header.strip;
}

size_t mb_stream_token(mb_stream *stream, int32_t id, char *text, size_t capacity) {
  sink out = {text, capacity, 0};
  put_token(stream, &out, id);
  return out.size < capacity ? out.size : capacity;
}

size_t mb_stream_finish(mb_stream *stream, char *text, size_t capacity) {
  sink out = {text, capacity, 0};
  finish(stream, &out);
  return out.size < capacity ? out.size : capacity;
}

/* Every byte that waits and every one of the token can become a U+FFFD. */
size_t mb_tokenizer_longest(const mb_tokenizer *tokenizer) {
  return 3 * ((size_t)tokenizer->header.longest + MB_STREAM_PENDING);
}

/* Whether the run of byte tokens that begins at ids[at] is valid as a whole; *end: where it ends. A stream cannot look
 * ahead and has to keep the run back instead, of which there may be more than it can keep. */
static bool valid_run(const mb_tokenizer *tokenizer, const int32_t *ids, size_t at, size_t count, bool skip_special,
                      size_t *end) {
  uint8_t character[4];
  size_t size = 0;
  bool valid = true;
  for (; at < count; at++) {
    if (left_out(tokenizer, ids[at], skip_special)) continue;
    if (!(tokenizer->offsets[ids[at]] & MB_TOKEN_IS_BYTE)) break;
    if (!valid) continue;
    uint32_t bytes;
    character[size++] = mb_token_text(tokenizer, (uint32_t)ids[at], &bytes)[0];
    int length = mb_utf8_scan(character, size);
    if (length < 0) valid = false;
    if (length > 0) size = 0;
  }
  *end = at;
  return valid && size == 0;
}

mb_status mb_tokenizer_decode(const mb_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                              char *text, size_t capacity, size_t *bytes) {
  sink out = {text, capacity, 0};
  mb_stream stream;
  mb_stream_begin(&stream, tokenizer, skip_special ? MB_STREAM_SKIP_SPECIAL : 0);
  for (size_t i = 0, end; i < count; i = end) {
    end = i + 1;
    if (tokenizer->header.decoder == MB_TOKEN_DECODER_METASPACE && !left_out(tokenizer, ids[i], skip_special) &&
        tokenizer->offsets[ids[i]] & MB_TOKEN_IS_BYTE)
      stream.broken = !valid_run(tokenizer, ids, i, count, skip_special, &end);
    for (size_t j = i; j < end; j++) put_token(&stream, &out, ids[j]);
  }
  finish(&stream, &out);
  *bytes = out.size;
  return MB_OK;
}

size_t mb_tokenizer_piece_bytes(const mb_tokenizer *tokenizer, uint32_t id) {
  uint32_t size;
  if (id > INT32_MAX || left_out(tokenizer, (int32_t)id, true)) return 0;
  (void)mb_token_text(tokenizer, id, &size);
  return size;
}

size_t mb_tokenizer_token_bytes(const mb_tokenizer *tokenizer, uint32_t id, uint8_t *bytes, size_t capacity) {
  if (id > INT32_MAX || left_out(tokenizer, (int32_t)id, true)) return 0;
  uint32_t size;
  const uint8_t *text = mb_token_text(tokenizer, id, &size);
  if (tokenizer->header.decoder == MB_TOKEN_DECODER_BYTES || tokenizer->offsets[id] & MB_TOKEN_IS_BYTE) {
    if (size) memcpy(bytes, text, size < capacity ? size : capacity);
    return size;
  }
  mb_stream stream;
  mb_stream_begin(&stream, tokenizer, MB_STREAM_CONTINUES);
  sink out = {(char *)bytes, capacity, 0};
  put_metaspace(&stream, &out, " ", text, size);
  return out.size;
}
