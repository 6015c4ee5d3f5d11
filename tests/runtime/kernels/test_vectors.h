/* Part of test_kernels.c: attention and the vector functions. */
#ifndef MB_TEST_VECTORS_H
#define MB_TEST_VECTORS_H

#include <math.h>

#include "base/half.h"
#include "kernels/exponential.h"
#include "kernels/kernels.h"
#include "support.h"

/* ---- attention over 8 and 16 bits ---- */

typedef struct {
  uint32_t heads, stride, positions;
  guarded queries, query_scales, queries_f32, cache, cache_scales, cache_f16, weights;
} attention;

static attention attention_new(uint32_t heads, uint32_t stride, uint32_t positions) {
  attention a = {.heads = heads, .stride = stride, .positions = positions};
  size_t q = (size_t)heads * stride, c = (size_t)positions * stride, blocks = stride / MB_KV_BLOCK;
  a.queries = guarded_new(q);
  a.query_scales = guarded_new(heads * blocks * 4);
  a.queries_f32 = guarded_new(q * 4);
  a.cache = guarded_new(c);
  a.cache_scales = guarded_new(positions * blocks * 2);
  a.cache_f16 = guarded_new(c * 2);
  a.weights = guarded_new((size_t)heads * positions * 4);
  for (size_t i = 0; i < q; i++) {
    ((int8_t *)a.queries.at)[i] = (int8_t)(i < stride ? (i % 3 == 0 ? -127 : 127) : (int)random_below(255) - 127);
    ((float *)a.queries_f32.at)[i] = random_unit() * 3;
  }
  for (size_t i = 0; i < c; i++) {
    ((int8_t *)a.cache.at)[i] = (int8_t)(i < stride ? (i % 3 == 0 ? -127 : 127) : (int)random_below(255) - 127);
    ((uint16_t *)a.cache_f16.at)[i] = mb_f32_to_f16(i % 50 == 7 ? random_unit() * 0x1p-14f : random_unit() * 2);
  }
  for (size_t i = 0; i < heads * blocks; i++) ((float *)a.query_scales.at)[i] = (1.5f + random_unit()) / 127;
  for (size_t i = 0; i < positions * blocks; i++)
    ((uint16_t *)a.cache_scales.at)[i] = mb_f32_to_f16((1.5f + random_unit()) / 127 * (i % 9 == 3 ? 0x1p-10f : 1));
  for (size_t i = 0; i < (size_t)heads * positions; i++) ((float *)a.weights.at)[i] = 0.5f + 0.5f * random_unit();
  return a;
}

static void attention_free(attention *a) {
  guarded_free(&a->queries);
  guarded_free(&a->query_scales);
  guarded_free(&a->queries_f32);
  guarded_free(&a->cache);
  guarded_free(&a->cache_scales);
  guarded_free(&a->cache_f16);
  guarded_free(&a->weights);
}

/* All four functions: 0, 1 scores; 2, 3 mixes. */
static void attend(const mb_kernels *k, const attention *a, int function, float *out, size_t scores_stride) {
  const mb_queries queries = {
      .codes = a->queries.at, .scales = a->query_scales.at, .values = a->queries_f32.at, .rows = a->heads};
  const uint32_t blocks = a->stride / MB_KV_BLOCK, middle = blocks / 2; /* mixes: in two ranges of blocks */
  const mb_kv_head int8 = {a->cache.at, a->cache_scales.at, a->stride, a->positions};
  const mb_kv_head f16 = {a->cache_f16.at, NULL, a->stride, a->positions};
  switch (function) {
    case 0:
      k->scores_int8(&queries, &int8, out, scores_stride);
      break;
    case 1:
      k->scores_f16(&queries, &f16, out, scores_stride);
      break;
    case 2:
      k->mix_int8(a->weights.at, a->positions, a->heads, &int8, middle, blocks, out);
      k->mix_int8(a->weights.at, a->positions, a->heads, &int8, 0, middle, out);
      break;
    default:
      k->mix_f16(a->weights.at, a->positions, a->heads, &f16, middle, blocks, out);
      k->mix_f16(a->weights.at, a->positions, a->heads, &f16, 0, middle, out);
  }
}

static double cached(const attention *a, int function, uint32_t p, uint32_t d) {
  size_t i = (size_t)p * a->stride + d;
  if (function % 2 == 1) return mb_f16_to_f32(((const uint16_t *)a->cache_f16.at)[i]);
  return ((const int8_t *)a->cache.at)[i] *
         (double)mb_f16_to_f32(((const uint16_t *)a->cache_scales.at)[i / MB_KV_BLOCK]);
}

static double queried(const attention *a, int function, uint32_t h, uint32_t d) {
  size_t i = (size_t)h * a->stride + d;
  if (function == 1) return ((const float *)a->queries_f32.at)[i];
  return ((const int8_t *)a->queries.at)[i] * (double)((const float *)a->query_scales.at)[i / MB_KV_BLOCK];
}

static void check_attention(const attention *a, int function, const float *out, size_t scores_stride) {
  for (uint32_t h = 0; h < a->heads; h++)
    for (uint32_t i = 0; i < (function < 2 ? a->positions : a->stride); i++) {
      double sum = function < 2 ? 0 : 1, size = 1;
      for (uint32_t j = 0; j < (function < 2 ? a->stride : a->positions); j++) {
        double product = function < 2
                             ? queried(a, function, h, j) * cached(a, function, i, j)
                             : ((const float *)a->weights.at)[(size_t)h * a->positions + j] * cached(a, function, j, i);
        sum += product;
        size += fabs(product);
      }
      float got = out[h * (function < 2 ? scores_stride : a->stride) + i];
      check(fabs(got - sum) <= 1e-5 * size, "scalar attention %d: head %u, %u: %g for %g", function, h, i, got, sum);
    }
}

static void test_attention(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint32_t positions[] = {0, 1, 2, 7, 8, 9, 31, 64, 65, 129, 600};
  for (uint32_t heads = 1; heads <= 7; heads++)
    for (uint32_t stride = 32; stride <= 128; stride += 32)
      for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
        if (positions[p] > 129 && heads % 3 != 0 && stride != 96) continue;
        attention a = attention_new(heads, stride, positions[p]);
        size_t scores_stride = positions[p] + 5;
        for (int function = 0; function < 4; function++) {
          size_t n = function < 2 ? (heads - 1) * scores_stride + positions[p] : heads * stride;
          guarded expected = guarded_new(n * 4), got = guarded_new(n * 4);
          float *values = expected.at;
          for (size_t i = 0; i < n; i++) values[i] = 1;
          attend(scalar, &a, function, expected.at, scores_stride);
          if (positions[p] < 100) check_attention(&a, function, expected.at, scores_stride);
          for (int t = 0; tables[t] != NULL; t++) {
            values = got.at;
            for (size_t i = 0; i < n; i++) values[i] = 1;
            attend(tables[t], &a, function, got.at, scores_stride);
            check(memcmp(got.at, expected.at, n * 4) == 0, "%s attention %d: heads %u stride %u positions %u",
                  tables[t]->name, function, heads, stride, positions[p]);
          }
          guarded_free(&expected);
          guarded_free(&got);
        }
        attention_free(&a);
      }
}

/* ---- attention over groups of positions: keys of 4 and of 8 bits, values of 4 ---- */

enum { SCORES_4, SCORES_8, MIX_4, GROUPED_FUNCTIONS };
static const char *const grouped_functions[] = {"scores_int4", "scores_key8", "mix_int4"};

/* Keys, or values, and what meets them: queries and weights. Positions are whole groups; unseen ones have the weight 0.
 */
typedef struct {
  uint32_t rows, blocks, positions;
  guarded queries, query_scales, query_sums, codes, key8, scales, weights;
} attention_4;

static attention_4 attention_4_new(uint32_t rows, uint32_t blocks, uint32_t positions) {
  attention_4 a = {.rows = rows, .blocks = blocks, .positions = positions};
  const size_t q = (size_t)rows * blocks * MB_KV_BLOCK, c = (size_t)positions * blocks * MB_KV_BLOCK;
  a.queries = guarded_new(q);
  a.query_scales = guarded_new((size_t)rows * blocks * 4);
  a.query_sums = guarded_new((size_t)rows * blocks * 4);
  a.codes = guarded_new(c / 2);
  a.key8 = guarded_new(c);
  a.scales = guarded_new((size_t)positions * blocks * 2);
  a.weights = guarded_new((size_t)rows * positions * 4);
  for (size_t i = 0; i < q; i++) /* the first row and the first group: long runs of the largest codes */
    ((int8_t *)a.queries.at)[i] = (int8_t)(i < blocks * MB_KV_BLOCK ? (i % 3 == 0 ? -127 : 127) : random_kv_code());
  for (size_t i = 0; i < q; i++) ((int32_t *)a.query_sums.at)[i / MB_KV_BLOCK] += ((const int8_t *)a.queries.at)[i];
  for (size_t i = 0; i < c / 2; i++)
    ((uint8_t *)a.codes.at)[i] =
        (uint8_t)(i < blocks * MB_INT4_BLOCK_BYTES * 2 ? (i % 7 == 0 ? 0xff : 0) : random_below(256));
  for (size_t i = 0; i < c; i++)
    ((int8_t *)a.key8.at)[i] =
        (int8_t)(i < blocks * MB_KEY8_BLOCK_BYTES ? (i % 3 == 0 ? -127 : 127) : random_kv_code());
  for (size_t i = 0; i < rows * blocks; i++) ((float *)a.query_scales.at)[i] = (1.5f + random_unit()) / 127;
  for (size_t i = 0; i < positions * blocks; i++)
    ((uint16_t *)a.scales.at)[i] = mb_f32_to_f16((1.5f + random_unit()) / 127 *
                                                 (i % 9 == 3   ? 0x1p-10f
                                                  : i % 5 == 2 ? -1
                                                               : 1));
  for (size_t i = 0; i < (size_t)rows * positions; i++) {
    const float weight = 0.5f + 0.5f * random_unit();
    ((float *)a.weights.at)[i] = i < positions ? 1 : i % 5 == 0 ? 0 : i % 4 == 0 ? weight * 0x1p-40f : weight;
  }
  return a;
}

static void attention_4_free(attention_4 *a) {
  guarded_free(&a->queries);
  guarded_free(&a->query_scales);
  guarded_free(&a->query_sums);
  guarded_free(&a->codes);
  guarded_free(&a->key8);
  guarded_free(&a->scales);
  guarded_free(&a->weights);
}

static mb_kv_groups part_of(const attention_4 *a, int function) {
  return (mb_kv_groups){function == SCORES_8 ? a->key8.at : a->codes.at, a->scales.at, a->blocks, a->positions};
}

static void attend_4(const mb_kernels *k, const attention_4 *a, int function, float *out, size_t stride) {
  const mb_kv_groups part = part_of(a, function);
  const mb_queries queries = {
      .codes = a->queries.at, .scales = a->query_scales.at, .sums = a->query_sums.at, .rows = a->rows};
  const uint32_t middle = a->blocks / 2; /* mixes: in two ranges of blocks */
  if (function == MIX_4) {
    k->mix_int4(a->weights.at, a->positions, a->rows, &part, middle, a->blocks, out);
    k->mix_int4(a->weights.at, a->positions, a->rows, &part, 0, middle, out);
  } else {
    (function == SCORES_4 ? k->scores_int4 : k->scores_key8)(&queries, &part, out, stride);
  }
}

/* A key or value as the scalar kernel sees it: dimension d of position p. */
static double code_of(const attention_4 *a, int function, uint32_t p, uint32_t d) {
  const uint32_t b = d / MB_KV_BLOCK, in = d % MB_KV_BLOCK;
  const size_t block = mb_int4_block_at(a->blocks, p, b);
  const uint8_t *half = (const uint8_t *)a->codes.at + block * MB_INT4_BLOCK_BYTES;
  const int8_t *whole = (const int8_t *)a->key8.at + block * MB_KEY8_BLOCK_BYTES;
  const int32_t code = function == SCORES_8 ? whole[mb_key8_byte(p, in)]
                       : function == MIX_4  ? mb_int4_code(half, mb_int4_value(p, in))
                                            : mb_int4_code(half, mb_int4_key(p, in));
  return code * (double)mb_f16_to_f32(((const uint16_t *)a->scales.at)[mb_int4_scale_at(a->blocks, p, b)]);
}

static double weight_of(const attention_4 *a, uint32_t r, uint32_t p, uint32_t block) {
  return ((const float *)a->weights.at)[(size_t)r * a->positions + p] *
         (double)mb_f16_to_f32(((const uint16_t *)a->scales.at)[mb_int4_scale_at(a->blocks, p, block)]);
}

static void check_attention_4(const attention_4 *a, int function, const float *out, size_t stride) {
  const bool mixes = function == MIX_4;
  const uint32_t dims = a->blocks * MB_KV_BLOCK;
  for (uint32_t r = 0; r < a->rows; r++)
    for (uint32_t i = 0; i < (mixes ? dims : a->positions); i++) {
      double sum = mixes, size = 1, most = 0; /* most: the largest weight, of which a code is 1 / 32767 */
      for (uint32_t j = 0; j < (mixes ? a->positions : dims); j++) {
        const size_t q = (size_t)r * dims + j;
        const double product =
            mixes ? ((const float *)a->weights.at)[(size_t)r * a->positions + j] * code_of(a, function, j, i)
                  : ((const int8_t *)a->queries.at)[q] * (double)((const float *)a->query_scales.at)[q / MB_KV_BLOCK] *
                        code_of(a, function, i, j);
        sum += product;
        size += fabs(product);
        if (mixes) most = fmax(most, fabs(weight_of(a, r, j, i / MB_KV_BLOCK)));
      }
      const float got = out[r * stride + i];
      check(fabs(got - sum) <= 1e-6 * size + most / 32767 / 2 * 8 * a->positions, "scalar %s: row %u, %u: %g for %g",
            grouped_functions[function], r, i, got, sum);
    }
}

/* A scale that is not a number, or infinite, at a position: what sees it is not finite, and what does not see it stays
 * as it was. */
static void test_broken_scale(const mb_kernels *k, const attention_4 *a, const guarded all[GROUPED_FUNCTIONS],
                              size_t scores_stride) {
  static const uint16_t broken[] = {0x7e00, 0xfe00, 0x7c00};
  const uint32_t dims = a->blocks * MB_KV_BLOCK, at = random_below(a->positions);
  const float *weights = a->weights.at, *mixed = all[MIX_4].at;
  guarded got = guarded_new((size_t)a->rows * (dims > a->positions + 5 ? dims : a->positions + 5) * 4);
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    uint16_t *scale = (uint16_t *)a->scales.at + mb_int4_scale_at(a->blocks, at, a->blocks - 1), kept = *scale;
    float *out = got.at;
    bool ok = true;
    *scale = broken[i];
    for (int function = SCORES_4; function <= SCORES_8; function++) {
      const float *scored = all[function].at;
      attend_4(k, a, function, out, scores_stride);
      for (uint32_t r = 0; r < a->rows; r++)
        for (uint32_t p = 0; p < a->positions; p++)
          ok = ok && (p == at ? !isfinite(out[r * scores_stride + p])
                              : out[r * scores_stride + p] == scored[r * scores_stride + p]);
    }
    for (size_t j = 0; j < (size_t)a->rows * dims; j++) out[j] = 1;
    attend_4(k, a, MIX_4, out, dims);
    for (uint32_t r = 0; r < a->rows; r++)
      for (uint32_t d = 0; d < dims; d++)
        ok = ok && (d / MB_KV_BLOCK + 1 == a->blocks && weights[(size_t)r * a->positions + at] != 0
                        ? !isfinite(out[(size_t)r * dims + d])
                        : out[(size_t)r * dims + d] == mixed[(size_t)r * dims + d]);
    check(ok, "%s grouped attention to a broken scale: rows %u blocks %u positions %u", k->name, a->rows, a->blocks,
          a->positions);
    *scale = kept;
  }
  guarded_free(&got);
}

static void test_attention_4(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint32_t positions[] = {16, 48, 64, 80, 144, 608};
  static const uint32_t rows[] = {1, 2, 3, 4, 5, 6, 7, 15, 33};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (uint32_t blocks = 1; blocks <= 4; blocks++)
      for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
        if (positions[p] > 144 && rows[i] % 3 != 0 && blocks != 3) continue;
        attention_4 a = attention_4_new(rows[i], blocks, positions[p]);
        guarded all[GROUPED_FUNCTIONS];
        for (int function = 0; function < GROUPED_FUNCTIONS; function++) {
          const bool mixes = function == MIX_4;
          const size_t stride = mixes ? blocks * MB_KV_BLOCK : positions[p] + 5;
          const size_t n = (rows[i] - 1) * stride + (mixes ? stride : positions[p]);
          guarded got = guarded_new(n * 4);
          all[function] = guarded_new(n * 4);
          float *values = all[function].at;
          for (size_t j = 0; j < n; j++) values[j] = 1;
          attend_4(scalar, &a, function, values, stride);
          if (positions[p] < 100) check_attention_4(&a, function, values, stride);
          for (int t = 0; tables[t] != NULL; t++) {
            values = got.at;
            for (size_t j = 0; j < n; j++) values[j] = 1;
            attend_4(tables[t], &a, function, values, stride);
            check(memcmp(got.at, all[function].at, n * 4) == 0, "%s %s: rows %u blocks %u positions %u",
                  tables[t]->name, grouped_functions[function], rows[i], blocks, positions[p]);
          }
          guarded_free(&got);
        }
        for (int t = 0; tables[t] != NULL && positions[p] < 100; t++)
          test_broken_scale(tables[t], &a, all, positions[p] + 5);
        for (int function = 0; function < GROUPED_FUNCTIONS; function++) guarded_free(&all[function]);
        attention_4_free(&a);
      }
}

/* ---- vector functions ---- */

static float random_argument(uint32_t n) {
  static const float special[] = {0.0f,    -0.0f,  1.0f,    -1.0f, 87.0f,  -87.0f, 88.0f,  -88.0f,    88.73f,
                                  -87.34f, 100.0f, -100.0f, 1e30f, -1e30f, 3e38f,  -3e38f, 0x1p-126f, -0x1p-126f};
  if (n % 5 == 1) return special[random_below(sizeof special / sizeof *special)];
  return random_unit() * (n % 2 == 0 ? 90.0f : 5.0f);
}

static void check_softmax(const float *in, const float *out, uint32_t n, float sum) {
  float maximum = in[0];
  double total = 0;
  for (uint32_t i = 0; i < n; i++) maximum = in[i] > maximum ? in[i] : maximum;
  for (uint32_t i = 0; i < n; i++) {
    double argument = (double)(in[i] - maximum), e = exp(argument < -87 ? -87 : argument);
    total += e;
    check(fabs(out[i] - e) <= 2e-6 * e, "scalar exp(%g) = %g", argument, out[i]);
  }
  check(fabs(sum - total) <= 1e-5 * total, "scalar softmax sum of %u: %g for %g", n, sum, total);
}

static void check_silu(const float *gate, const float *up, const float *out, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    double x = -(double)gate[i], e = exp(x < -87 ? -87 : x > 88 ? 88 : x), y = gate[i] / (1 + e) * up[i];
    check(fabs(out[i] - y) <= 3e-6 * fabs(y) || (isinf(out[i]) && fabs(y) > 3.4e38), "scalar silu(%g) * %g = %g",
          gate[i], up[i], out[i]);
  }
}

static void check_gelu(const float *gate, const float *up, const float *out, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) {
    /* in float as the kernels have it: an error of u is one of exp(-u), times u */
    const float x = gate[i], u = x * (MB_GELU_CUBIC * (x * x) + MB_GELU_LINEAR);
    double e = exp(u > 87 ? -87 : u < -88 ? 88 : -(double)u), y = x / (1 + e) * up[i];
    check(fabs(out[i] - y) <= 3e-6 * fabs(y) + 1e-38 || (isinf(out[i]) && fabs(y) > 3.4e38),
          "scalar gelu(%g) * %g = %g", x, up[i], out[i]);
    if (fabsf(x) > 8) continue;
    const double exact = 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * (double)x * x)));
    check(fabs(x / (1 + e) - exact) <= 2e-6 * fabs(exact) + 1e-6, "gelu(%g) is %g, not %g", x, x / (1 + e), exact);
  }
}

static void test_functions(const mb_kernels *scalar, const mb_kernels *const *tables) {
  for (uint32_t round = 0; round < 80; round++) {
    uint32_t n = round < 40 ? round : round < 79 ? random_below(700) : 8960;
    guarded in = guarded_new(n * 4), up = guarded_new(n * 4), a = guarded_new(n * 4), b = guarded_new(n * 4);
    float *values = in.at, *ups = up.at;
    for (uint32_t i = 0; i < n; i++) {
      values[i] = random_unit() * 50;
      ups[i] = random_unit() * 2;
    }
    float squares = scalar->sum_squares(in.at, n);
    double exact = 0;
    for (uint32_t i = 0; i < n; i++) exact += (double)values[i] * values[i];
    check(fabs(squares - exact) <= 1e-5 * exact, "scalar sum of %u squares", n);
    for (int t = 0; tables[t] != NULL; t++) {
      float got = tables[t]->sum_squares(in.at, n);
      check(memcmp(&got, &squares, 4) == 0, "%s sum_squares of %u", tables[t]->name, n);
    }

    for (uint32_t i = 0; i < n && round % 2 == 0; i++) values[i] = random_argument(i);
    memcpy(a.at, in.at, n * 4);
    scalar->silu_multiply(a.at, up.at, n);
    check_silu(in.at, up.at, a.at, n);
    for (int t = 0; tables[t] != NULL; t++) {
      memcpy(b.at, in.at, n * 4);
      tables[t]->silu_multiply(b.at, up.at, n);
      check(memcmp(a.at, b.at, n * 4) == 0, "%s silu_multiply of %u", tables[t]->name, n);
    }

    memcpy(a.at, in.at, n * 4);
    scalar->gelu_multiply(a.at, up.at, n);
    check_gelu(in.at, up.at, a.at, n);
    for (int t = 0; tables[t] != NULL; t++) {
      memcpy(b.at, in.at, n * 4);
      tables[t]->gelu_multiply(b.at, up.at, n);
      check(memcmp(a.at, b.at, n * 4) == 0, "%s gelu_multiply of %u", tables[t]->name, n);
    }

    memcpy(a.at, in.at, n * 4);
    float sum = scalar->softmax_terms(a.at, n);
    if (n > 0) check_softmax(in.at, a.at, n, sum);
    for (int t = 0; tables[t] != NULL; t++) {
      memcpy(b.at, in.at, n * 4);
      float got = tables[t]->softmax_terms(b.at, n);
      check(memcmp(a.at, b.at, n * 4) == 0 && memcmp(&got, &sum, 4) == 0, "%s softmax_terms of %u", tables[t]->name, n);
    }
    guarded_free(&in);
    guarded_free(&up);
    guarded_free(&a);
    guarded_free(&b);
  }
}

#endif
