/* The index of weights.ptd: what the C reader needs, so that it parses no flatbuffer.
 *
 * weights.ptd is an ExecuTorch FlatTensor file. Bytes 8..47 of it are FlatTensor's fixed extended header
 * (magic "FH01", uint32 header length, uint64 flatbuffer offset and size, uint64 segment base offset, uint64 segment
 * data size). Segments are aligned to 16 KiB. The first segment (named data key "mobile_bundle.index") is this index:
 *
 *   mb_index_header, 64 bytes
 *   mb_model_config, 256 bytes, at config_offset
 *   mb_index_record[tensor_count], 64 bytes each, at records_offset, sorted by name_hash then by name
 *   names, at names_offset: UTF-8, not terminated, one after the other
 *
 * Offsets inside the index count from its first byte; blob offsets count from the first byte of the file.
 * The other segments hold the blobs (packed_formats.h), each at a multiple of 64 bytes: "vectors" (every norm, bias
 * and table), "embedding", "layers.0" ... "layers.N-1", "output" (when the output head is not tied).
 */
#ifndef MOBILE_BUNDLE_WEIGHTS_INDEX_H
#define MOBILE_BUNDLE_WEIGHTS_INDEX_H

#include <assert.h>
#include <stdint.h>

#define MB_INDEX_MAGIC "MBINDEX\0"
#define MB_INDEX_VERSION 1
#define MB_SEGMENT_ALIGNMENT 16384

typedef struct {
  char magic[8];    /* "MBINDEX\0" */
  uint32_t version; /* MB_INDEX_VERSION */
  uint32_t tensor_count;
  uint64_t index_bytes; /* from the header to the end of the names */
  uint64_t file_bytes;  /* size of the whole weights.ptd */
  uint32_t config_offset;
  uint32_t records_offset;
  uint32_t names_offset;
  uint32_t names_bytes;
  uint32_t crc32;       /* CRC-32 (zlib's) of the index's index_bytes bytes with this field 0 */
  uint32_t reserved[3]; /* 0 */
} mb_index_header;

typedef struct {
  uint64_t name_hash;   /* FNV-1a 64 of the name's bytes */
  uint64_t offset;      /* of the blob header, from the start of the file; a multiple of 64 */
  uint64_t bytes;       /* header and payload */
  uint32_t name_offset; /* inside the names */
  uint32_t name_bytes;
  uint16_t format; /* these five repeat the blob header, which must agree */
  uint16_t blob_version;
  uint32_t rows;
  uint32_t columns;
  uint32_t group;
  uint32_t flags;
  uint32_t crc32;       /* CRC-32 of the blob, header included */
  uint32_t reserved[2]; /* 0 */
} mb_index_record;

typedef enum {
  MB_ACTIVATION_SILU = 1,
  MB_ACTIVATION_RELU2 = 2,
  MB_ACTIVATION_GELU_TANH = 3, /* x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3))) */
} mb_activation;

#define MB_MODEL_INT8_ACTIVATIONS 1u /* BitNet: every projection sees its input rounded to int8 per token (absmax) */
#define MB_MODEL_NO_INPUT_NORMS 2u   /* attention and MLP read the stream as it is: no attention.norm, no mlp.norm */
#define MB_MODEL_OUTPUT_NORMS 4u     /* what attention and MLP give is normed before it is added to the stream */
#define MB_MODEL_WIDE_QK_NORMS 8u    /* query and key norms go over all heads together, not over each */
#define MB_MODEL_LATE_QK_NORMS 16u   /* query and key norms come after the rotation, not before */
#define MB_MODEL_WINDOW_ROPE 32u     /* layers with a window rotate by rope.window.inverse_frequencies */
#define MB_MODEL_MAX_EOS 8

/* Limits. No known model comes near them; they keep every size that is computed from a model far below 2^64. Readers
 * refuse a file beyond them, writers make none. models/limits.py repeats them for the toolchain. */
#define MB_MOST_TENSORS 65536u          /* records of an index */
#define MB_MOST_INDEX_BYTES (32u << 20) /* of an index, names included */
#define MB_MOST_NAME_BYTES 256u         /* of a tensor's name, which has at least one */
#define MB_MOST_VOCABULARY (1u << 21)
#define MB_MOST_HIDDEN 65536u
#define MB_MOST_LAYERS 1024u
#define MB_MOST_HEADS 1024u
#define MB_MOST_HEAD_DIM 1024u
#define MB_MOST_ATTENTION 65536u /* heads * head_dim */
#define MB_MOST_FEED_FORWARD (1u << 18)
#define MB_MOST_CONTEXT (1u << 24)
#define MB_MOST_SHARED_HEADS 128u /* query heads per KV head */
#define MB_MOST_TAPS 32u          /* of a convolution; at least 2 */
#define MB_LAYER_SET_BYTES 16     /* a set of layers: bit l % 8 of byte l / 8; so of layers 0 to 127 */

/* Tensor names ("layers.N." stands before each name of a layer; [] marks what may be absent):
 *   embedding.weight  [output.weight]  norm.weight  rope.inverse_frequencies (1 x rotary_dim/2)
 *   [rope.window.inverse_frequencies (1 x rotary_dim/2)]  attention.norm.weight  attention.query.weight [.bias]
 *   attention.key.weight [.bias]  attention.value.weight [.bias]  attention.output.weight [.bias]
 *   [attention.query.norm.weight  attention.key.norm.weight]  [attention.sub_norm.weight]
 *   [attention.output.norm.weight]  mlp.norm.weight  mlp.gate.weight [.bias]  mlp.up.weight [.bias]
 *   mlp.down.weight [.bias]  [mlp.sub_norm.weight]  [mlp.output.norm.weight]
 * A layer of convolution_layers has none of attention but attention.norm, and in its place
 *   conv.input.weight (3 * hidden x hidden)  conv.taps.weight (1 x taps * hidden, tap by tap)  conv.output.weight
 * With b, c, x the three parts of what conv.input gives for a position p, and u = b * x, the convolution gives
 * c * (taps[0] * u(p - taps + 1) + ... + taps[taps - 1] * u(p)), where u is 0 before the first position: the short
 * convolution of LFM2.
 * Without output.weight the embedding is the output head. The flags say which norms there are, and the second table. */
typedef struct {
  uint32_t flags;      /* MB_MODEL_* */
  uint32_t vocabulary; /* 1..MB_MOST_VOCABULARY, and so on for each size */
  uint32_t hidden;
  uint32_t layers;
  uint32_t heads;
  uint32_t kv_heads; /* divides heads */
  uint32_t head_dim; /* even */
  uint32_t feed_forward;
  uint32_t context;        /* positions the model was trained for: the most a session may ask for */
  uint32_t sliding_window; /* a query sees this many positions, itself included; 0: all. Not in full_layers */
  uint32_t activation;     /* mb_activation */
  float norm_epsilon;
  int32_t bos_token;  /* -1: none */
  uint32_t eos_count; /* 0..MB_MODEL_MAX_EOS */
  int32_t eos_tokens[MB_MODEL_MAX_EOS];
  uint32_t default_context; /* what a session gets when it asks for none; the manifest's prediction is for it */
  char name[64];            /* for people, UTF-8, zero-terminated */
  float embedding_scale;    /* what a row of the embedding is multiplied by; 0: 1 */
  float residual_scale;     /* what attention and MLP give is multiplied by this before it is added; 0: 1 */
  float query_scale;        /* what a score, query times key, is multiplied by; 0: 1 / sqrt(head_dim) */
  float rotary_scale;       /* what cosines and sines are multiplied by; 0: 1 */
  uint32_t rotary_dim;      /* so many values of a head are rotated, the first; even; 0: all */
  uint8_t full_layers[MB_LAYER_SET_BYTES];        /* these see all positions, whatever sliding_window is */
  uint8_t unrotated_layers[MB_LAYER_SET_BYTES];   /* these have no positions at all */
  uint8_t convolution_layers[MB_LAYER_SET_BYTES]; /* these have a short convolution in place of attention */
  uint32_t convolution_taps; /* positions that a convolution sees, its own included; 0: no layer has one */
  float score_cap;           /* a score s, scaled, becomes score_cap * tanh(s / score_cap); 0: it stays */
  float logit_cap;           /* the same of logits */
  uint8_t reserved[20];      /* 0 */
} mb_model_config;

static_assert(sizeof(mb_index_header) == 64, "the index header is 64 bytes");
static_assert(sizeof(mb_index_record) == 64, "an index record is 64 bytes");
static_assert(sizeof(mb_model_config) == 256, "the model config is 256 bytes");

#endif
