/* The AVX2 table. Compiled with -mavx2 -mf16c and nothing more: no FMA, and select.c runs it only where both exist. */
#include "kernels/avx2_attention-impl.h"
#include "kernels/avx2_common.h"
#include "kernels/avx2_dense-impl.h"
#include "kernels/avx2_functions-impl.h"
#include "kernels/avx2_groups-impl.h"
#include "kernels/avx2_matmul-impl.h"
#include "kernels/avx2_matvec-impl.h"
#include "kernels/avx2_sparse-impl.h"
#include "kernels/avx2_vector-impl.h"
#include "kernels/avx512.h"
#include "kernels/coarsen-impl.h"
#include "kernels/kv_codes-impl.h"
#include "kernels/tables.h"

static void multiply_strips(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                            uint32_t row_end) {
  if (x->count == 1)
    multiply_vector(w, x, y, row_begin, mb_last_row(w, row_end));
  else
    multiply_panel(w, x, y, y_stride, row_begin, row_end);
}

#include "kernels/multiply-impl.h"

static void multiply_ahead(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                           uint32_t row_end) {
  if (mb_format_bits(w->format) != 0 && x->count == 1) /* the strip formats alone are streamed that fast */
    multiply_vector_ahead(w, x, y, row_begin, mb_last_row(w, row_end));
  else
    multiply(w, x, y, y_stride, row_begin, row_end);
}

const mb_kernels mb_avx2_kernels = MB_KERNEL_TABLE("avx2", multiply);
const mb_kernels mb_avx2_ahead_kernels = MB_KERNEL_TABLE("avx2", multiply_ahead);

static void multiply_512(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride, uint32_t row_begin,
                         uint32_t row_end) {
  if (w->format == MB_FORMAT_SIGN1 && x->count == 1)
    mb_avx512_multiply_signs(w, x, y, row_begin, mb_last_row(w, row_end));
  else
    multiply(w, x, y, y_stride, row_begin, row_end);
}

static void multiply_512_ahead(const mb_matrix *w, const mb_activations *x, float *y, size_t y_stride,
                               uint32_t row_begin, uint32_t row_end) {
  if (w->format == MB_FORMAT_SIGN1 && x->count == 1)
    mb_avx512_multiply_signs_ahead(w, x, y, row_begin, mb_last_row(w, row_end));
  else
    multiply_ahead(w, x, y, y_stride, row_begin, row_end);
}

/* The same with signs and attention by AVX-512. */
#define AVX512_TABLE(multiply_function)         \
  {                                             \
      .name = "avx512",                         \
      .quantise = quantise,                     \
      .multiply = multiply_function,            \
      .scores_int8 = mb_avx512_scores_int8,     \
      .scores_int4 = mb_avx512_scores_int4,     \
      .mix_int8 = mb_avx512_mix_int8,           \
      .mix_int4 = mb_avx512_mix_int4,           \
      .kv_codes_8 = kv_codes_8,                 \
      .kv_codes_4 = kv_codes_4,                 \
      .turn = mb_avx512_turn,                   \
      .coarsen = coarsen,                       \
      .scores_f16 = scores_f16,                 \
      .mix_f16 = mix_f16,                       \
      .sum_squares = sum_squares,               \
      .silu_multiply = silu_multiply,           \
      .gelu_multiply = gelu_multiply,           \
      .softmax_terms = mb_avx512_softmax_terms, \
  }

const mb_kernels mb_avx512_kernels = AVX512_TABLE(multiply_512);
const mb_kernels mb_avx512_ahead_kernels = AVX512_TABLE(multiply_512_ahead);
