/* Text to ids, in Hugging Face's order: added tokens in the raw text, the normalizer on what stands between them,
 * added tokens in the normalised text, the pre-tokenizer on what stands between those, the merges on its words, and
 * last the template. */
#include "base/error.h"
#include "base/unicode.h"
#include "base/unicode_tables.h"
#include "tokenizer/tokenizer.h"

static const uint8_t mark[3] = {0xE2, 0x96, 0x81}; /* U+2581 "▁" */

/* Appends text with " " replaced by "▁". */
static bool replace_spaces(const uint8_t *text, size_t bytes, mb_buffer *out) {
  size_t begin = 0;
  for (size_t at = 0; at < bytes; at++) {
    if (text[at] != ' ') continue;
    if (!mb_buffer_append(out, text + begin, at - begin) || !mb_buffer_append(out, mark, 3)) return false;
    begin = at + 1;
  }
  return mb_buffer_append(out, text + begin, bytes - begin);
}

/* A piece of the pre-tokenizer, cut into words by its regular expression. */
static bool encode_words(mb_encoder *encoder, const uint8_t *text, size_t bytes) {
  const mb_token_header *header = &encoder->tokenizer->header;
  if (header->flags & MB_TOKEN_PREFIX_SPACE && bytes > 0 && text[0] != ' ') {
    encoder->spaced.size = 0;
    if (!mb_buffer_append(&encoder->spaced, " ", 1) || !mb_buffer_append(&encoder->spaced, text, bytes)) return false;
    text = encoder->spaced.data;
    bytes = encoder->spaced.size;
  }
  for (size_t at = 0, end; at < bytes; at = end) {
    if (!mb_encoder_goes_on(encoder)) return false;
    end = header->flags & MB_TOKEN_CUT_WORDS ? mb_split_metaspace(header, false, text, at, bytes)
                                             : mb_split_word((mb_token_split)header->split, text, at, bytes);
    if (!mb_encode_word(encoder, text + at, end - at)) return false;
  }
  return true;
}

/* A piece of the tables, or all that stands between added tokens. first: the text begins with it. */
static bool encode_piece(mb_encoder *encoder, const uint8_t *text, size_t bytes, bool first) {
  uint32_t flags = encoder->tokenizer->header.flags;
  if (flags & MB_TOKEN_METASPACE) {
    mb_buffer *spaced = &encoder->spaced;
    bool begins = text[0] == ' ' || (bytes >= 3 && memcmp(text, mark, 3) == 0);
    bool prepend = !begins && (flags & MB_TOKEN_METASPACE_ALWAYS || (first && flags & MB_TOKEN_METASPACE_FIRST));
    spaced->size = 0;
    if ((prepend && !mb_buffer_append(spaced, mark, 3)) || !replace_spaces(text, bytes, spaced)) return false;
    text = spaced->data;
    bytes = spaced->size;
  }
  for (size_t at = 0, end; at < bytes; at = end) {
    end = bytes;
    if (flags & MB_TOKEN_METASPACE_SPLIT) end = mb_split_metaspace(&encoder->tokenizer->header, true, text, at, bytes);
    if (flags & (MB_TOKEN_DIGITS | MB_TOKEN_DIGIT_RUNS))
      end = mb_split_digits(flags & MB_TOKEN_DIGIT_RUNS, text, at, bytes);
    if (!encode_words(encoder, text + at, end - at)) return false;
  }
  return true;
}

/* What stands between added tokens, normalised. first: the text begins with it. */
static bool pre_tokenize(mb_encoder *encoder, const uint8_t *text, size_t bytes, bool first) {
  const mb_split_tables *tables = &encoder->tokenizer->splits;
  if (tables->step_count == 0) return encode_piece(encoder, text, bytes, first);
  mb_pieces pieces;
  mb_pieces_begin(&pieces, tables, text, bytes);
  for (size_t begin, end; mb_pieces_next(&pieces, &begin, &end);) {
    if (!encode_piece(encoder, text + begin, end - begin, first && begin == 0)) return false;
  }
  return true;
}

/* White space off the ends. */
static void strip(uint32_t flags, const uint8_t **text, size_t *bytes) {
  uint32_t point;
  while (flags & MB_TOKEN_STRIP_LEFT && *bytes > 0) {
    const size_t length = mb_utf8_decode(*text, &point);
    if (!(mb_unicode_class(point) & MB_UNICODE_SPACE)) break;
    *text += length;
    *bytes -= length;
  }
  while (flags & MB_TOKEN_STRIP_RIGHT && *bytes > 0) {
    size_t last = *bytes - 1;
    while (last > 0 && ((*text)[last] & 0xC0) == 0x80) last--;
    mb_utf8_decode(*text + last, &point);
    if (!(mb_unicode_class(point) & MB_UNICODE_SPACE)) break;
    *bytes = last;
  }
}

/* Appends text with two and more " " in a row as one " " or "▁". */
static bool join_spaces(const uint8_t *text, size_t bytes, bool as_mark, mb_buffer *out) {
  size_t begin = 0;
  for (size_t at = 0, end; at < bytes; at = end) {
    for (end = at; end < bytes && text[end] == ' ';) end++;
    if (end - at >= 2) {
      if (!mb_buffer_append(out, text + begin, at - begin)) return false;
      if (!(as_mark ? mb_buffer_append(out, mark, 3) : mb_buffer_append(out, " ", 1))) return false;
      begin = end;
    }
    if (end == at) end++;
  }
  return mb_buffer_append(out, text + begin, bytes - begin);
}

static bool normalize(mb_encoder *encoder, const uint8_t **text, size_t *bytes) {
  uint32_t flags = encoder->tokenizer->header.flags;
  if (flags & MB_TOKEN_CHARSMAP_FLAG) {
    encoder->mapped.size = 0;
    if (!mb_charsmap_apply(&encoder->tokenizer->charsmap, *text, *bytes, &encoder->mapped)) return false;
    *text = encoder->mapped.data;
    *bytes = encoder->mapped.size;
    if (*bytes == 0) return true; /* data may then be NULL */
  }
  if (flags & MB_TOKEN_NFC && !mb_nfc_inert(*text, *bytes)) {
    encoder->composed.size = 0;
    if (!mb_nfc(*text, *bytes, &encoder->composed)) return false;
    *text = encoder->composed.data;
    *bytes = encoder->composed.size;
  }
  if (flags & (MB_TOKEN_STRIP_LEFT | MB_TOKEN_STRIP_RIGHT)) strip(flags, text, bytes);
  if (flags & (MB_TOKEN_SPACES_ONE | MB_TOKEN_SPACES_MARK)) {
    encoder->joined.size = 0;
    if (!join_spaces(*text, *bytes, flags & MB_TOKEN_SPACES_MARK, &encoder->joined)) return false;
    *text = encoder->joined.data;
    *bytes = encoder->joined.size;
  }
  if (*bytes == 0) return true;
  if (flags & (MB_TOKEN_PREPEND | MB_TOKEN_REPLACE)) {
    mb_buffer *out = &encoder->normalized;
    out->size = 0;
    if (flags & MB_TOKEN_PREPEND && !mb_buffer_append(out, mark, 3)) return false;
    if (!(flags & MB_TOKEN_REPLACE ? replace_spaces(*text, *bytes, out) : mb_buffer_append(out, *text, *bytes)))
      return false;
    *text = out->data;
    *bytes = out->size;
  }
  return true;
}

/* What stands between added tokens of the raw text. first: the text begins with it. */
static bool encode_section(mb_encoder *encoder, const uint8_t *text, size_t bytes, bool first) {
  if (bytes == 0) return true;
  if (!normalize(encoder, &text, &bytes)) return false;
  if (bytes == 0) return true;
  size_t done = 0, search = 0;
  mb_added_match match;
  while (mb_added_next(encoder->tokenizer, true, text, bytes, done, &search, &match)) {
    if (done < match.begin && !pre_tokenize(encoder, text + done, match.begin - done, first && done == 0)) return false;
    mb_encoder_put(encoder, (int32_t)match.id);
    done = match.end;
  }
  return done == bytes || pre_tokenize(encoder, text + done, bytes - done, first && done == 0);
}

static bool encode_text(mb_encoder *encoder, const uint8_t *text, size_t bytes) {
  if (bytes == 0) return true; /* text may then be NULL */
  if (!mb_utf8_valid(text, bytes)) {
    if (!mb_utf8_repair(text, bytes, &encoder->repaired)) return false;
    text = encoder->repaired.data;
    bytes = encoder->repaired.size;
  }
  size_t done = 0, search = 0;
  mb_added_match match;
  while (mb_added_next(encoder->tokenizer, false, text, bytes, done, &search, &match)) {
    if (done < match.begin && !encode_section(encoder, text + done, match.begin - done, done == 0)) return false;
    mb_encoder_put(encoder, (int32_t)match.id);
    done = match.end;
  }
  return encode_section(encoder, text + done, bytes - done, done == 0);
}

mb_status mb_tokenizer_encode(const mb_tokenizer *tokenizer, const char *text, size_t bytes, bool special, int32_t *ids,
                              size_t capacity, size_t *count) {
  return mb_tokenizer_encode_while(tokenizer, text, bytes, special, ids, capacity, count, NULL, NULL);
}

mb_status mb_tokenizer_encode_while(const mb_tokenizer *tokenizer, const char *text, size_t bytes, bool special,
                                    int32_t *ids, size_t capacity, size_t *count, mb_go_on go_on, void *context) {
  mb_encoder encoder = {
      .tokenizer = tokenizer, .ids = ids, .capacity = capacity, .go_on = go_on, .go_on_context = context};
  const mb_token_header *header = &tokenizer->header;
  *count = 0;
  for (uint32_t i = 0; special && i < header->prefix_count; i++) mb_encoder_put(&encoder, tokenizer->template_ids[i]);
  bool done = encode_text(&encoder, (const uint8_t *)text, bytes);
  for (uint32_t i = 0; special && i < header->suffix_count; i++)
    mb_encoder_put(&encoder, tokenizer->template_ids[header->prefix_count + i]);
  mb_buffer_free(&encoder.symbols);
  mb_buffer_free(&encoder.heap);
  mb_buffer_free(&encoder.repaired);
  mb_buffer_free(&encoder.mapped);
  mb_buffer_free(&encoder.composed);
  mb_buffer_free(&encoder.joined);
  mb_buffer_free(&encoder.normalized);
  mb_buffer_free(&encoder.spaced);
  if (encoder.stopped) return mb_fail(MB_ERROR_CANCELLED, "cancelled");
  if (!done)
    return mb_fail(MB_ERROR_MEMORY, "no memory to tokenise a text of %zu bytes: feed it in smaller parts", bytes);
  *count = encoder.count;
  return MB_OK;
}
