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
 * MB_TOKEN_SPLITS   with MB_TOKEN_SPLIT_TABLES the compiled steps that cut text into words (mb_token_splits), else
 *                   absent
 * MB_TOKEN_SCORES   with MB_TOKEN_UNIGRAM double[vocabulary + 1]: the score of each token (of those in MB_TOKEN_TRIE),
 *                   then that of an unknown character; else absent
 * MB_TOKEN_TRIE     with MB_TOKEN_UNIGRAM the tokens by their bytes, else absent: uint32 node_count, then
 *                   uint32[node_count + 1] first children, ascending: the children of node n are the nodes from
 *                   first[n] to first[n + 1] - 1, sorted by their byte; int32[node_count] the id of the token that ends
 *                   here, -1: none; uint8[node_count] the byte that leads to the node. Node 0 is the root
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
#define MB_TOKEN_UNIGRAM (1u << 16)         /* the tokens of a word by the highest sum of scores, not by merges */
#define MB_TOKEN_STRIP_LEFT (1u << 17)      /* normalizer: white space at the start of a text is taken off */
#define MB_TOKEN_STRIP_RIGHT (1u << 18)     /* ... at its end */
#define MB_TOKEN_SPACES_ONE (1u << 19)      /* normalizer: two and more " " become one " ", */
#define MB_TOKEN_SPACES_MARK (1u << 20)     /* ... or one "▁" */
#define MB_TOKEN_UNCUT (1u << 21)           /* with CUT_WORDS: but not behind the characters of `uncut` */
#define MB_TOKEN_CHARSMAP_FLAG (1u << 22)   /* normalizer, before all others: Precompiled, by MB_TOKEN_CHARSMAP */
#define MB_TOKEN_KNOWN_FLAGS ((1u << 23) - 1)

/* mb_token_header.split: how text falls into words. As regular expressions in tokenizer.json:
 * GPT2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * LLAMA3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+
 *         |\s+(?!\S)|\s+
 * QWEN2   the same with \p{N} for \p{N}{1,3}
 * TABLES  whatever the tables of MB_TOKEN_SPLITS say; older readers refuse the file */
typedef enum {
  MB_TOKEN_SPLIT_NONE = 0,
  MB_TOKEN_SPLIT_GPT2 = 1,
  MB_TOKEN_SPLIT_LLAMA3 = 2,
  MB_TOKEN_SPLIT_QWEN2 = 3,
  MB_TOKEN_SPLIT_TABLES = 4
} mb_token_split;

/* mb_token_header.decoder */
typedef enum {
  MB_TOKEN_DECODER_BYTES = 1,     /* ByteLevel: bytes one after the other, invalid UTF-8 becomes U+FFFD */
  MB_TOKEN_DECODER_METASPACE = 2, /* Replace "▁" by " ", ByteFallback, Fuse, Strip `strip` spaces from the left */
  MB_TOKEN_DECODER_MARKS = 3,     /* Metaspace: "▁" becomes " ", or with `strip` nothing in the first token */
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
  MB_TOKEN_SPLITS,
  MB_TOKEN_SCORES,
  MB_TOKEN_TRIE,
  MB_TOKEN_CHARSMAP,
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
  uint32_t uncut[4];    /* ASCII characters by bit, word 0 from its lowest bit: a merge crosses x|"▁" for these x */
  uint32_t reserved[8]; /* 0 */
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

/* MB_TOKEN_CHARSMAP is SentencePiece's precompiled_charsmap as it is: uint32 bytes of the trie; the trie, a double
 * array of uint32 in Darts' layout; then texts, to which the trie's values point, each up to a NUL. A text of more
 * bytes than this is not used. */
#define MB_TOKEN_MAX_REPLACEMENT 255u

/* MB_TOKEN_SPLITS: steps that cut text, each the pieces of the one before. The section is, without gaps:
 *   mb_token_splits       the counts
 *   mb_token_split_step[step_count]
 *   uint8[256]            the class of each byte, for steps with MB_TOKEN_SPLIT_BYTES
 *   uint16[MB_TOKEN_BLOCKS]  the block of every 128 code points, below block_count
 *   uint8[block_count][128]  the class of each code point of a block
 *   for every step        uint16[state_count][class_count + 1], then uint8[state_count] and zeros up to a multiple of 4
 * Classes are below class_count; the column class_count stands for the end of the piece.
 *
 * A step's table is a deterministic automaton that looks one character ahead. A match begins in state
 * MB_TOKEN_STATE_START. The entry of a state and the next character's class holds the next state, and
 * MB_TOKEN_MATCH_ENDS when a match ends before that character. The match is what the last such entry says when
 * MB_TOKEN_STATE_NONE is reached; there are no empty matches. Where no match begins, the search goes on one character
 * later (one byte with MB_TOKEN_SPLIT_BYTES), and what was passed over is a stretch between matches.
 * The bytes behind it: for a state that leads to itself without the end of a match, its number among those states of
 * the step (below MB_TOKEN_MAX_WAITING), else MB_TOKEN_NOT_WAITING. A reader may remember by it where waiting in such a
 * state was in vain, so that no text takes quadratic time. */
#define MB_TOKEN_MAX_SPLITS 8u
#define MB_TOKEN_MAX_CLASSES 255u
#define MB_TOKEN_MAX_STATES 4096u
#define MB_TOKEN_MAX_WAITING 16u
#define MB_TOKEN_BLOCKS 8704u /* of 128 code points up to U+10FFFF */
#define MB_TOKEN_STATE_NONE 0u
#define MB_TOKEN_STATE_START 1u
#define MB_TOKEN_MATCH_ENDS 0x8000u
#define MB_TOKEN_NOT_WAITING 0xFFu

/* mb_token_split_step.behaviour: the pieces that matches and the stretches between them become. */
typedef enum {
  MB_TOKEN_SPLIT_ISOLATED = 0,   /* each match and each stretch is a piece */
  MB_TOKEN_SPLIT_REMOVED = 1,    /* matches are left out */
  MB_TOKEN_SPLIT_CONTIGUOUS = 2, /* neighbouring matches are one piece */
  MB_TOKEN_SPLIT_PREVIOUS = 3,   /* a match goes with the stretch before it */
  MB_TOKEN_SPLIT_NEXT = 4        /* a match goes with the stretch after it */
} mb_token_split_behaviour;

/* mb_token_split_step.flags */
#define MB_TOKEN_SPLIT_INVERT 1u /* matches and stretches change their parts */
#define MB_TOKEN_SPLIT_BYTES 2u  /* every byte is a character: the step stands after the ByteLevel step */

typedef struct {
  uint32_t step_count;  /* 1..MB_TOKEN_MAX_SPLITS */
  uint32_t class_count; /* 1..MB_TOKEN_MAX_CLASSES */
  uint32_t block_count; /* 1..MB_TOKEN_BLOCKS */
  uint32_t reserved;    /* 0 */
} mb_token_splits;

typedef struct {
  uint32_t behaviour;   /* mb_token_split_behaviour */
  uint32_t flags;       /* MB_TOKEN_SPLIT_INVERT, MB_TOKEN_SPLIT_BYTES */
  uint32_t state_count; /* 2..MB_TOKEN_MAX_STATES */
  uint32_t reserved;    /* 0 */
} mb_token_split_step;

static_assert(sizeof(mb_token_splits) == 16, "the counts are 16 bytes");
static_assert(sizeof(mb_token_split_step) == 16, "a step is 16 bytes");
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
