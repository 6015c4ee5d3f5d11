/* Part of test_kernels.c: attention and the vector functions. */
#ifndef MB_TEST_VECTORS_H
#define MB_TEST_VECTORS_H

#include <math.h>

#include "base/half.h"
#include "kernels/exponential.h"
#include "kernels/kernels.h"
#include "support.h"

/* ---- attention over fp16 ---- */

typedef struct {
  uint32_t heads, stride, positions;
  guarded queries, cache, terms;
} attention;

static attention attention_new(uint32_t heads, uint32_t stride, uint32_t positions) {
  attention a = {.heads = heads, .stride = stride, .positions = positions};
  const size_t q = (size_t)heads * stride, c = (size_t)positions * stride, n = (size_t)heads * positions;
  a.queries = guarded_new(q * 4);
  a.cache = guarded_new(c * 2);
  a.terms = guarded_new(n * 4);
  for (size_t i = 0; i < q; i++) ((float *)a.queries.at)[i] = random_unit() * 3;
  for (size_t i = 0; i < c; i++)
    ((uint16_t *)a.cache.at)[i] = mb_f32_to_f16(i % 50 == 7 ? random_unit() * 0x1p-14f : random_unit() * 2);
  for (size_t i = 0; i < n; i++) ((float *)a.terms.at)[i] = 0.5f + 0.5f * random_unit();
  return a;
}

static void attention_free(attention *a) {
  guarded_free(&a->queries);
  guarded_free(&a->cache);
  guarded_free(&a->terms);
}

static void attend(const mb_kernels *k, const attention *a, bool mixes, float *out, size_t scores_stride) {
  const mb_queries queries = {.values = a->queries.at, .rows = a->heads};
  const mb_terms terms = {.terms = a->terms.at, .stride = a->positions, .rows = a->heads};
  const uint32_t blocks = a->stride / MB_KV_BLOCK, middle = blocks / 2; /* mixes: in two ranges of blocks */
  const mb_kv_head f16 = {a->cache.at, a->stride, a->positions};
  if (mixes) {
    k->mix_f16(&terms, &f16, middle, blocks, out);
    k->mix_f16(&terms, &f16, 0, middle, out);
  } else {
    k->scores_f16(&queries, &f16, out, scores_stride);
  }
}

static void check_attention(const attention *a, bool mixes, const float *out, size_t scores_stride) {
  const uint16_t *cache = a->cache.at;
  for (uint32_t h = 0; h < a->heads; h++)
    for (uint32_t i = 0; i < (mixes ? a->stride : a->positions); i++) {
      double sum = mixes, size = 1;
      for (uint32_t j = 0; j < (mixes ? a->positions : a->stride); j++) {
        const float met = mixes ? ((const float *)a->terms.at)[(size_t)h * a->positions + j]
                                : ((const float *)a->queries.at)[(size_t)h * a->stride + j];
        const double product =
            (double)met * mb_f16_to_f32(cache[mixes ? (size_t)j * a->stride + i : (size_t)i * a->stride + j]);
        sum += product;
        size += fabs(product);
      }
      const float got = out[h * (mixes ? a->stride : scores_stride) + i];
      check(fabs(got - sum) <= 1e-5 * size, "scalar fp16 %s: head %u, %u: %g for %g", mixes ? "mix" : "scores", h, i,
            got, sum);
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
        for (int mixes = 0; mixes < 2; mixes++) {
          size_t n = mixes ? heads * stride : (heads - 1) * scores_stride + positions[p];
          guarded expected = guarded_new(n * 4), got = guarded_new(n * 4);
          float *values = expected.at;
          for (size_t i = 0; i < n; i++) values[i] = 1;
          attend(scalar, &a, mixes, expected.at, scores_stride);
          if (positions[p] < 100) check_attention(&a, mixes, expected.at, scores_stride);
          for (int t = 0; tables[t] != NULL; t++) {
            values = got.at;
            for (size_t i = 0; i < n; i++) values[i] = 1;
            attend(tables[t], &a, mixes, got.at, scores_stride);
            check(memcmp(got.at, expected.at, n * 4) == 0, "%s fp16 %s: heads %u stride %u positions %u",
                  tables[t]->name, mixes ? "mix" : "scores", heads, stride, positions[p]);
          }
          guarded_free(&expected);
          guarded_free(&got);
        }
        attention_free(&a);
      }
}

/* ---- attention over integers: keys and values of 8 and of 4 bits ---- */

enum { SCORES_8, SCORES_4, MIX_8, MIX_4, GROUPED_FUNCTIONS };
static const char *const grouped_functions[] = {"scores_int8", "scores_int4", "mix_int8", "mix_int4"};

static bool is_mix(int function) { return function == MIX_8 || function == MIX_4; }
static bool is_int4(int function) { return function == SCORES_4 || function == MIX_4; }

/* Keys, or values, and what meets them: queries and terms. Positions are whole groups; unseen ones have the term 0. */
typedef struct {
  uint32_t rows, blocks, positions;
  guarded queries, query_scales, query_sums, int4, int8, terms, term_sums;
  guarded scales[2]; /* of 8 bits and of 4, which may be negative */
} attention_groups;

static attention_groups attention_groups_new(uint32_t rows, uint32_t blocks, uint32_t positions) {
  attention_groups a = {.rows = rows, .blocks = blocks, .positions = positions};
  const size_t q = (size_t)rows * blocks * MB_KV_BLOCK, c = (size_t)positions * blocks * MB_KV_BLOCK;
  a.queries = guarded_new(q);
  a.query_scales = guarded_new((size_t)rows * blocks * 4);
  a.query_sums = guarded_new((size_t)rows * blocks * 4);
  a.int4 = guarded_new(c / 2);
  a.int8 = guarded_new(c);
  for (int i = 0; i < 2; i++) a.scales[i] = guarded_new((size_t)positions * blocks * 2);
  a.terms = guarded_new((size_t)rows * positions * 4);
  a.term_sums = guarded_new((size_t)rows * 4);
  for (size_t i = 0; i < q; i++) /* the first row and the first tile: long runs of the largest codes */
    ((int8_t *)a.queries.at)[i] = (int8_t)(i < blocks * MB_KV_BLOCK ? (i % 3 == 0 ? -127 : 127) : random_kv_code());
  for (size_t i = 0; i < q; i++) ((int32_t *)a.query_sums.at)[i / MB_KV_BLOCK] += ((const int8_t *)a.queries.at)[i];
  for (size_t i = 0; i < c / 2; i++)
    ((uint8_t *)a.int4.at)[i] =
        (uint8_t)(i < (size_t)MB_KV_TILE * blocks * MB_KV_BLOCK / 2 ? (i % 7 == 0 ? 0xff : 0) : random_below(256));
  for (size_t i = 0; i < c; i++)
    ((int8_t *)a.int8.at)[i] =
        (int8_t)(i < (size_t)MB_KV_TILE * blocks * MB_KV_BLOCK ? (i % 64 < 32 ? -127 : 127) : random_kv_code());
  for (size_t i = 0; i < rows * blocks; i++) ((float *)a.query_scales.at)[i] = (1.5f + random_unit()) / 127;
  for (size_t i = 0; i < positions * blocks; i++) {
    const float scale = (1.5f + random_unit()) / 127 * (i % 9 == 3 ? 0x1p-10f : 1);
    ((uint16_t *)a.scales[0].at)[i] = mb_f32_to_f16(scale);
    ((uint16_t *)a.scales[1].at)[i] = mb_f32_to_f16(i % 5 == 2 ? -scale : scale);
  }
  for (uint32_t r = 0; r < rows; r++)
    for (uint32_t p = 0; p < positions; p++) { /* every fourth tile has no large term */
      const float term = (0.5f + 0.5f * random_unit()) * ((r + p / MB_KV_TILE) % 4 == 1 ? 0x1p-12f : 1);
      ((float *)a.terms.at)[(size_t)r * positions + p] = r == 0       ? 1
                                                         : p % 5 == 0 ? 0
                                                         : p % 4 == 0 ? term * 0x1p-40f
                                                                      : term;
    }
  for (uint32_t r = 0; r < rows; r++) ((float *)a.term_sums.at)[r] = r % 3 == 2 ? 500.0f : 2.0f;
  return a;
}

static void attention_groups_free(attention_groups *a) {
  guarded_free(&a->queries);
  guarded_free(&a->query_scales);
  guarded_free(&a->query_sums);
  guarded_free(&a->int4);
  guarded_free(&a->int8);
  for (int i = 0; i < 2; i++) guarded_free(&a->scales[i]);
  guarded_free(&a->terms);
  guarded_free(&a->term_sums);
}

static void attend_groups(const mb_kernels *k, const attention_groups *a, int function, float *out, size_t stride) {
  const mb_kv_groups part = {is_int4(function) ? a->int4.at : a->int8.at, a->scales[is_int4(function)].at, a->blocks,
                             a->positions};
  const mb_queries queries = {
      .codes = a->queries.at, .scales = a->query_scales.at, .sums = a->query_sums.at, .rows = a->rows};
  const mb_terms terms = {a->terms.at, a->positions, a->term_sums.at, a->rows};
  const uint32_t middle = a->blocks / 2; /* mixes: in two ranges of blocks */
  if (is_mix(function)) {
    (is_int4(function) ? k->mix_int4 : k->mix_int8)(&terms, &part, middle, a->blocks, out);
    (is_int4(function) ? k->mix_int4 : k->mix_int8)(&terms, &part, 0, middle, out);
  } else {
    (is_int4(function) ? k->scores_int4 : k->scores_int8)(&queries, &part, out, stride);
  }
}

/* A key or value by its documented place (kv_layout.h): dimension d of position p. */
static double code_of(const attention_groups *a, int function, uint32_t p, uint32_t d) {
  const uint32_t b = d / MB_KV_BLOCK, in = d % MB_KV_BLOCK;
  const size_t block = mb_kv_block_at(a->blocks, p, b);
  const bool int4 = is_int4(function);
  const uint8_t *codes = (const uint8_t *)(int4 ? a->int4.at : a->int8.at) + block * mb_kv_block_bytes(int4);
  const mb_kv_place place = is_mix(function) ? mb_kv_value(int4, p, in) : mb_kv_key(int4, p, in);
  return mb_kv_code(int4, codes, place) *
         (double)mb_f16_to_f32(((const uint16_t *)a->scales[int4].at)[mb_kv_scale_at(a->blocks, p, b)]);
}

/* The most that rounding the weights of one tile changes: half a step of each, times the largest code. */
static double rounding_of(const attention_groups *a, int function, uint32_t r, uint32_t first, uint32_t block) {
  double most = 0;
  bool large = false;
  for (uint32_t p = first; p < a->positions && p < first + MB_KV_TILE; p++) {
    const float term = ((const float *)a->terms.at)[(size_t)r * a->positions + p];
    large = large || term > ((const float *)a->term_sums.at)[r] / 128;
    most = fmax(
        most,
        fabs(term * (double)mb_f16_to_f32(((const uint16_t *)a->scales[0].at)[mb_kv_scale_at(a->blocks, p, block)])));
  }
  return most / (large ? 127 * 128 : 127) / 2 * MB_KV_TILE * (is_int4(function) ? 8 : 127);
}

static void check_attention_groups(const attention_groups *a, int function, const float *out, size_t stride) {
  const bool mixes = is_mix(function);
  const uint32_t dims = a->blocks * MB_KV_BLOCK;
  for (uint32_t r = 0; r < a->rows; r++)
    for (uint32_t i = 0; i < (mixes ? dims : a->positions); i++) {
      double sum = mixes, size = 1, rounding = 0;
      for (uint32_t j = 0; j < (mixes ? a->positions : dims); j++) {
        const size_t q = (size_t)r * dims + j;
        const double product =
            mixes ? ((const float *)a->terms.at)[(size_t)r * a->positions + j] * code_of(a, function, j, i)
                  : ((const int8_t *)a->queries.at)[q] * (double)((const float *)a->query_scales.at)[q / MB_KV_BLOCK] *
                        code_of(a, function, i, j);
        sum += product;
        size += fabs(product);
        if (mixes && j % MB_KV_TILE == 0) rounding += rounding_of(a, function, r, j, i / MB_KV_BLOCK);
      }
      const float got = out[r * stride + i];
      check(fabs(got - sum) <= 1e-6 * size + rounding, "scalar %s: row %u, %u: %g for %g", grouped_functions[function],
            r, i, got, sum);
    }
}

/* A scale that is not a number, or infinite, at a position: what sees it is not finite, and what does not see it stays
 * as it was. */
static void test_broken_scale(const mb_kernels *k, const attention_groups *a, const guarded all[GROUPED_FUNCTIONS],
                              size_t scores_stride) {
  static const uint16_t broken[] = {0x7e00, 0xfe00, 0x7c00};
  const uint32_t dims = a->blocks * MB_KV_BLOCK, at = random_below(a->positions);
  const float *terms = a->terms.at;
  guarded got = guarded_new((size_t)a->rows * (dims > a->positions + 5 ? dims : a->positions + 5) * 4);
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    const size_t place = mb_kv_scale_at(a->blocks, at, a->blocks - 1);
    uint16_t *const scales[2] = {a->scales[0].at, a->scales[1].at}, kept[2] = {scales[0][place], scales[1][place]};
    float *out = got.at;
    bool ok = true;
    scales[0][place] = scales[1][place] = broken[i];
    for (int function = 0; function < GROUPED_FUNCTIONS; function++) {
      const float *whole = all[function].at;
      const bool mixes = is_mix(function);
      const size_t stride = mixes ? dims : scores_stride;
      for (size_t j = 0; j < a->rows * stride; j++) out[j] = 1;
      attend_groups(k, a, function, out, stride);
      for (uint32_t r = 0; r < a->rows; r++)
        for (uint32_t d = 0; d < (mixes ? dims : a->positions); d++)
          ok = ok && ((mixes ? d / MB_KV_BLOCK + 1 == a->blocks && terms[(size_t)r * a->positions + at] != 0 : d == at)
                          ? !isfinite(out[r * stride + d])
                          : out[r * stride + d] == whole[r * stride + d]);
    }
    check(ok, "%s grouped attention to a broken scale: rows %u blocks %u positions %u", k->name, a->rows, a->blocks,
          a->positions);
    for (int j = 0; j < 2; j++) scales[j][place] = kept[j];
  }
  guarded_free(&got);
}

static void test_attention_groups(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint32_t positions[] = {16, 48, 64, 80, 144, 608};
  static const uint32_t rows[] = {1, 2, 3, 4, 5, 6, 7, 15, 33};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (uint32_t blocks = 1; blocks <= 4; blocks++)
      for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
        if (positions[p] > 144 && rows[i] % 3 != 0 && blocks != 3) continue;
        attention_groups a = attention_groups_new(rows[i], blocks, positions[p]);
        guarded all[GROUPED_FUNCTIONS];
        for (int function = 0; function < GROUPED_FUNCTIONS; function++) {
          const bool mixes = is_mix(function);
          const size_t stride = mixes ? blocks * MB_KV_BLOCK : positions[p] + 5;
          const size_t n = (rows[i] - 1) * stride + (mixes ? stride : positions[p]);
          guarded got = guarded_new(n * 4);
          all[function] = guarded_new(n * 4);
          float *values = all[function].at;
          for (size_t j = 0; j < n; j++) values[j] = 1;
          attend_groups(scalar, &a, function, values, stride);
          if (positions[p] < 100) check_attention_groups(&a, function, values, stride);
          for (int t = 0; tables[t] != NULL; t++) {
            values = got.at;
            for (size_t j = 0; j < n; j++) values[j] = 1;
            attend_groups(tables[t], &a, function, values, stride);
            check(memcmp(got.at, all[function].at, n * 4) == 0, "%s %s: rows %u blocks %u positions %u",
                  tables[t]->name, grouped_functions[function], rows[i], blocks, positions[p]);
          }
          guarded_free(&got);
        }
        for (int t = 0; tables[t] != NULL && positions[p] < 100; t++)
          test_broken_scale(tables[t], &a, all, positions[p] + 5);
        for (int function = 0; function < GROUPED_FUNCTIONS; function++) guarded_free(&all[function]);
        attention_groups_free(&a);
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

/* Some blocks' codes, as a table makes them; those of 4 bits have no sums. */
typedef struct {
  int8_t codes[3 * MB_KV_BLOCK];
  float scales[3];
  int32_t sums[3];
} coded_blocks;

static coded_blocks code_blocks(const mb_kernels *k, int bits, const float *v, uint32_t blocks) {
  coded_blocks to;
  memset(&to, 0, sizeof to);
  if (bits == 8) k->kv_codes_8(v, blocks, to.codes, to.scales, to.sums);
  for (uint32_t b = 0; b < blocks && bits == 4; b++)
    to.scales[b] = k->kv_codes_4(v + b * MB_KV_BLOCK, to.codes + b * MB_KV_BLOCK);
  for (uint32_t b = 0; b < blocks; b++)
    if (isnan(to.scales[b])) to.scales[b] = -1; /* whichever NaN it is */
  return to;
}

static void test_kv_codes(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const float special[] = {0, INFINITY, -INFINITY, NAN, 1e-31f, 1e30f};
  for (uint32_t round = 0; round < 400; round++) {
    const uint32_t blocks = 1 + round % 3;
    float v[3 * MB_KV_BLOCK], largest[3] = {0};
    for (uint32_t i = 0; i < blocks * MB_KV_BLOCK; i++)
      v[i] = round == 0 ? 0 : random_unit() * (round % 3 == 0 ? 1e-3f : 40);
    if (round % 5 == 1) v[random_below(blocks * MB_KV_BLOCK)] = special[round / 5 % 6];
    for (uint32_t i = 0; i < blocks * MB_KV_BLOCK; i++)
      largest[i / MB_KV_BLOCK] = fabsf(v[i]) > largest[i / MB_KV_BLOCK] ? fabsf(v[i]) : largest[i / MB_KV_BLOCK];
    for (int bits = 4; bits <= 8; bits += 4) {
      const coded_blocks coded = code_blocks(scalar, bits, v, blocks);
      int32_t sums[3] = {0};
      for (uint32_t i = 0; i < blocks * MB_KV_BLOCK; i++) {
        const float scale = coded.scales[i / MB_KV_BLOCK];
        sums[i / MB_KV_BLOCK] += bits == 8 ? coded.codes[i] : 0;
        check(scale == -1 || fabsf(coded.codes[i] * scale - v[i]) <= largest[i / MB_KV_BLOCK] / (bits == 4 ? 6 : 250),
              "scalar code of %d bits: %d * %g is not %g", bits, coded.codes[i], scale, v[i]);
      }
      check(memcmp(sums, coded.sums, sizeof sums) == 0, "scalar sums of codes of %d bits", bits);
      for (int t = 0; tables[t] != NULL; t++) {
        const coded_blocks got = code_blocks(tables[t], bits, v, blocks);
        check(memcmp(&got, &coded, sizeof got) == 0, "%s codes of %d bits", tables[t]->name, bits);
      }
    }
  }
}

/* What coarsen makes of whole groups is what turn and kv_codes_4 make of every vector. */
static void test_coarsen(const mb_kernels *scalar, const mb_kernels *const *tables) {
  static const uint16_t special[] = {0, 1, 0x7bff, 0x7c00, 0x7e00}; /* the smallest, the largest, infinity, NaN */
  for (uint32_t round = 0; round < 60; round++) {
    const uint32_t blocks = 1 + round % 3, positions = MB_KV_GROUP * (1 + round % 2), all = positions * blocks;
    const bool keys = round / 6 % 2 == 0;
    guarded fine = guarded_new(all * MB_KV_BLOCK), fine_scales = guarded_new(all * 2);
    guarded codes = guarded_new(all * MB_KV_BLOCK / 2), scales = guarded_new(all * 2);
    for (uint32_t i = 0; i < all * MB_KV_BLOCK; i++)
      ((int8_t *)fine.at)[i] = (int8_t)(round == 0 ? 0 : round % 5 == 1 ? 127 : random_kv_code());
    for (uint32_t i = 0; i < all; i++)
      ((uint16_t *)fine_scales.at)[i] = i % 7 == 3 ? special[i / 7 % 5] : mb_f32_to_f16((1.5f + random_unit()) / 127);
    for (uint32_t p = 0; p < positions; p++)
      for (uint32_t b = 0; b < blocks; b++) {
        const uint8_t *from = (const uint8_t *)fine.at + mb_kv_block_at(blocks, p, b) * mb_kv_block_bytes(false);
        uint8_t *to = (uint8_t *)codes.at + mb_kv_block_at(blocks, p, b) * mb_kv_block_bytes(true);
        const float scale = mb_f16_to_f32(((uint16_t *)fine_scales.at)[mb_kv_scale_at(blocks, p, b)]);
        float v[MB_KV_BLOCK];
        int8_t coarse[MB_KV_BLOCK];
        for (uint32_t d = 0; d < MB_KV_BLOCK; d++) {
          const mb_kv_place place = keys ? mb_kv_key(false, p, d) : mb_kv_value(false, p, d);
          v[d] = (float)mb_kv_code(false, from, place) * scale;
        }
        scalar->turn(v, 1);
        ((uint16_t *)scales.at)[mb_kv_scale_at(blocks, p, b)] = mb_f32_to_f16(scalar->kv_codes_4(v, coarse));
        for (uint32_t d = 0; d < MB_KV_BLOCK; d++) {
          const mb_kv_place place = keys ? mb_kv_key(true, p, d) : mb_kv_value(true, p, d);
          to[place.byte] |= (uint8_t)((coarse[d] + MB_INT4_ZERO) << place.shift);
        }
      }
    for (int t = -1; t < 0 || tables[t] != NULL; t++) {
      const mb_kernels *k = t < 0 ? scalar : tables[t];
      guarded got = guarded_new(all * MB_KV_BLOCK / 2), got_scales = guarded_new(all * 2);
      const mb_kv_groups groups = {fine.at, fine_scales.at, blocks, positions};
      k->coarsen(&groups, keys, got.at, got_scales.at);
      check(memcmp(got.at, codes.at, codes.bytes) == 0 && memcmp(got_scales.at, scales.at, scales.bytes) == 0,
            "%s coarsen of %u %s of %u blocks", k->name, positions, keys ? "keys" : "values", blocks);
      guarded_free(&got);
      guarded_free(&got_scales);
    }
    guarded_free(&fine);
    guarded_free(&fine_scales);
    guarded_free(&codes);
    guarded_free(&scales);
  }
}

/* A Hadamard matrix has the sign of the parity of the bits that row and column share. */
static void test_turn(const mb_kernels *scalar, const mb_kernels *const *tables) {
  for (uint32_t blocks = 0; blocks < 6; blocks++) {
    const uint32_t n = blocks * MB_KV_BLOCK;
    guarded in = guarded_new(n * 4), a = guarded_new(n * 4), b = guarded_new(n * 4);
    float *values = in.at, *turned = a.at;
    for (uint32_t i = 0; i < n; i++) values[i] = turned[i] = random_unit() * 50;
    scalar->turn(turned, blocks);
    for (uint32_t i = 0; i < n; i++) {
      double sum = 0;
      for (uint32_t j = 0; j < MB_KV_BLOCK; j++)
        sum += (__builtin_parity(i % MB_KV_BLOCK & j) ? -1 : 1) * (double)values[i / MB_KV_BLOCK * MB_KV_BLOCK + j];
      check(fabs(turned[i] - sum / sqrt(MB_KV_BLOCK)) <= 1e-4, "scalar turn of %u blocks: %g for %g", blocks, turned[i],
            sum / sqrt(MB_KV_BLOCK));
    }
    for (int t = 0; tables[t] != NULL; t++) {
      memcpy(b.at, in.at, n * 4);
      tables[t]->turn(b.at, blocks);
      check(memcmp(a.at, b.at, n * 4) == 0, "%s turn of %u blocks", tables[t]->name, blocks);
    }
    guarded_free(&in);
    guarded_free(&a);
    guarded_free(&b);
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
