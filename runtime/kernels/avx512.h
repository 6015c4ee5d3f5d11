/* What AVX-512 with VNNI does better than AVX2: attention and decoding signs. The other entries of its tables are
 * avx2.c's, which puts the tables together. */
#ifndef MB_KERNELS_AVX512_H
#define MB_KERNELS_AVX512_H

#include "kernels/kernels.h"

void mb_avx512_multiply_signs(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                              uint32_t row_end);
void mb_avx512_multiply_signs_ahead(const mb_matrix *w, const mb_activations *x, float *y, uint32_t row_begin,
                                    uint32_t row_end);
void mb_avx512_scores_int8(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride);
void mb_avx512_scores_int4(const mb_queries *queries, const mb_kv_groups *keys, float *scores, size_t scores_stride);
void mb_avx512_mix_int8(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                        float *out);
void mb_avx512_mix_int4(const mb_terms *terms, const mb_kv_groups *values, uint32_t first_block, uint32_t last_block,
                        float *out);
void mb_avx512_turn(float *v, uint32_t blocks);
float mb_avx512_softmax_terms(float *scores, uint32_t n);

#endif
