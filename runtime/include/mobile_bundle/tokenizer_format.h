/* tokenizer.bin, bit by bit. Written by toolchain/mobile_bundle/tokenizer/, read by runtime/tokenizer/file.c.
 *
 * Little endian. An mb_token_header (256 bytes), then the sections it points to, each at a multiple of 8 bytes, in the
 * order of mb_token_section. An absent section has 0 bytes. The file is used as it is mapped: nothing is decoded.
 *
 * Ids are below `vocabulary`, which is at most MB_TOKEN_MAX_VOCABULARY.
 *
 * MB_TOKEN_OFFSETS  uint32[vocabulary + 1]: where each id's bytes begin in MB_TOKEN_BYTES; the low 29 bits, ascending;
 *                   MB_TOKEN_IS_* above them. With MB_TOKEN_BYTE_LEVEL the bytes are what the token stands for
 *                   (no "Ġ"), else its string in UTF-8 ("▁" as it is; a byte token such as <0x0A> is its one byte).
 * MB_TOKEN_BYTES    the tokens' bytes, one after the other
 * MB_TOKEN_SYMBOLS  int32[256]: the id of each byte, -1: none. With MB_TOKEN_BYTE_LEVEL a word's first symbols;
 *                   else the byte fallback's tokens.
 * MB_TOKEN_MERGES   uint64[merge_slots], a hash table with linear probing: a slot is all ones when it is empty, else
 *                   left id << 43 | right id << 22 | rank. A pair's first slot is
 *                   (mb_token_pair_hash * merge_slots) >> 32; no search is longer than merge_probes slots.
 * MB_TOKEN_MERGED   uint32[merge_count]: the id that the merge of a rank gives. Absent when it is merge_first + rank.
 * MB_TOKEN_STRINGS  int32[string_slots], a hash table with linear probing of the ids that text is looked up in: -1
 *                   when empty. With MB_TOKEN_IGNORE_MERGES every token that a word may be; otherwise, without
 *                   MB_TOKEN_BYTE_LEVEL, the tokens of one character. First slot: (mb_token_string_hash *
 *                   string_slots) >> 32; no search is longer than string_probes slots.
 * MB_TOKEN_ADDED    mb_token_added[added_count], sorted by bytes, first the added_raw ones that are found in the raw
 *                   text, then those found in the normalised text
 * MB_TOKEN_ADDED_BYTES  their texts (normalised where they are to be found so)
 * MB_TOKEN_TEMPLATE int32[prefix_count + suffix_count]: the ids that special=true puts before and after
 * MB_TOKEN_CHAT     absent; or with MB_TOKEN_CHAT_PROGRAM the compiled chat template (chat_format.h); or, in older
 *                   files, mb_token_chat
 * MB_TOKEN_CHAT_BYTES  the texts it points to, UTF-8
 */
#ifndef MOBILE_BUNDLE_TOKENIZER_FORMAT_H
#define MOBILE_BUNDLE_TOKENIZER_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define MB_TOKEN_MAGIC "MBTOKENS"
#define MB_TOKEN_VERSION 1
#define MB_TOKEN_MAX_VOCABULARY (1u << 21)
#define MB_TOKEN_MAX_MERGES ((1u << 22) - 1)
#define MB_TOKEN_MAX_PROBES 256u
#define MB_TOKEN_MAX_ADDED_BYTES 512u /* of one added token */
#define MB_TOKEN_MAX_TEMPLATE 64u     /* ids */

/* Above an offset's 29 bits. */
#define MB_TOKEN_OFFSET_MASK 0x1FFFFFFFu
#define MB_TOKEN_IS_SPECIAL 0x80000000u /* left out when special tokens are skipped */
#define MB_TOKEN_IS_BYTE 0x40000000u    /* one byte of the byte fallback */
#define MB_TOKEN_IS_ABSENT 0x20000000u  /* no token has this id */

/* mb_token_header.flags */
#define MB_TOKEN_BYTE_LEVEL (1u << 0)       /* symbols are bytes, else characters */
#define MB_TOKEN_NFC (1u << 1)              /* normalizer: NFC */
#define MB_TOKEN_PREPEND (1u << 2)          /* normalizer: "▁" before a text that is not empty */
#define MB_TOKEN_REPLACE (1u << 3)          /* normalizer: " " becomes "▁" */
#define MB_TOKEN_PREFIX_SPACE (1u << 4)     /* ByteLevel add_prefix_space */
#define MB_TOKEN_DIGITS (1u << 5)           /* before `split`: every digit is a piece */
#define MB_TOKEN_DIGIT_RUNS (1u << 6)       /* before `split`: every run of digits is a piece */
#define MB_TOKEN_METASPACE (1u << 7)        /* pre-tokenizer Metaspace: " " becomes "▁" */
#define MB_TOKEN_METASPACE_FIRST (1u << 8)  /* ... and "▁" is put before the text's first piece, */
#define MB_TOKEN_METASPACE_ALWAYS (1u << 9) /* ... before every piece, unless it begins so */
#define MB_TOKEN_METASPACE_SPLIT (1u << 10) /* ... and pieces are cut before each "▁" */
#define MB_TOKEN_CUT_WORDS (1u << 11)       /* no merge crosses x|"▁" for x other than "▁": words may be cut there */
#define MB_TOKEN_IGNORE_MERGES (1u << 12)   /* a word that is a token is that token */
#define MB_TOKEN_BYTE_FALLBACK (1u << 13)   /* an unknown character becomes its bytes */
#define MB_TOKEN_FUSE_UNKNOWN (1u << 14)    /* neighbouring unknown characters become one unknown token */
#define MB_TOKEN_CHAT_PROGRAM (1u << 15)    /* MB_TOKEN_CHAT is a program; older readers refuse the file */
#define MB_TOKEN_KNOWN_FLAGS ((1u << 16) - 1)

/* mb_token_header.split: how text falls into words. As regular expressions in tokenizer.json:
 * GPT2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * LLAMA3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+
 *         |\s+(?!\S)|\s+
 * QWEN2   the same with \p{N} for \p{N}{1,3} */
typedef enum {
  MB_TOKEN_SPLIT_NONE = 0,
  MB_TOKEN_SPLIT_GPT2 = 1,
  MB_TOKEN_SPLIT_LLAMA3 = 2,
  MB_TOKEN_SPLIT_QWEN2 = 3
} mb_token_split;

/* mb_token_header.decoder */
typedef enum {
  MB_TOKEN_DECODER_BYTES = 1,     /* ByteLevel: bytes one after the other, invalid UTF-8 becomes U+FFFD */
  MB_TOKEN_DECODER_METASPACE = 2, /* Replace "▁" by " ", ByteFallback, Fuse, Strip `strip` spaces from the left */
} mb_token_decoder;

typedef enum {
  MB_TOKEN_OFFSETS,
  MB_TOKEN_BYTES,
  MB_TOKEN_SYMBOLS,
  MB_TOKEN_MERGES,
  MB_TOKEN_MERGED,
  MB_TOKEN_STRINGS,
  MB_TOKEN_ADDED,
  MB_TOKEN_ADDED_BYTES,
  MB_TOKEN_TEMPLATE,
  MB_TOKEN_CHAT,
  MB_TOKEN_CHAT_BYTES,
  MB_TOKEN_SECTIONS
} mb_token_section;

typedef struct {
  uint32_t offset; /* from the start of the file */
  uint32_t bytes;
} mb_token_span;

typedef struct {
  char magic[8];    /* MB_TOKEN_MAGIC */
  uint32_t version; /* MB_TOKEN_VERSION */
  uint32_t crc32;   /* CRC-32 (zlib's) of the whole file with this field 0 */
  uint32_t file_bytes;
  uint32_t vocabulary; /* highest id + 1 */
  uint32_t flags;
  uint32_t split;   /* mb_token_split */
  uint32_t decoder; /* mb_token_decoder */
  uint32_t strip;   /* spaces taken from the left of a decoded text */
  int32_t unknown;  /* id of the unknown token; -1: unknown characters vanish */
  uint32_t longest; /* bytes of the longest token */
  uint32_t merge_count;
  uint32_t merge_slots;
  uint32_t merge_probes;
  uint32_t merge_first; /* see MB_TOKEN_MERGED */
  uint32_t string_slots;
  uint32_t string_probes;
  uint32_t added_count;
  uint32_t added_raw;
  uint32_t prefix_count;
  uint32_t suffix_count;
  mb_token_span sections[MB_TOKEN_SECTIONS];
  uint32_t reserved[20]; /* 0 */
} mb_token_header;

#define MB_TOKEN_ADDED_STRIP_LEFT 1u  /* swallows white space before it */
#define MB_TOKEN_ADDED_STRIP_RIGHT 2u /* ... after it */
#define MB_TOKEN_ADDED_WORD 4u        /* only where no word character touches it */

typedef struct {
  uint32_t id;
  uint32_t flags;  /* MB_TOKEN_ADDED_* */
  uint32_t offset; /* inside MB_TOKEN_ADDED_BYTES */
  uint32_t bytes;  /* 1..MB_TOKEN_MAX_ADDED_BYTES */
} mb_token_added;

/* The chat template of older files. Places of a conversation: rows are what comes before (3: the start, or the role of
 * the last message), columns what comes next (a role, or 3: the answer). between[from][to] is the text between the two
 * contents. */
#define MB_TOKEN_CHAT_PLACES 4
#define MB_TOKEN_CHAT_ABSENT 0xFFFFFFFFu /* offset of a text that the template does not have */

typedef struct {
  uint32_t trims; /* bit r: the template strips white space from both ends of the content of role r */
  uint32_t reserved;
  mb_token_span between[MB_TOKEN_CHAT_PLACES][MB_TOKEN_CHAT_PLACES]; /* offsets inside MB_TOKEN_CHAT_BYTES */
} mb_token_chat;

static_assert(sizeof(mb_token_header) == 256, "the header is 256 bytes");
static_assert(sizeof(mb_token_added) == 16, "an added token is 16 bytes");
static_assert(sizeof(mb_token_chat) == 136, "the chat table is 136 bytes");

static inline uint32_t mb_token_pair_hash(uint32_t left, uint32_t right) {
  uint32_t hash = left * 0x9E3779B1u ^ right * 0x85EBCA77u;
  hash = (hash ^ hash >> 15) * 0x2C1B3C6Du;
  hash = (hash ^ hash >> 13) * 0x297A2D39u;
  return hash ^ hash >> 16;
}

/* FNV-1a, then mixed so that its high bits are good. */
static inline uint32_t mb_token_string_hash(const uint8_t *text, uint32_t bytes) {
  uint32_t hash = 0x811C9DC5u;
  for (uint32_t i = 0; i < bytes; i++) hash = (hash ^ text[i]) * 0x01000193u;
  hash = (hash ^ hash >> 15) * 0x2C1B3C6Du;
  return hash ^ hash >> 16;
}

#endif
