/* The NEON table, aarch64 without dot products and armv7: multiply-accumulate into 16 bits. */
#include "kernels/coarsen-impl.h"
#include "kernels/kv_codes-impl.h"
#include "kernels/neon_common.h"
#include "kernels/neon_functions-impl.h"
#include "kernels/tables.h"
#include "kernels/turn-impl.h"

/* Four rows x four columns side by side in 16 bits; a step adds one product to each. */
typedef struct {
  int16x8_t low, high;
} quad;
typedef struct {
  int32x4_t low, high; /* pairs of columns: rows 0, 1 and rows 2, 3 */
} quad_sums;

/* A power of two times 127 * largest below 2^15: whole blocks of columns and whole groups. */
#define STEPS(largest)      \
  ((largest) == 2    ? 128u \
   : (largest) == 3  ? 64u  \
   : (largest) == 7  ? 32u  \
   : (largest) == 15 ? 16u  \
   : (largest) == 31 ? 8u   \
   : (largest) == 63 ? 4u   \
                     : 2u)

/* armv7 has half the registers. */
#if defined(__aarch64__)
#define PANEL_QUADS 2
#else
#define PANEL_QUADS 1
#endif

MB_INLINE quad quad_zero(void) { return (quad){vdupq_n_s16(0), vdupq_n_s16(0)}; }

MB_INLINE quad quad_dot(quad s, int8x16_t codes, int8x16_t x) {
#if defined(__aarch64__)
  return (quad){vmlal_s8(s.low, vget_low_s8(codes), vget_low_s8(x)), vmlal_high_s8(s.high, codes, x)};
#else
  return (quad){vmlal_s8(s.low, vget_low_s8(codes), vget_low_s8(x)),
                vmlal_s8(s.high, vget_high_s8(codes), vget_high_s8(x))};
#endif
}

typedef struct {
  int8x16_t four[4];
} columns_16;

MB_INLINE columns_16 columns_load(const int8_t *x) {
#if defined(__aarch64__)
  int32_t fours[4];
  memcpy(fours, x, sizeof fours);
  const int32x4x4_t all = vld4q_dup_s32(fours); /* one instruction */
  return (columns_16){{vreinterpretq_s8_s32(all.val[0]), vreinterpretq_s8_s32(all.val[1]),
                       vreinterpretq_s8_s32(all.val[2]), vreinterpretq_s8_s32(all.val[3])}};
#else
  return (columns_16){{broadcast_4(x), broadcast_4(x + 4), broadcast_4(x + 8), broadcast_4(x + 12)}};
#endif
}

MB_INLINE quad quad_dot_lane(quad s, int8x16_t codes, columns_16 x, int lane) {
  return quad_dot(s, codes, x.four[lane]);
}

MB_INLINE void quad_dot_panel(quad s[4], int8x16_t codes, int8x16_t x) {
  const int32x2_t low = vget_low_s32(vreinterpretq_s32_s8(x)), high = vget_high_s32(vreinterpretq_s32_s8(x));
  s[0] = quad_dot(s[0], codes, vreinterpretq_s8_s32(vdupq_lane_s32(low, 0)));
  s[1] = quad_dot(s[1], codes, vreinterpretq_s8_s32(vdupq_lane_s32(low, 1)));
  s[2] = quad_dot(s[2], codes, vreinterpretq_s8_s32(vdupq_lane_s32(high, 0)));
  s[3] = quad_dot(s[3], codes, vreinterpretq_s8_s32(vdupq_lane_s32(high, 1)));
}

MB_INLINE quad_sums quad_sums_zero(void) { return (quad_sums){vdupq_n_s32(0), vdupq_n_s32(0)}; }

MB_INLINE quad_sums quad_add(quad_sums sums, quad s) {
  return (quad_sums){vpadalq_s16(sums.low, s.low), vpadalq_s16(sums.high, s.high)};
}

MB_INLINE int32x4_t quad_rows(quad_sums sums) { return pairwise_add(sums.low, sums.high); }

#include "kernels/neon_attention-impl.h"
#include "kernels/neon_groups-impl.h"
#include "kernels/neon_multiply-impl.h"

const mb_kernels mb_neon_kernels = MB_KERNEL_TABLE("neon", multiply);
