/* The operator Decoder of domain `mobile_bundle`, version 1.
 *
 * Decoder(input_ids, attention_mask, past, index) -> logits, present, spare
 *   input_ids: int64 [1, n], new tokens; attention_mask: int64 [1, any], as many ones as there are tokens, past and
 * new, then zeros; past: float [1, 1, p, 1], of which the first (ones - n) are read: the numbers of the tokens before.
 *   index: uint8, the index segment of weights.ptd, external data: it says which file the weights are in.
 *   logits: float [1, 1, vocabulary], of the last token; present: float [1, 1, max(p, ones), 1], the numbers of all
 *   tokens, then zeros; it may be the past's own buffer. spare: float, zeros of the present's shape: onnxruntime-genai
 *   binds a pair.
 *   index_crc32: int, the index's checksum; vocabulary: int. */
#ifndef MB_ONNXRUNTIME_DECODER_H
#define MB_ONNXRUNTIME_DECODER_H

#include "onnxruntime/operators.h"
#include "onnxruntime/settings.h"

/* An operator is told nothing of its session's options but what it carries itself. */
typedef struct {
  OrtCustomOp op; /* first: ONNX Runtime hands its address back */
  onnx_settings settings;
} onnx_decoder_operator;

void onnx_decoder_operator_make(const onnx_settings *settings, onnx_decoder_operator *made);

#endif
