/* SentencePiece's table of replacements (a Precompiled normalizer), as Hugging Face's crate spm_precompiled applies it:
 * a grapheme cluster of at most five bytes is looked up as a whole, of a longer one each character; and whatever is
 * looked up is replaced whole by what its shortest prefix in the table becomes. */
#include "base/error.h"
#include "base/unicode.h"
#include "base/unicode_tables.h"
#include "tokenizer/tokenizer.h"

enum { LONGEST_CLUSTER = 5 };

mb_status mb_charsmap_open(const uint8_t *data, size_t bytes, mb_charsmap *map) {
  uint32_t trie_bytes;
  if (bytes < sizeof trie_bytes) return mb_fail(MB_ERROR_FORMAT, "tokenizer.bin is damaged: its table of characters");
  memcpy(&trie_bytes, data, sizeof trie_bytes);
  const size_t rest = bytes - sizeof trie_bytes;
  if (trie_bytes == 0 || trie_bytes % sizeof(uint32_t) != 0 || trie_bytes > rest ||
      !mb_utf8_valid(data + sizeof trie_bytes + trie_bytes, rest - trie_bytes))
    return mb_fail(MB_ERROR_FORMAT, "tokenizer.bin is damaged: its table of characters");
  map->units = (const uint32_t *)(const void *)(data + sizeof trie_bytes);
  map->unit_count = trie_bytes / sizeof(uint32_t);
  map->texts = data + sizeof trie_bytes + trie_bytes;
  map->text_bytes = rest - trie_bytes;
  return MB_OK;
}

/* A unit of Darts' double array: a node's byte, whether it has a value, and where its children are. */
static uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }
static uint32_t label_of(uint32_t unit) { return unit & (1u << 31 | 0xFFu); }

/* What the shortest prefix of key[bytes] in the table becomes, up to a NUL; NULL: none is in it. */
static const uint8_t *replacement(const mb_charsmap *map, const uint8_t *key, size_t bytes, size_t *length) {
  uint32_t node = offset_of(map->units[0]);
  for (size_t i = 0; i < bytes && key[i] != 0; i++) {
    node ^= key[i];
    if (node >= map->unit_count || label_of(map->units[node]) != key[i]) return NULL;
    const uint32_t unit = map->units[node];
    node ^= offset_of(unit);
    if (!(unit >> 8 & 1)) continue;
    if (node >= map->unit_count) return NULL;
    const uint32_t at = map->units[node] & ~(1u << 31);
    if (at > map->text_bytes || (at < map->text_bytes && (map->texts[at] & 0xC0) == 0x80)) return NULL;
    const size_t room = map->text_bytes - at;
    const size_t most = room < MB_TOKEN_MAX_REPLACEMENT + 1 ? room : MB_TOKEN_MAX_REPLACEMENT + 1;
    const uint8_t *text = map->texts + at, *end = memchr(text, 0, most);
    if (!end && most < room) return NULL;
    *length = end ? (size_t)(end - text) : room;
    return text;
  }
  return NULL;
}

/* What is known of the cluster so far. */
typedef struct {
  uint32_t last;  /* class of the last character */
  bool picture;   /* a picture, and then what extends it */
  bool consonant; /* one of a script with conjuncts, and then what extends it */
  bool linked;    /* ... a linker among that */
} cluster;

static bool extends(uint32_t class) {
  return class == MB_GRAPHEME_EXTEND || class == MB_GRAPHEME_CONJUNCT || class == MB_GRAPHEME_LINKER;
}

/* Whether a character belongs to the cluster before it (Unicode Standard Annex 29, rules GB3 to GB11). Pairs of flags
 * (GB12, GB13) are left out: they are of four bytes each, so no short cluster has one. */
static bool belongs(const cluster *before, uint32_t class) {
  const uint32_t last = before->last;
  if (last == MB_GRAPHEME_CR) return class == MB_GRAPHEME_LF;
  if (last == MB_GRAPHEME_LF || last == MB_GRAPHEME_CONTROL) return false;
  if (class == MB_GRAPHEME_CR || class == MB_GRAPHEME_LF || class == MB_GRAPHEME_CONTROL) return false;
  if (extends(class) || class == MB_GRAPHEME_JOINER || class == MB_GRAPHEME_SPACING) return true;
  switch (last) {
    case MB_GRAPHEME_PREPEND:
      return true;
    case MB_GRAPHEME_HANGUL_L:
      return class == MB_GRAPHEME_HANGUL_L || class == MB_GRAPHEME_HANGUL_V || class == MB_GRAPHEME_HANGUL_LV ||
             class == MB_GRAPHEME_HANGUL_LVT;
    case MB_GRAPHEME_HANGUL_V:
    case MB_GRAPHEME_HANGUL_LV:
      return class == MB_GRAPHEME_HANGUL_V || class == MB_GRAPHEME_HANGUL_T;
    case MB_GRAPHEME_HANGUL_T:
    case MB_GRAPHEME_HANGUL_LVT:
      return class == MB_GRAPHEME_HANGUL_T;
    case MB_GRAPHEME_JOINER:
      if (before->picture && class == MB_GRAPHEME_PICTURE) return true;
      break;
    default:
      break;
  }
  return before->linked && class == MB_GRAPHEME_CONSONANT;
}

static void follow(cluster *state, uint32_t class) {
  const bool conjunct = class == MB_GRAPHEME_CONJUNCT || class == MB_GRAPHEME_LINKER || class == MB_GRAPHEME_JOINER;
  state->linked = state->consonant && conjunct && (state->linked || class == MB_GRAPHEME_LINKER);
  state->consonant = class == MB_GRAPHEME_CONSONANT || (state->consonant && conjunct);
  state->picture = class == MB_GRAPHEME_PICTURE || (state->picture && state->last != MB_GRAPHEME_JOINER &&
                                                    (extends(class) || class == MB_GRAPHEME_JOINER));
  state->last = class;
}

/* Appends what text[bytes] becomes; as it is if the table does not have it. */
static bool append(const mb_charsmap *map, const uint8_t *text, size_t bytes, mb_buffer *out) {
  size_t length;
  const uint8_t *found = replacement(map, text, bytes, &length);
  return found ? mb_buffer_append(out, found, length) : mb_buffer_append(out, text, bytes);
}

bool mb_charsmap_apply(const mb_charsmap *map, const uint8_t *text, size_t bytes, mb_buffer *out) {
  for (size_t begin = 0, end; begin < bytes; begin = end) {
    cluster state = {0};
    uint32_t point;
    end = begin + mb_utf8_decode(text + begin, &point);
    follow(&state, mb_grapheme_class(point));
    while (end < bytes) {
      const size_t length = mb_utf8_decode(text + end, &point);
      const uint32_t class = mb_grapheme_class(point);
      if (!belongs(&state, class)) break;
      follow(&state, class);
      end += length;
    }
    size_t length;
    const uint8_t *found = end - begin <= LONGEST_CLUSTER ? replacement(map, text + begin, end - begin, &length) : NULL;
    if (found) {
      if (!mb_buffer_append(out, found, length)) return false;
      continue;
    }
    for (size_t at = begin; at < end; at += length) {
      length = mb_utf8_decode(text + at, &point);
      if (!append(map, text + at, length, out)) return false;
    }
  }
  return true;
}

mb_status mb_tokenizer_mapped(const mb_tokenizer *tokenizer, const char *text, size_t bytes, char *mapped,
                              size_t capacity, size_t *count) {
  *count = 0;
  if (!(tokenizer->header.flags & MB_TOKEN_CHARSMAP_FLAG) || !mb_utf8_valid((const uint8_t *)text, bytes))
    return mb_fail(MB_ERROR_ARGUMENT, "a table of characters is applied by a tokenizer that has one, to valid UTF-8");
  mb_buffer out = {0};
  const bool done = mb_charsmap_apply(&tokenizer->charsmap, (const uint8_t *)text, bytes, &out);
  if (done && out.size) memcpy(mapped, out.data, out.size < capacity ? out.size : capacity);
  *count = out.size;
  mb_buffer_free(&out);
  return done ? MB_OK : mb_fail(MB_ERROR_MEMORY, "no memory for a text of %zu bytes", bytes);
}
