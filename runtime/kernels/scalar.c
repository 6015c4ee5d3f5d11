/* The definition: plain C, one operation after another as kernels.h writes them. Every other table gives these bits. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernels/coarsen-impl.h"
#include "kernels/exponential.h"
#include "kernels/kernels.h"
#include "kernels/kv_codes-impl.h"
#include "kernels/quantise.h"
#include "kernels/scalar_sparse-impl.h"
#include "kernels/scalar_vector-impl.h"
#include "kernels/tables.h"
#include "kernels/turn-impl.h"
#include "packed/layout.h"

/* ---- activations ---- */

static void quantise_group(const float *values, uint32_t columns, int8_t *codes, float *scale, int32_t *sum) {
  uint32_t maximum = 0; /* of |v|, compared as bits: the order of the numbers, with NaN above all */
  for (uint32_t c = 0; c < columns; c++) {
    uint32_t magnitude = mb_float_bits(values[c]) & 0x7fffffffu;
    if (magnitude > maximum) maximum = magnitude;
  }
  mb_group_scale s = mb_scale_of_maximum(maximum);
  *scale = s.scale;
  *sum = 0;
  if (s.inverse == 0) {
    memset(codes, 0, columns);
    return;
  }
  for (uint32_t c = 0; c < columns; c++) {
    float rounded = values[c] * s.inverse + MB_ROUND_TO_INTEGER;
    codes[c] = (int8_t)((int32_t)mb_float_bits(rounded) - MB_ROUND_TO_INTEGER_BITS);
    *sum += codes[c];
  }
}

#include "kernels/quantise-impl.h"

/* ---- matrix products: one row of w times vector n of x ---- */

static int32_t dot_codes(const int8_t *codes, int32_t offset, const int8_t *x, uint32_t columns) {
  int32_t sum = 0;
  for (uint32_t c = 0; c < columns; c++) sum += (codes[c] - offset) * x[c];
  return sum;
}

static float ternary_row(const mb_matrix *w, const mb_activations *x, uint32_t n, uint32_t row) {
  const uint8_t *block = w->data + row / MB_STRIP_ROWS * mb_ternary_strip_bytes(w);
  const int8_t *q = x->codes + (size_t)n * x->padded;
  int32_t sum = 0;
  for (uint32_t b = mb_ternary_blocks(w); b > 0; b--, block += 64, q += 16) {
    int8_t codes[16];
    mb_row_codes(2, block, row % MB_STRIP_ROWS, 16, codes);
    sum += dot_codes(codes, 1, q, 16);
  }
  float scale = w->row_scales != NULL ? w->row_scales[row] : w->scale;
  return (float)sum * scale * x->scales[n];
}

static float affine_row(const mb_matrix *w, const mb_activations *x, uint32_t n, uint32_t row) {
  uint32_t bits = mb_format_bits(w->format), groups = mb_affine_groups(w), r = row % MB_STRIP_ROWS;
  const bool asymmetric = mb_is_asymmetric(w), zeros = mb_has_zeros(w->flags);
  int32_t offset = asymmetric ? 0 : mb_symmetric_offset(bits);
  const uint8_t *record = w->data + row / MB_STRIP_ROWS * mb_affine_strip_bytes(w);
  const int8_t *q = x->codes + (size_t)n * x->padded;
  float sum = 0;
  for (uint32_t g = 0; g < groups; g++, record += mb_record_bytes(w), q += w->group) {
    int8_t codes[MB_MAX_GROUP];
    mb_row_codes(bits, record + mb_record_head_bytes(w->flags), r, w->group, codes);
    const float sum_of_x = (float)x->sums[(size_t)n * x->groups + g];
    float t = (float)dot_codes(codes, offset, q, w->group);
    if (zeros) t = t - sum_of_x * mb_record_zero(record, r, bits);
    t = t * mb_f16_to_f32(mb_record_scale(record, r, w->flags));
    if (asymmetric && !zeros) t = t + sum_of_x * mb_f16_to_f32(mb_record_offset(record, r));
    sum = sum + t * x->scales[(size_t)n * x->groups + g];
  }
  return sum * w->scale;
}

/* The end of a sum kept in 16 or 8 parts. */
static float add_8_parts(const float s[8]) { return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7])); }

static float dense_row(const mb_matrix *w, const mb_activations *x, uint32_t n, uint32_t row) {
  const float *v = x->values + (size_t)n * x->padded;
  size_t at = (size_t)row * w->columns;
  float sums[16] = {0};
  for (uint32_t c = 0; c < w->columns; c++) {
    float weight;
    uint16_t half;
    if (w->format == MB_FORMAT_BF16) {
      memcpy(&half, w->data + (at + c) * 2, 2);
      weight = mb_bf16_to_f32(half);
    } else {
      memcpy(&weight, w->data + (at + c) * 4, 4);
    }
    sums[c % 16] += weight * v[c];
  }
  for (int i = 0; i < 8; i++) sums[i] += sums[i + 8];
  return add_8_parts(sums);
}

static void multiply(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                     uint32_t row_end) {
  uint32_t last = mb_last_row(w, row_end);
  for (uint32_t n = 0; n < x->count; n++)
    for (uint32_t r = row_begin; r < last; r++) {
      float *to = y + n * y_stride + r;
      if (w->format == MB_FORMAT_TERNARY2)
        *to = ternary_row(w, x, n, r);
      else if (w->format == MB_FORMAT_SPARSE_TERNARY)
        *to = sparse_row(w, x, n, r);
      else if (w->format == MB_FORMAT_VECTOR)
        *to = vector_row(w, x, n, r);
      else if (mb_is_affine(w->format))
        *to = affine_row(w, x, n, r);
      else
        *to = dense_row(w, x, n, r);
    }
}

/* ---- attention ---- */

static void scores_f16(const mb_queries *queries, const mb_kv_head *keys, float *scores, size_t scores_stride) {
  const uint32_t heads = queries->rows, stride = keys->stride, positions = keys->positions;
  const uint16_t *halves = keys->values;
  for (uint32_t h = 0; h < heads; h++)
    for (uint32_t p = 0; p < positions; p++) {
      float lanes[8] = {0};
      for (uint32_t d = 0; d < stride; d++)
        lanes[d % 8] += queries->values[(size_t)h * stride + d] * mb_f16_to_f32(halves[(size_t)p * stride + d]);
      scores[h * scores_stride + p] = add_8_parts(lanes);
    }
}

static void mix_f16(const mb_terms *terms, const mb_kv_head *values, uint32_t first_block, uint32_t last_block,
                    float *out) {
  const uint32_t stride = values->stride, positions = values->positions;
  const uint16_t *halves = values->values;
  for (uint32_t r = 0; r < terms->rows; r++)
    for (uint32_t p = 0; p < positions; p++)
      for (uint32_t d = first_block * MB_KV_BLOCK; d < last_block * MB_KV_BLOCK; d++)
        out[(size_t)r * stride + d] +=
            terms->terms[r * terms->stride + p] * mb_f16_to_f32(halves[(size_t)p * stride + d]);
}

static void scores_of(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride,
                      bool int4) {
  const uint32_t blocks = keys->blocks;
  for (uint32_t r = 0; r < queries->rows; r++)
    for (uint32_t p = 0; p < keys->positions; p++) {
      float score = 0;
      for (uint32_t b = 0; b < blocks; b++) {
        const int8_t *q = queries->codes + ((size_t)r * blocks + b) * MB_KV_BLOCK;
        const uint8_t *k = keys->codes + mb_kv_block_at(blocks, p, b) * mb_kv_block_bytes(int4);
        const float scale =
            queries->scales[(size_t)r * blocks + b] * mb_f16_to_f32(keys->scales[mb_kv_scale_at(blocks, p, b)]);
        int32_t dot = 0;
        for (uint32_t d = 0; d < MB_KV_BLOCK; d++) dot += mb_kv_code(int4, k, mb_kv_key(int4, p, d)) * q[d];
        score += (float)dot * scale;
      }
      scores[r * scores_stride + p] = score;
    }
}

/* The codes of a row's weights in one tile; returns their scale. limit: terms above it are large. */
static float tile_weights(const float *terms, float limit, const mb_kv_groups *values, uint32_t block, uint32_t first,
                          uint32_t positions, int16_t codes[MB_KV_TILE]) {
  float scaled[MB_KV_TILE];
  uint32_t maximum = 0;
  bool large = false;
  for (uint32_t i = 0; i < positions; i++) {
    const float scale = mb_f16_to_f32(values->scales[mb_kv_scale_at(values->blocks, first + i, block)]);
    scaled[i] = terms[i] != 0 ? terms[i] * scale : 0;
    const uint32_t magnitude = mb_float_bits(scaled[i]) & 0x7fffffffu;
    if (magnitude > maximum) maximum = magnitude;
    large = large || terms[i] > limit;
  }
  const mb_group_scale s = mb_scale_of_weights(maximum, large);
  for (uint32_t i = 0; i < positions; i++) {
    const float rounded = (s.inverse != 0 ? scaled[i] * s.inverse : 0) + MB_ROUND_TO_INTEGER;
    codes[i] = (int16_t)((int32_t)mb_float_bits(rounded) - MB_ROUND_TO_INTEGER_BITS);
  }
  return s.scale;
}

static void mix_of(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                   float *out, bool int4) {
  const size_t stride = (size_t)values->blocks * MB_KV_BLOCK;
  for (uint32_t b = first_block; b < last_block; b++)
    for (uint32_t first = 0; first < values->positions; first += MB_KV_TILE) {
      const uint32_t left = values->positions - first, positions = left < MB_KV_TILE ? left : MB_KV_TILE;
      for (uint32_t r = 0; r < terms->rows; r++) {
        int16_t codes[MB_KV_TILE];
        const float scale = tile_weights(terms->terms + r * terms->stride + first, terms->sums[r] * MB_LARGE_TERM,
                                         values, b, first, positions, codes);
        for (uint32_t d = 0; d < MB_KV_BLOCK; d++) {
          int32_t sum = 0;
          for (uint32_t i = 0; i < positions; i++) {
            const uint8_t *v = values->codes + mb_kv_block_at(values->blocks, first + i, b) * mb_kv_block_bytes(int4);
            sum += codes[i] * mb_kv_code(int4, v, mb_kv_value(int4, first + i, d));
          }
          out[r * stride + b * MB_KV_BLOCK + d] += (float)sum * scale;
        }
      }
    }
}

static void scores_int8(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  scores_of(queries, keys, scores, scores_stride, false);
}

static void scores_int4(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride) {
  scores_of(queries, keys, scores, scores_stride, true);
}

static void mix_int8(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                     float *out) {
  mix_of(terms, values, first_block, last_block, out, false);
}

static void mix_int4(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                     float *out) {
  mix_of(terms, values, first_block, last_block, out, true);
}

/* ---- vector functions ---- */

static float sum_squares(const float *v, uint32_t n) {
  float sums[8] = {0};
  for (uint32_t i = 0; i < n; i++) sums[i % 8] += v[i] * v[i];
  return add_8_parts(sums);
}

static void silu_multiply(float *gate, const float *up, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + mb_exp(-gate[i])) * up[i];
}

static void gelu_multiply(float *gate, const float *up, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    const float x = gate[i], u = x * (MB_GELU_CUBIC * (x * x) + MB_GELU_LINEAR);
    gate[i] = x / (1.0f + mb_exp(-u)) * up[i];
  }
}

static float softmax_terms(float *scores, uint32_t n) {
  if (n == 0) return 0;
  float maximum = scores[0], sums[8] = {0};
  for (uint32_t i = 1; i < n; i++) maximum = scores[i] > maximum ? scores[i] : maximum;
  for (uint32_t i = 0; i < n; i++) {
    scores[i] = mb_exp(scores[i] - maximum);
    sums[i % 8] += scores[i];
  }
  return add_8_parts(sums);
}

const mb_kernels mb_scalar_kernels = MB_KERNEL_TABLE("scalar", multiply);
