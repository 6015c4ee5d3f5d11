/* The NEON table with dot products (sdot, Armv8.2 on): what they speed up; the rest is as in neon.c. */
#include "kernels/coarsen-impl.h"
#include "kernels/kv_codes-impl.h"
#include "kernels/neon_common.h"
#include "kernels/neon_functions-impl.h"
#include "kernels/tables.h"
#include "kernels/turn-impl.h"

typedef int32x4_t quad; /* sums of four columns, one row per lane */
typedef int32x4_t quad_sums;

#define STEPS(largest) ((void)(largest), (uint32_t)1 << 20) /* 32-bit sums hold all the columns there can be */
#define PANEL_QUADS 4

MB_INLINE quad quad_zero(void) { return vdupq_n_s32(0); }
MB_INLINE quad quad_dot(quad s, int8x16_t codes, int8x16_t x) { return vdotq_s32(s, codes, x); }

typedef int8x16_t columns_16;

MB_INLINE columns_16 columns_load(const int8_t *x) { return vld1q_s8(x); }

MB_INLINE quad quad_dot_lane(quad s, int8x16_t codes, columns_16 x, int lane) {
  switch (lane) { /* a constant once inlined: the instruction takes no other */
    case 0:
      return vdotq_laneq_s32(s, codes, x, 0);
    case 1:
      return vdotq_laneq_s32(s, codes, x, 1);
    case 2:
      return vdotq_laneq_s32(s, codes, x, 2);
    default:
      return vdotq_laneq_s32(s, codes, x, 3);
  }
}

MB_INLINE void quad_dot_panel(quad s[4], int8x16_t codes, int8x16_t x) {
  s[0] = vdotq_laneq_s32(s[0], codes, x, 0);
  s[1] = vdotq_laneq_s32(s[1], codes, x, 1);
  s[2] = vdotq_laneq_s32(s[2], codes, x, 2);
  s[3] = vdotq_laneq_s32(s[3], codes, x, 3);
}
MB_INLINE quad_sums quad_sums_zero(void) { return vdupq_n_s32(0); }
MB_INLINE quad_sums quad_add(quad_sums sums, quad s) { return vaddq_s32(sums, s); }
MB_INLINE int32x4_t quad_rows(quad_sums sums) { return sums; }

#include "kernels/neon_attention-impl.h"
#include "kernels/neon_groups-impl.h"
#include "kernels/neon_multiply-impl.h"

const mb_kernels mb_neon_dotprod_kernels = MB_KERNEL_TABLE("neon_dotprod", multiply);
